//! Guests with addresses of their own: all that comes there is for them, and what they
//! send leaves by it and by no other. No agent and no networkd runs here: what holds
//! guests is the filter and the kernel's routes.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{
    GuestsNetwork, Setup, WORLD, WORLD6, outside6, own4, own6, street4,
};
use surplus_tests::network::{Station, ipv4};

use crate::nothing_came_through;
use crate::scene::{AT_PORT, Ear, ME, Names, PORT, Place, VICTIM, attack, list, seat, tell};
use crate::way::{HEAR, HOLD, answers};

/// Who has none.
const PLAIN: u16 = 3;

/// A packet of one with an own address is held by either of these from leaving by any
/// other; from its neighbour's by the second as well.
const ROUTING: (&str, &str) = (
    "FirewallMark=377\nType=unreachable",
    "FirewallMark=9\nTable=9",
);
const OWNER: (&str, &str) = (
    "\t\tiifname \"surplus0\" oifgroup 123 oifname . meta mark != @owners drop\n",
    "",
);
/// As if somebody had mixed up two seats' tables.
const MIXED: (&str, &str) = (
    "FirewallMark=377\nTable=1001",
    "FirewallMark=377\nTable=1002",
);

fn with_addresses(lab: &Lab, way: bool, out: &[(&str, &str)]) -> Result<Setup> {
    let image = if way {
        Setup::of_the_image_with_a_way(lab)?
    } else {
        Setup::of_the_image(lab)?
    };
    image.with_own_addresses(2).with_all(out)
}

/// Who is on the network that guests leave by.
fn outside<'n, 'a>(network: &'n GuestsNetwork<'a>) -> &'n Station<'a> {
    network.street().unwrap_or_else(|| network.outside())
}

fn port() -> Result<u16> {
    PORT.parse().context("no port")
}

fn mac(host: &Station<'_>, interface: &str) -> Result<String> {
    let said = run(host.tool("ip").args(["-brief", "link", "show", interface]))?;
    let said = String::from_utf8(said)?;
    let mac = said.split_whitespace().nth(2);
    mac.map(str::to_owned).context("no MAC address")
}

#[test]
fn what_comes_to_an_own_address_is_for_its_guest_and_nobody_else() -> Result<()> {
    const OF_OTHERS: (&str, &str) = (
        "\t\tfib daddr . iif type != { local, broadcast, multicast } drop\n",
        "",
    );
    surplus_tests::test("own-in", |lab| {
        for way in [false, true] {
            told_to_own_addresses(lab, &with_addresses(lab, way, &[])?, false)
                .with_context(|| format!("by a network of their own: {way}"))?;
        }
        told_to_own_addresses(lab, &with_addresses(lab, false, &[OF_OTHERS])?, true)
    })
}

/// `confused`: also what comes by another's interface.
fn told_to_own_addresses(lab: &Lab, setup: &Setup, confused: bool) -> Result<()> {
    let seats = [seat(ME), seat(VICTIM)];
    let network = GuestsNetwork::new(lab, setup, &seats)?;
    let host = network.host();
    let (me, victim) = (network.guest_in(seats[0])?, network.guest_in(seats[1])?);
    let hear = |station, place| Ear::open(station, place, &["port", PORT], &["tell", AT_PORT]);
    let ears = [
        hear(me, Place::Sender)?,
        hear(victim, Place::Victim)?,
        hear(host, Place::Host)?,
    ];
    let (out, way) = (outside(&network), setup.way);
    tell(out, own4(way, seats[0]), port()?, "mine")?;
    tell(out, own6(way, seats[0]), port()?, "mine-6")?;
    tell(out, own4(way, seats[1]), port()?, "theirs")?;
    tell(out, own6(way, seats[1]), port()?, "theirs-6")?;
    let at_host = if way { street4(1) } else { ipv4(1) };
    tell(out, at_host, port()?, "the-hosts")?;
    // By its neighbour's interface, whoever answers for it.
    let neighbour = mac(host, &seats[0].own_interface())?;
    let address = own4(way, seats[1]).to_string();
    let mut ip = out.tool("ip");
    let to = ["neigh", "replace", &address, "lladdr", &neighbour];
    run(ip.args(to).args(["dev", "eth0"]))?;
    tell(out, own4(way, seats[1]), port()?, "theirs-by-mine")?;
    // From one guest to the other, where both are at home.
    tell(me, own4(way, seats[1]), port()?, "from-within")?;
    tell(me, own6(way, seats[1]), port()?, "from-within-6")?;
    let [mine, theirs, hosts] = ears.map(Ear::close);
    let (mine, theirs, hosts) = (mine?.1, theirs?.1, hosts?.1);
    let mut expected = list(&["mine", "mine-6"]);
    if confused {
        expected.insert("theirs-by-mine".to_owned());
    }
    ensure!(mine == expected, "{mine:?}");
    ensure!(theirs == list(&["theirs", "theirs-6"]), "{theirs:?}");
    ensure!(hosts.is_empty(), "the host heard {hosts:?}");
    Ok(())
}

/// What a guest hears of what comes to its own addresses at the ports of DHCP's clients.
fn told_to_the_ports_of_dhcp(lab: &Lab, setup: &Setup) -> Result<Names> {
    let network = GuestsNetwork::new(lab, setup, &[seat(ME)])?;
    let (me, out) = (network.guest_in(seat(ME))?, outside(&network));
    let mut heard = Names::new();
    for (to, port) in [
        (IpAddr::from(own4(setup.way, seat(ME))), 68),
        (own6(setup.way, seat(ME)).into(), 546),
    ] {
        let words = [port.to_string(), format!("127.0.0.1:{port}")];
        let ear = Ear::open(
            me,
            Place::Sender,
            &["port", &words[0]],
            &["tell", &words[1]],
        )?;
        tell(out, to, port, &format!("port-{port}"))?;
        heard.extend(ear.close()?.1);
    }
    Ok(heard)
}

