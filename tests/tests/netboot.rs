//! Hosts boot over the network, by every way in, beside a DHCP server that
//! knows nothing of booting, and enrol with nobody at the keyboard.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Host, HostState};
use surplus_tests::machine::Builder;
use surplus_tests::network::dhcp::Dhcp;
use surplus_tests::network::{Port, Station};
use surplus_tests::secure_boot::{CHECKED, SecureBoot};
use surplus_tests::{
    BootServer, Firmware, Kernel, Lab, Machine, Marketplace, Network, Nic, Plug, SignedServer,
    is_full,
};

/// One host by itself.
const ENROLLED: Duration = Duration::from_secs(180);
/// Eight of them together, on two cores that emulate all of it.
const RACK: Duration = Duration::from_secs(480);

/// How a machine's firmware goes about network boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A PXE ROM that is iPXE already, as in QEMU's NICs.
    RomBios,
    /// Another vendor's PXE ROM, which is given undionly.kpxe.
    Undionly,
    /// UEFI's own PXE, which is given snponly.efi.
    UefiPxe,
    /// UEFI's own HTTP boot, which is given surplus.efi.
    HttpBoot,
}

impl Way {
    fn machine<'a>(
        self,
        lab: &'a Lab,
        switch: &'a Station<'a>,
        name: &str,
        port: Port,
    ) -> Result<Builder<'a>> {
        let rom = Nic::Plugged(Plug {
            port: port.clone(),
            rom: true,
            link: true,
        });
        let machine = lab.machine(name);
        Ok(match self {
            Self::RomBios => machine.plugged(switch, [rom]),
            Self::Undionly => machine.plugged(switch, [port]).kernel(foreign_rom(lab)?),
            Self::UefiPxe => machine.firmware(Firmware::Uefi).plugged(switch, [port]),
            Self::HttpBoot => machine.http_boot().plugged(switch, [port]),
        })
    }
}

/// QEMU has no PXE ROM but iPXE. This one is iPXE too, but says that it is
/// something else, asks once and starts what it is told to, as others do.
fn foreign_rom(lab: &Lab) -> Result<Kernel> {
    let script = lab.scratch().join("foreign-rom.ipxe");
    fs::write(&script, "#!ipxe\nset user-class ROM\nautoboot net0\n")?;
    Ok(Kernel {
        image: lab.tools().path("/usr/lib/ipxe/ipxe.lkrn"),
        initrd: script,
        command_line: String::new(),
    })
}

/// What the host calls itself once it has enrolled.
fn enrolled(machine: &mut Machine, within: Duration) -> Result<String> {
    let stage = machine.wait_for_stage("enrolled", within)?;
    let host = stage.field("host");
    Ok(host.context("the stage line names no host")?.to_owned())
}

/// A site file that lets in this many hosts.
fn site(marketplace: &Marketplace, hosts: u32) -> Result<String> {
    let token = marketplace.token("rack", hosts)?;
    marketplace.site_file(&token)
}

/// The fast one: a single host in 512 MiB, without a token. An operator lets it
/// in by its MAC address; when it boots again, with another key, an open window
/// does, and it is the same host.
#[test]
fn a_host_boots_in_512_mib_is_approved_and_is_the_same_host_when_it_boots_again() -> Result<()> {
    surplus_tests::test("netboot-again", |lab| {
        let network = Network::new(lab)?;
        let _dhcp = Dhcp::start(&network)?;
        let marketplace = Marketplace::start_in(network.switch())?;
        let operator = marketplace.operator()?;
        let site = operator.run(&["site-file", "--site", "lab", "--rack", "a", "-o", "-"])?;
        let _server = BootServer::start(network.switch(), &site)?;
        let mut machine = Way::RomBios
            .machine(lab, network.switch(), "host", network.port()?)?
            .memory_mib(512)
            .without_virtualisation()
            .reboots()
            .start()?;
        let waiting = operator.wait_until(
            &["hosts", "--pending"],
            "host that waits for an approval",
            ENROLLED,
            |hosts: Vec<Host>| hosts.into_iter().next(),
        )?;
        ensure!(
            waiting.state == HostState::Pending && waiting.rack == "a" && waiting.memory_bytes > 0,
            "it waits with too few facts: {waiting:?}"
        );
        operator.run(&["hosts", "approve", "--mac-prefix", "52:54:00:77", "--yes"])?;
        let first = enrolled(&mut machine, ENROLLED)?;
        ensure!(
            first == waiting.id.to_string(),
            "{waiting:?} became {first}"
        );

        operator.run(&["admit", "--from", "10.77.0.0/24", "--for", "30m"])?;
        machine.mark();
        machine.reset()?;
        let second = enrolled(&mut machine, ENROLLED)?;
        ensure!(first == second, "{first} came back as {second}");
        let hosts: Vec<Host> = operator.ask(&["hosts"])?;
        ensure!(hosts.len() == 1, "one machine is {hosts:?}");
        Ok(())
    })
}

