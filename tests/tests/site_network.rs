//! A host comes up by the network that its site file describes: a fixed
//! address, a VLAN, an LACP bond, a VLAN on a bond; its guests leave by a VLAN of
//! their own. The switch is a real one's
//! likeness in user space, networkd and the kernel are the appliance's own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Host, Lease};
use surplus_tests::guest::answer;
use surplus_tests::machine::Builder;
use surplus_tests::marketplace::free_port;
use surplus_tests::network::trunk::{Forwarded, GuestsVlan, Settings};
use surplus_tests::rental::Order;
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, StageLine, Trunk};

const BOOT: Duration = Duration::from_secs(120);
const COMMAND: Duration = Duration::from_secs(60);
const GUEST: Duration = Duration::from_secs(240);
/// Until a lost link is noticed, worked around and told.
const FAIL_OVER: Duration = Duration::from_secs(90);

/// An ISO that joins by a site file with this `[network]`.
fn iso(marketplace: &Marketplace<'_>, network: &str) -> Result<PathBuf> {
    let token = marketplace.token("host", 1)?;
    let site = marketplace.site_file(&token)?;
    marketplace.customised_iso("host", &format!("{site}\n[network]\n{network}\n"))
}

fn host<'a>(lab: &'a Lab, trunk: &'a Trunk, iso: PathBuf) -> Builder<'a> {
    let machine = lab.machine("host").medium(Medium::Cd, iso).on_trunk(trunk);
    machine.without_virtualisation().memory_mib(512)
}

/// What the host says of its network when it is up.
fn network(machine: &mut Machine) -> Result<(String, String)> {
    let stage = machine.wait_for_stage("network", BOOT)?;
    let field = |key| -> Result<String> {
        let value = stage.field(key);
        Ok(value
            .with_context(|| format!("no {key} in {stage:?}"))?
            .to_owned())
    };
    Ok((field("interface")?, field("address")?))
}

/// The host's own account of its cards, once the marketplace has it.
fn inventory(operator: &Client<'_>, until: impl Fn(&Host) -> bool) -> Result<Host> {
    operator.wait_until(
        &["hosts"],
        "host whose cards are as they should be",
        FAIL_OVER,
        |hosts: Vec<Host>| hosts.into_iter().find(&until),
    )
}

/// Link by link, as the marketplace knows it.
fn links(host: &Host) -> Vec<bool> {
    let nics = host.inventory.iter().flat_map(|inventory| &inventory.nics);
    nics.map(|nic| nic.link).collect()
}

#[test]
fn a_fixed_address_needs_no_dhcp_and_leads_out_by_its_gateway() -> Result<()> {
    surplus_tests::test("network-fixed", |lab| {
        let marketplace = Marketplace::start(lab)?;
        // The marketplace is outside the address's network.
        let settings = Settings {
            dhcp: false,
            router: Some(Ipv4Addr::new(10, 0, 2, 9)),
            ..Settings::default()
        };
        let trunk = Trunk::start(lab, settings)?;
        let iso = iso(
            &marketplace,
            "interface = \"enp0s2\"\naddress = \"10.0.2.10/29\"\ngateway = \"10.0.2.9\"\ndns = [\"10.0.2.3\"]",
        )?;
        let mut machine = host(lab, &trunk, iso).start()?;
        let up = network(&mut machine)?;
        ensure!(
            up == ("enp0s2".to_owned(), "10.0.2.10".to_owned()),
            "{up:?}"
        );
        machine.wait_for_stage("enrolled", BOOT).map(drop)
    })
}

#[test]
fn a_vlan_is_waited_for_with_its_name_and_nothing_goes_untagged() -> Result<()> {
    surplus_tests::test("network-vlan", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let settings = Settings {
            vlan: Some(8),
            ..Settings::default()
        };
        let trunk = Trunk::start(lab, settings)?;
        let iso = iso(&marketplace, "vlan = 7")?;
        let mut machine = host(lab, &trunk, iso).start()?;
        machine.allow_errors();
        let waits = complaint(&mut machine, "no DHCP server answers")?;
        ensure!(
            waits.field("cards") == Some("enp0s2.7"),
            "not what is waited for: {waits:?}"
        );
        let untagged = trunk.seen().untagged;

        trunk.set_vlan(Some(7));
        machine.mark();
        let (interface, _) = network(&mut machine)?;
        ensure!(interface == "enp0s2.7", "up on {interface}");
        machine.wait_for_stage("enrolled", BOOT)?;
        let later = trunk.seen().untagged;
        ensure!(
            later == untagged,
            "{untagged} untagged frames became {later}"
        );
        Ok(())
    })
}

