//! Guests have a network of their own to leave by: all that they send goes there, and
//! where it leads nowhere, nowhere. No agent and no networkd runs here: what holds
//! guests is the filter and the kernel's routes.

use anyhow::{Context as _, Result, bail, ensure};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{
    GuestsNetwork, Setup, WAY, WORLD, WORLD6, street4, street6, transaction,
};
use surplus_tests::network::{Station, ipv4};

use crate::nothing_came_through;
use crate::scene::{AT_PORT, Ear, Heard, ME, Names, PORT, Place, VICTIM, attack, list, seat, tell};

/// What keeps a guest's packets from the host's own network: any one is enough.
const ROUTING: (&str, &str) = (
    "FirewallMark=121/255\nType=unreachable",
    "FirewallMark=9\nTable=9",
);
const FILTER: (&str, &str) = (
    "\t\tiifname \"surplus0\" oifgroup != { 121, 122, 123 } drop\n",
    "",
);

/// What keeps the host from beginning anything where guests leave it: either is enough.
pub(crate) const HOLD: (&str, &str) = ("\t\toifgroup { 122, 123 } goto hold\n", "");
pub(crate) const HEAR: (&str, &str) = ("\t\tiifgroup != { 122, 123 } ct state", "\t\tct state");

fn with_a_way(lab: &Lab, out: &[(&str, &str)]) -> Result<Setup> {
    Setup::of_the_image_with_a_way(lab)?.with_all(out)
}

fn street<'n, 'a>(network: &'n GuestsNetwork<'a>) -> Result<&'n Station<'a>> {
    network
        .street()
        .context("guests have no network of their own")
}

fn tell_the_world(from: &Station<'_>, name: &str) -> Result<()> {
    tell(from, WORLD, PORT.parse()?, name)?;
    tell(from, WORLD6, PORT.parse()?, &format!("{name}-6"))
}

/// What comes to the host's own network, and to the guests', of what a guest says:
/// first by a way that is whole, then without a link, then without an interface.
fn told_over_a_way_that_fails(lab: &Lab, setup: &Setup) -> Result<(Names, Names)> {
    let network = GuestsNetwork::new(lab, setup, &[seat(ME)])?;
    let (host, me) = (network.host(), network.guest_in(seat(ME))?);
    let outside = Ear::interface(network.outside(), Place::Outside, "eth0")?;
    let by_the_way = Ear::interface(street(&network)?, Place::Street, "eth0")?;
    tell_the_world(me, "by-the-way")?;
    // Whose answers would be let through for what was begun before.
    let (_, street) = by_the_way.close()?;
    run(host.tool("ip").args(["link", "set", WAY, "down"]))?;
    tell_the_world(me, "without-a-link")?;
    run(host.tool("ip").args(["link", "delete", WAY]))?;
    tell_the_world(me, "without-an-interface")?;
    Ok((outside.close()?.1, street))
}

#[test]
fn guests_leave_by_their_own_network_or_not_at_all() -> Result<()> {
    surplus_tests::test("way", |lab| {
        let (outside, street) = told_over_a_way_that_fails(lab, &with_a_way(lab, &[])?)?;
        ensure!(
            street == list(&["by-the-way", "by-the-way-6"]),
            "{street:?}"
        );
        ensure!(outside.is_empty(), "{outside:?}");
        for one_out in [ROUTING, FILTER] {
            let (outside, _) = told_over_a_way_that_fails(lab, &with_a_way(lab, &[one_out])?)?;
            ensure!(outside.is_empty(), "without {one_out:?}: {outside:?}");
        }
        let none = with_a_way(lab, &[ROUTING, FILTER])?;
        let (outside, _) = told_over_a_way_that_fails(lab, &none)?;
        let leaks = [
            "without-a-link",
            "without-a-link-6",
            "without-an-interface",
            "without-an-interface-6",
        ];
        ensure!(outside == list(&leaks), "{outside:?}");
        Ok(())
    })
}

#[test]
fn nothing_that_a_hostile_guest_sends_reaches_anybody_by_its_own_network_either() -> Result<()> {
    surplus_tests::test("way-attack", |lab| {
        let heard = attack(lab, &with_a_way(lab, &[])?)?;
        nothing_came_through(&heard, Place::Street)?;
        let outside = heard.at(Place::Outside);
        ensure!(outside.is_empty(), "by the host's own network: {outside:?}");
        Ok(())
    })
}