/// The DHCP server itself says where to boot from, as our settings have it;
/// the boot server is silent there.
fn boots_by_settings(
    name: &str,
    way: Way,
    start: impl for<'a> FnOnce(&Network<'a>) -> Result<Dhcp<'a>>,
) -> Result<()> {
    surplus_tests::test(name, |lab| {
        let network = Network::new(lab)?;
        let _dhcp = start(&network)?;
        let marketplace = Marketplace::start_in(network.switch())?;
        let site = site(&marketplace, 1)?;
        let _server = BootServer::start_without_dhcp(network.switch(), &site)?;
        let mut machine = way
            .machine(lab, network.switch(), "host", network.port()?)?
            .memory_mib(512)
            .without_virtualisation()
            .start()?;
        enrolled(&mut machine, ENROLLED).map(drop)
    })
}

#[test]
fn dnsmasq_with_our_settings_boots_a_host_by_uefi_pxe() -> Result<()> {
    boots_by_settings("netboot-dnsmasq", Way::UefiPxe, |network| {
        Dhcp::start_dnsmasq(network)
    })
}

#[test]
fn kea_with_our_settings_boots_a_host_by_uefi_http() -> Result<()> {
    boots_by_settings("netboot-kea", Way::HttpBoot, |network| {
        Dhcp::start_kea(network)
    })
}

/// The one of the rack whose firmware has Secure Boot on.
const SECURE: &str = "http-secure";

/// What a machine of the rack did.
struct Arrival {
    name: String,
    host: String,
    /// Since all were powered on. The host's own clock says little where many
    /// machines are emulated on few processors.
    seconds: f64,
    cpu_seconds: f64,
}

#[test]
fn a_rack_boots_by_every_way_at_once_and_enrols() -> Result<()> {
    surplus_tests::test("netboot-rack", |lab| {
        let network = Network::new(lab)?;
        let switch = network.switch();
        let _dhcp = Dhcp::start(&network)?;
        let marketplace = Marketplace::start_in(switch)?;
        let owner = SecureBoot::new(lab)?;
        // One of each way; in a full run (`--full`) all eight.
        let four = [
            ("rom-1", Way::RomBios, 384),
            ("undionly", Way::Undionly, 512),
            ("uefi-1", Way::UefiPxe, 512),
            (SECURE, Way::HttpBoot, 512),
        ];
        let more = [
            ("rom-2", Way::RomBios, 512),
            ("rom-3", Way::RomBios, 512),
            ("uefi-2", Way::UefiPxe, 512),
            ("http", Way::HttpBoot, 512),
        ];
        let more = if is_full() { &more[..] } else { &[] };
        let rack = [&four[..], more].concat();
        let size = u32::try_from(rack.len())?;
        let server = SignedServer::start(switch, &site(&marketplace, size)?, &owner)?;
        let mut machines = Vec::new();
        let begun = Instant::now();
        for &(name, way, memory) in &rack {
            let machine = way
                .machine(lab, switch, name, network.port()?)?
                .memory_mib(memory)
                .cpus(1)
                .without_virtualisation()
                .one_of_many();
            let machine = match name {
                SECURE => machine.secure_boot(owner.variables()).shell(),
                _ => machine,
            };
            machines.push((name, machine.start()?));
        }
        let arrivals = std::thread::scope(|scope| {
            let waiting: Vec<_> = machines
                .iter_mut()
                .map(|(name, machine)| scope.spawn(|| arrive(name, machine, begun)))
                .collect();
            let arrivals = waiting.into_iter().map(|waiting| match waiting.join() {
                Ok(arrival) => arrival,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            arrivals.collect::<Vec<_>>()
        });
        report(&arrivals, server.cpu_seconds());
        let arrivals = arrivals.into_iter().collect::<Result<Vec<_>>>()?;

        let ids: BTreeSet<_> = arrivals
            .iter()
            .map(|arrival| arrival.host.clone())
            .collect();
        let hosts: Vec<Host> = marketplace.operator()?.ask(&["hosts"])?;
        let registered: BTreeSet<_> = hosts.iter().map(|host| host.id.to_string()).collect();
        ensure!(ids.len() == rack.len() && ids == registered, "{hosts:?}");
        Ok(())
    })
}

/// Waits for one machine, and then switches it off: the others need the
/// processors, and what a host does once enrolled is no part of this.
fn arrive(name: &str, machine: &mut Machine, begun: Instant) -> Result<Arrival> {
    let host = enrolled(machine, RACK.saturating_sub(begun.elapsed()))?;
    let arrival = Arrival {
        name: name.to_owned(),
        host,
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: machine.cpu_seconds(),
    };
    if name == SECURE {
        machine.shell()?.wait_ready(ENROLLED)?;
        let log = machine.shell()?.run("dmesg", ENROLLED)?;
        ensure!(log.contains(CHECKED), "Secure Boot was not on");
    }
    machine.pull_the_plug();
    Ok(arrival)
}

fn report(arrivals: &[Result<Arrival>], server: f64) {
    println!("boot server: {server:.1} CPU seconds");
    println!("host         power-on → enrolled   CPU seconds");
    for arrival in arrivals.iter().flatten() {
        println!(
            "{:<12} {:>19.1} {:>13.1}",
            arrival.name, arrival.seconds, arrival.cpu_seconds
        );
    }
}