#[test]
fn the_host_asks_for_own_addresses_itself_and_no_guest_hears_the_answers() -> Result<()> {
    const FOR_THE_HOST: (&str, &str) = ("\t\tudp dport { 68, 546 } accept\n\t\tip6", "\t\tip6");
    surplus_tests::test("own-dhcp", |lab| {
        let heard = told_to_the_ports_of_dhcp(lab, &with_addresses(lab, false, &[])?)?;
        ensure!(heard.is_empty(), "{heard:?}");
        let out = with_addresses(lab, false, &[FOR_THE_HOST])?;
        let heard = told_to_the_ports_of_dhcp(lab, &out)?;
        ensure!(heard == list(&["port-68", "port-546"]), "{heard:?}");
        Ok(())
    })
}

#[test]
fn the_host_begins_nothing_by_a_guests_own_address() -> Result<()> {
    surplus_tests::test("own-host", |lab| {
        for (out, begins) in [
            (&[][..], false),
            (&[HOLD], false),
            (&[HEAR], false),
            (&[HOLD, HEAR], true),
        ] {
            let network = GuestsNetwork::new(lab, &with_addresses(lab, false, out)?, &[])?;
            let interface = seat(ME).own_interface();
            for their in [ipv4(2).to_string(), outside6(2).to_string()] {
                let asks = answers(network.host(), &["-I", &interface, &their])?;
                ensure!(asks == begins, "without {out:?}: {their} is asked: {asks}");
            }
        }
        Ok(())
    })
}

/// What leaves by a guest's own address, by its neighbour's, and by the host's, of what
/// the guest says with its own there and without.
fn told_the_world(lab: &Lab, setup: &Setup) -> Result<[Names; 3]> {
    let network = GuestsNetwork::new(lab, setup, &[seat(ME), seat(PLAIN)])?;
    let (host, out) = (network.host(), outside(&network));
    let parent = if setup.way { "way0" } else { "up0" };
    let interfaces = [
        seat(ME).own_interface(),
        seat(VICTIM).own_interface(),
        parent.to_owned(),
    ];
    let ears = interfaces.iter().map(|interface| {
        let from = mac(host, interface)?;
        let hear = ["frames", "eth0", "--from", &from];
        Ear::open(out, Place::Outside, &hear, &["last", "eth0"])
    });
    let ears: Vec<_> = ears.collect::<Result<_>>()?;
    let say = |number: u16, name: &str| -> Result<()> {
        let guest = network.guest_in(seat(number))?;
        for (world, name) in [
            (IpAddr::from(WORLD), name.to_owned()),
            (WORLD6.into(), format!("{name}-6")),
        ] {
            tell(guest, world, port()?, &name)?;
        }
        Ok(())
    };
    say(ME, "mine")?;
    say(PLAIN, "plain")?;
    run(host
        .tool("ip")
        .args(["link", "set", &interfaces[0], "down"]))?;
    say(ME, "without-a-link")?;
    run(host.tool("ip").args(["link", "delete", &interfaces[0]]))?;
    say(ME, "without-an-interface")?;
    let heard = ears.into_iter().map(|ear| Ok(ear.close()?.1));
    let heard: Vec<_> = heard.collect::<Result<_>>()?;
    heard.try_into().ok().context("three ears")
}

#[test]
fn a_guest_leaves_by_its_own_address_or_not_at_all() -> Result<()> {
    surplus_tests::test("own-out", |lab| {
        let (mine, plain) = (list(&["mine", "mine-6"]), list(&["plain", "plain-6"]));
        for way in [false, true] {
            let [own, neighbours, hosts] = told_the_world(lab, &with_addresses(lab, way, &[])?)?;
            ensure!(own == mine, "way {way}: {own:?}");
            ensure!(neighbours.is_empty(), "way {way}: {neighbours:?}");
            ensure!(hosts == plain, "way {way}: {hosts:?}");
        }
        let [_, _, hosts] = told_the_world(lab, &with_addresses(lab, false, &[ROUTING])?)?;
        let leaks = [
            "without-a-link",
            "without-a-link-6",
            "without-an-interface",
            "without-an-interface-6",
        ];
        ensure!(hosts == &plain | &list(&leaks), "{hosts:?}");
        // Another's, by mistake: the filter holds it, and nothing else does.
        let [_, neighbours, _] = told_the_world(lab, &with_addresses(lab, false, &[MIXED])?)?;
        ensure!(neighbours.is_empty(), "{neighbours:?}");
        let both = with_addresses(lab, false, &[MIXED, OWNER])?;
        let [_, neighbours, _] = told_the_world(lab, &both)?;
        ensure!(neighbours.is_superset(&mine), "{neighbours:?}");
        Ok(())
    })
}

#[test]
fn nothing_that_a_hostile_guest_sends_reaches_anybody_by_its_own_address_either() -> Result<()> {
    surplus_tests::test("own-attack", |lab| {
        let all = Setup::of_the_image(lab)?.with_own_addresses(3);
        let heard = attack(lab, &all)?;
        nothing_came_through(&heard, Place::Outside)
    })
}