/// What comes to a guest and to the host, from either network, at the port that is
/// handed on and at others.
fn told_to_a_forwarded_port(lab: &Lab, setup: &Setup) -> Result<Heard> {
    let network = GuestsNetwork::new(lab, setup, &[seat(ME), seat(VICTIM)])?;
    let (host, me) = (network.host(), network.guest_in(seat(ME))?);
    let port = seat(ME).host_ports().next().context("no ports")?;
    let handed_on = format!(
        "add element inet surplus_forwards forwards {{ udp . {port} : {} . {PORT} }}\n",
        seat(ME).ipv4()
    );
    transaction(host, "forward", &handed_on)?;
    let street = street(&network)?;
    // Who takes the host for a router to its own network, and to its guests'.
    for (at, to) in [(street, ipv4(1)), (network.outside(), street4(1))] {
        let by = if at.name() == street.name() {
            street4(1)
        } else {
            ipv4(1)
        };
        let mut ip = at.tool("ip");
        run(ip.args(["route", "add", &to.to_string(), "via", &by.to_string()]))?;
    }
    let ears = [
        Ear::open(me, Place::Sender, &["port", PORT], &["tell", AT_PORT])?,
        Ear::open(host, Place::Host, &["port", PORT], &["tell", AT_PORT])?,
    ];
    tell(street, street4(1), port, "by-the-way")?;
    tell(street, ipv4(1), port, "by-the-way-to-the-hosts-own-address")?;
    tell(network.outside(), ipv4(1), port, "by-the-hosts-own-network")?;
    tell(
        network.outside(),
        street4(1),
        port,
        "by-the-hosts-own-network-to-the-way",
    )?;
    for host in [street4(1).into(), street6(1).into()] {
        let host: std::net::IpAddr = host;
        tell(street, host, PORT.parse()?, "to-the-host")?;
    }
    let heard = ears.into_iter().map(Ear::close).collect::<Result<_>>()?;
    Ok(Heard(heard))
}

#[test]
fn a_forwarded_port_is_reached_at_the_guests_own_network_and_nowhere_else() -> Result<()> {
    const OWN: (&str, &str) = (
        "\t\tfib daddr . iif type != { local, broadcast, multicast } drop\n",
        "",
    );
    const LEADS_OUT: (&str, &str) = (
        "\t\tiifgroup != { 121, 122 } accept\n",
        "\t\tiifname \"surplus0\" accept\n",
    );
    const IN: (&str, &str) = (
        "\t\toifname \"surplus0\" iifgroup != { 121, 122, 123 } drop\n",
        "",
    );
    surplus_tests::test("way-forward", |lab| {
        for (out, also) in [
            (&[][..], &[][..]),
            (&[OWN], &["by-the-way-to-the-hosts-own-address"]),
            // Either is enough.
            (&[LEADS_OUT], &[]),
            (&[IN], &[]),
            (
                &[LEADS_OUT, IN],
                &[
                    "by-the-hosts-own-network",
                    "by-the-hosts-own-network-to-the-way",
                ],
            ),
        ] {
            let heard = told_to_a_forwarded_port(lab, &with_a_way(lab, out)?)?;
            let mut expected = list(also);
            expected.insert("by-the-way".to_owned());
            let came = heard.at(Place::Sender);
            ensure!(*came == expected, "without {out:?}: {came:?}");
            ensure!(
                heard.at(Place::Host).is_empty(),
                "without {out:?}: {heard:?}"
            );
        }
        Ok(())
    })
}

/// Whether somebody answers a ping.
pub(crate) fn answers(from: &Station<'_>, words: &[&str]) -> Result<bool> {
    let ping = ["ping", "-c", "1", "-W", "1"];
    let output = from.tool("busybox").args(ping).args(words).output()?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("ping: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn the_host_answers_a_ping_on_its_guests_network_and_begins_nothing_there() -> Result<()> {
    const ANSWER: (&str, &str) = ("\t\tiifgroup 122 meta mark set 121\n", "");
    surplus_tests::test("way-host", |lab| {
        for (out, begins, answered) in [
            (&[][..], false, [true, true]),
            (&[HOLD], false, [true, true]),
            (&[HEAR], false, [true, true]),
            (&[HOLD, HEAR], true, [true, true]),
            // By its own network it would answer; IPv6 does so where it was asked.
            (&[ANSWER], false, [false, true]),
        ] {
            let network = GuestsNetwork::new(lab, &with_a_way(lab, out)?, &[])?;
            let (host, street) = (network.host(), street(&network)?);
            for ((own, their), answered) in [
                (street4(1).to_string(), street4(2).to_string()),
                (street6(1).to_string(), street6(2).to_string()),
            ]
            .into_iter()
            .zip(answered)
            {
                let hears = answers(street, &[&own])?;
                ensure!(
                    hears == answered,
                    "without {out:?}: {own} is answered: {hears}"
                );
                let asks = answers(host, &["-I", WAY, &their])?;
                ensure!(asks == begins, "without {out:?}: {their} is asked: {asks}");
            }
            // Its own traffic goes by its own network.
            let ear = Ear::interface(street, Place::Street, "eth0")?;
            tell_the_world(host, "the-hosts-own")?;
            let (_, heard) = ear.close()?;
            ensure!(heard.is_empty(), "{heard:?}");
        }
        Ok(())
    })
}