/// The guests' VLAN, and the host's address there.
const GUESTS_VLAN: u16 = 40;
const GUESTS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);
/// The one that the DHCP server there gives to the first who asks after the host itself.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 16);
/// Of the host's ports, the one that the first port of the guest in the second seat is
/// reached by: the first seat has an address of its own.
const SECOND_SEATS_PORT: u16 = 16_384 + 16;

#[test]
fn guests_with_a_vlan_of_their_own_are_reached_there() -> Result<()> {
    surplus_tests::test("network-guests", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let (here, here_alone) = (free_port()?, free_port()?);
        let settings = Settings {
            guests: Some(GuestsVlan {
                vlan: GUESTS_VLAN,
                address: GUESTS_ADDRESS,
                forwards: [
                    Forwarded {
                        here,
                        address: GUESTS_ADDRESS,
                        port: SECOND_SEATS_PORT,
                    },
                    Forwarded {
                        here: here_alone,
                        address: OWN_ADDRESS,
                        port: 7,
                    },
                ],
            }),
            ..Settings::default()
        };
        let trunk = Trunk::start(lab, settings)?;
        let guests = format!(
            "[guests.network]\ninterface = \"enp0s2\"\nvlan = {GUESTS_VLAN}\n\
             address = \"{GUESTS_ADDRESS}/24\"\ngateway = \"10.0.2.2\"\n\
             [guests]\naddresses = 1"
        );
        let machine = lab
            .machine("host")
            .on_trunk(&trunk)
            .memory_mib(2048)
            .cpus(3);
        let machine = machine.medium(Medium::Cd, iso(&marketplace, &guests)?);
        let mut machine = machine.start()?;
        machine.wait_for_stage("offering", BOOT)?;

        let buyer = marketplace.buyer("buyer")?;
        let image = lab.guest_image("qcow2")?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        // The one has a port of the host's, the other an address of its own.
        let web = Order {
            more: &["--port", "7"],
            ..Order::hello("web")
        };
        let alone = Order {
            more: &["--address"],
            ..Order::hello("alone")
        };
        web.place(&buyer)?;
        alone.start(&buyer)?;
        let greets = |text: &str| text.contains("guest: ready");
        for name in ["web", "alone"] {
            buyer.wait_for_console(name, "guest: ready", GUEST, greets)?;
        }
        let lease: Lease = buyer.ask(&["leases", "web"])?;
        let forwards = lease.forwards.iter().map(|it| (it.address, it.host_port));
        let forwards: Vec<_> = forwards.collect();
        let expected = [(GUESTS_ADDRESS, SECOND_SEATS_PORT)];
        ensure!(forwards == expected, "{forwards:?}");
        let lease: Lease = buyer.ask(&["leases", "alone"])?;
        let addresses = &lease.addresses;
        ensure!(
            addresses.contains(&OWN_ADDRESS.to_string()),
            "{addresses:?}"
        );
        let before = trunk.seen().guests;
        let said = answer(here, GUEST)?;
        ensure!(said.contains("guest: hello over TCP"), "{said:?}");
        let said = answer(here_alone, GUEST)?;
        ensure!(said.contains("guest: hello over TCP"), "{said:?}");
        let after = trunk.seen().guests;
        ensure!(after > before, "{before} frames in the VLAN became {after}");
        Ok(())
    })
}

#[test]
fn an_lacp_bond_uses_both_links_and_outlives_either() -> Result<()> {
    surplus_tests::test("network-bond", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let operator = marketplace.operator()?;
        let settings = Settings {
            links: 2,
            lacp: true,
            ..Settings::default()
        };
        let trunk = Trunk::start(lab, settings)?;
        let bond = format!(
            "[network.bond]\nmode = \"802.3ad\"\ninterfaces = [\"{}\", \"{}\"]",
            trunk.mac(0),
            trunk.mac(1)
        );
        let mut machine = host(lab, &trunk, iso(&marketplace, &bond)?).start()?;
        let (interface, _) = network(&mut machine)?;
        ensure!(interface == "bond0", "up on {interface}");
        machine.wait_for_stage("enrolled", BOOT)?;
        both_bundled(&trunk)?;
        inventory(&operator, |host| links(host) == [true, true])?;
        let carried = trunk.carried();
        let used = carried.iter().all(|link| link.to_host > 0);
        ensure!(used, "only one link is used: {carried:?}");

        // Noticed by the card, and told over the other link.
        machine.set_link_of(0, false)?;
        trunk.set_link(0, false);
        inventory(&operator, |host| links(host) == [false, true])?;
        machine.set_link_of(0, true)?;
        trunk.set_link(0, true);
        inventory(&operator, |host| links(host) == [true, true])?;
        both_bundled(&trunk)
    })
}

