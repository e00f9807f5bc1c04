//! Over the network, too, firmware with Secure Boot on starts what the owner
//! has signed, and nothing else: by UEFI's PXE and by its HTTP boot.

use std::time::Duration;

use anyhow::{Result, ensure};
use surplus_tests::machine::Builder;
use surplus_tests::netboot::signed::{LOADER, SYSTEM};
use surplus_tests::network::dhcp::Dhcp;
use surplus_tests::secure_boot::{
    CHECKED, SecureBoot, altered, nothing_has_run, refused, sign, stranger,
};
use surplus_tests::{Firmware, Machine, Marketplace, Network, SignedServer};

const ENROLLED: Duration = Duration::from_secs(180);
/// From the firmware on, or from iPXE's next attempt.
const ATTEMPT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(30);

/// What iPXE says when it fetches the system, and of one that the firmware will
/// not start.
const FETCHING: &str = "Secure Boot is on: fetching";
const SYSTEM_REFUSED: &str = "the firmware refused";

/// A machine on a port of its own whose firmware has Secure Boot on.
fn guarded<'a>(
    network: &'a Network<'a>,
    owner: &SecureBoot<'_>,
    name: &str,
) -> Result<Builder<'a>> {
    let switch = network.switch();
    let machine = switch.lab().machine(name).firmware(Firmware::Uefi);
    let machine = machine.plugged(switch, [network.port()?]);
    let machine = machine.memory_mib(512).without_virtualisation();
    Ok(machine.secure_boot(owner.variables()))
}

/// A site file that lets in one host.
fn site(marketplace: &Marketplace<'_>) -> Result<String> {
    marketplace.site_file(&marketplace.token("secure", 1)?)
}

/// iPXE says that the system that it fetches from now on was refused, and
/// nothing of that has run.
fn system_refused(machine: &mut Machine) -> Result<()> {
    machine.mark();
    let mut fetched = false;
    machine.wait_until("a refused system", ATTEMPT, |line| {
        fetched |= line.contains(FETCHING);
        (fetched && line.contains(SYSTEM_REFUSED)).then_some(())
    })?;
    nothing_has_run(machine)
}

/// Firmware starts no unsigned loader. A signed one starts the system only once
/// that is signed as well: one host waits for it, refusing all else.
#[test]
fn by_pxe_a_signed_loader_boots_the_signed_system_alone_and_waits_for_it() -> Result<()> {
    surplus_tests::test("secure-netboot-pxe", |lab| {
        let network = Network::new(lab)?;
        let _dhcp = Dhcp::start(&network)?;
        let owner = SecureBoot::new(lab)?;
        let marketplace = Marketplace::start_in(network.switch())?;
        let mut server = SignedServer::start_unsigned(network.switch(), &site(&marketplace)?)?;
        refused(&mut guarded(&network, &owner, "unsigned-loader")?.start()?)?;

        server.put(LOADER, &owner.sign(server.loader()?)?)?;
        server.restart()?;
        let mut machine = guarded(&network, &owner, "host")?.shell().start()?;
        system_refused(&mut machine)?;

        let system = server.system()?;
        server.put(SYSTEM, &sign(lab, system.clone(), &stranger(lab)?)?)?;
        server.restart()?;
        system_refused(&mut machine)?;

        let signed = owner.sign(system)?;
        server.put(SYSTEM, &altered(signed.clone(), ".initrd")?)?;
        system_refused(&mut machine)?;

        server.put(SYSTEM, &signed)?;
        server.restart()?;
        machine.wait_for_stage("enrolled", ENROLLED)?;
        let shell = machine.shell()?;
        shell.wait_ready(ENROLLED)?;
        let log = shell.run("dmesg", SOON)?;
        ensure!(log.contains(CHECKED), "Secure Boot was not on: {log}");
        Ok(())
    })
}

#[test]
fn by_http_what_is_unsigned_altered_or_signed_by_a_stranger_is_refused() -> Result<()> {
    surplus_tests::test("secure-netboot-http", |lab| {
        let network = Network::new(lab)?;
        let _dhcp = Dhcp::start(&network)?;
        let owner = SecureBoot::new(lab)?;
        let marketplace = Marketplace::start_in(network.switch())?;
        let mut server = SignedServer::start_unsigned(network.switch(), &site(&marketplace)?)?;
        let boot = |name: &str| guarded(&network, &owner, name)?.http_boot().start();
        refused(&mut boot("unsigned")?)?;

        let system = server.system()?;
        let signed = owner.sign(system.clone())?;
        let cases = [
            ("foreign", sign(lab, system, &stranger(lab)?)?),
            ("kernel", altered(signed.clone(), ".linux")?),
            ("initrd", altered(signed.clone(), ".initrd")?),
            ("cmdline", altered(signed.clone(), ".cmdline")?),
        ];
        server.put(SYSTEM, &signed)?;
        server.restart()?;
        for (name, image) in cases {
            server.put(SYSTEM, &image)?;
            refused(&mut boot(name)?)?;
        }
        server.put(SYSTEM, &signed)?;
        boot("signed")?.wait_for_stage("root", ATTEMPT)?;
        Ok(())
    })
}