#[test]
fn a_vlan_on_a_bond_is_one_network_and_a_silent_link_is_left() -> Result<()> {
    surplus_tests::test("network-vlan-bond", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let operator = marketplace.operator()?;
        let settings = Settings {
            links: 2,
            lacp: true,
            vlan: Some(7),
            ..Settings::default()
        };
        let trunk = Trunk::start(lab, settings)?;
        let iso = iso(
            &marketplace,
            "vlan = 7\nmtu = 9000\n[network.bond]\nmode = \"802.3ad\"\ninterfaces = [\"enp0s3\", \"enp0s2\"]\n\
             [guests.network]\nvlan = 40",
        )?;
        let mut machine = host(lab, &trunk, iso).shell().start()?;
        machine.allow_errors();
        let (interface, _) = network(&mut machine)?;
        ensure!(interface == "bond0.7", "up on {interface}");
        machine.wait_for_stage("enrolled", BOOT)?;
        both_bundled(&trunk)?;
        inventory(&operator, |host| {
            let all = host.inventory.iter().flat_map(|inventory| &inventory.nics);
            let reached: Vec<_> = all.map(|nic| nic.addresses.join(" ")).collect();
            reached.len() == 2 && reached.iter().all(|each| each.contains("10.0.2.15/"))
        })?;

        machine.shell()?.wait_ready(BOOT)?;
        let of = |what: &str| format!("cat /sys/class/net/{what}");
        let address = machine.shell()?.run(&of("bond0/address"), COMMAND)?;
        ensure!(address == trunk.mac(1), "the bond's address is {address}");
        let mtu = machine.shell()?.run(&of("bond0.7/mtu"), COMMAND)?;
        ensure!(mtu == "9000", "the VLAN's MTU is {mtu}");
        guests_have_no_way_out(&mut machine, &operator)?;

        // Neither end is told. A conversation keeps to one link, so one of the
        // two is the one that matters.
        for link in [0, 1] {
            trunk.set_link(link, false);
            // One after the other: what goes out before the silence is noticed is
            // lost, and this `ping` sends no more than it waits for.
            let ping = "(i=0; until ping -c 1 -W 2 10.0.2.2 > /dev/null; do \
                        i=$((i+1)); [ $i -lt 20 ] || exit 1; done)";
            let heard = machine.shell()?.run(ping, COMMAND);
            heard.with_context(|| format!("link {link} is silent"))?;
            trunk.set_link(link, true);
            both_bundled(&trunk)?;
        }
        Ok(())
    })
}

/// The switch does not know the guests' VLAN: the host says so, and holds them.
fn guests_have_no_way_out(machine: &mut Machine, operator: &Client<'_>) -> Result<()> {
    let host = inventory(operator, |host| host.capacity.is_some())?;
    let withheld = host.capacity.and_then(|capacity| capacity.withheld);
    let withheld = withheld.context("the host offers something")?;
    let reason = "guests have no way out: no DHCP server answers on bond0.40";
    ensure!(withheld.contains(reason), "{withheld}");
    complaint(machine, reason)?;
    let groups = "cat /sys/class/net/bond0.40/netdev_group /sys/class/net/bond0.7/netdev_group \
                  /sys/class/net/bond0/netdev_group";
    let groups = machine.shell()?.run(groups, COMMAND)?;
    ensure!(groups.split_whitespace().eq(["122", "0", "0"]), "{groups}");
    let rules = machine.shell()?.run("ip rule; ip -6 rule", COMMAND)?;
    let marked = rules.lines().filter(|rule| rule.contains("fwmark 0x79"));
    let ends = marked.filter(|rule| rule.ends_with("unreachable")).count();
    ensure!(ends == 2, "{rules}");
    Ok(())
}

/// Waits until both links are one bundle. Frames to the host then take turns.
fn both_bundled(trunk: &Trunk) -> Result<()> {
    trunk.wait_until("bundle of both links", FAIL_OVER, |trunk| {
        let bundles = trunk.bundles();
        bundles[0].is_some() && bundles[0] == bundles[1]
    })
}

/// The first failure whose error contains `text`.
fn complaint(machine: &mut Machine, text: &str) -> Result<StageLine> {
    machine.wait_until(&format!("the failure {text:?}"), BOOT, |line| {
        StageLine::parse(line).filter(|stage| stage.error().is_some_and(|e| e.contains(text)))
    })
}
