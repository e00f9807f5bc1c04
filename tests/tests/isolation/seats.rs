//! A seat's next guest hears nothing of what was begun with the one before it, though
//! the outside goes on sending.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use surplus_seat::connections;
use surplus_seat::forwards::{self, PortMap};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{GuestsNetwork, Setup, WORLD, WORLD6, outside6, transaction};
use surplus_tests::network::{Station, ipv4};

use crate::scene::{AT_PORT, Ear, ME, Names, PORT, Place, program, seat};

/// By which the world knows the guest.
const ITS_PORT: u16 = 7000;

/// What happens between two guests of a seat.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// No port of the host leads to the guest any more.
    TakeBack,
    /// The host forgets the guest's connections.
    Forget,
    /// The outside says something.
    StillSent,
}

/// The first guest of the seat talks with the outside; then these steps are done.
/// Returns what the second one hears of what the outside says afterwards.
fn heard_by_the_next(lab: &Lab, steps: &[Step]) -> Result<Names> {
    let mut network = GuestsNetwork::new(lab, &Setup::of_the_image(lab)?, &[seat(ME)])?;
    hand_on(network.host(), true)?;
    let first = network.guest_in(seat(ME))?;
    for (mine, world) in [
        (format!("0.0.0.0:{PORT}"), WORLD.into()),
        (format!("[::]:{PORT}"), WORLD6.into()),
    ] {
        tell(first, &mine, SocketAddr::new(world, ITS_PORT), "a-question")?;
    }
    let heard = heard_in(&network)?;
    ensure!(heard == all(), "the first guest heard {heard:?}");

    for step in steps {
        match step {
            Step::TakeBack => hand_on(network.host(), false)?,
            Step::Forget => forget(network.host())?,
            Step::StillSent => say(network.outside())?,
        }
    }
    network.seat_anew(seat(ME))?;
    heard_in(&network)
}

/// What whoever sits there hears of the outside.
fn heard_in(network: &GuestsNetwork<'_>) -> Result<Names> {
    let guest = network.guest_in(seat(ME))?;
    let ear = Ear::open(guest, Place::Sender, &["port", PORT], &["tell", AT_PORT])?;
    say(network.outside())?;
    Ok(ear.close()?.1)
}

/// By the same connections each time.
fn say(outside: &Station<'_>) -> Result<()> {
    let its = |host: std::net::IpAddr, port| SocketAddr::new(host, port);
    let (host, host6) = (ipv4(1).into(), outside6(1).into());
    let port = PORT.parse()?;
    for (from, to, name) in [
        (its(WORLD.into(), ITS_PORT), its(host, port), "an-answer"),
        (
            its(WORLD6.into(), ITS_PORT),
            its(host6, port),
            "an-answer-6",
        ),
        (
            its(ipv4(2).into(), ITS_PORT),
            its(host, handed_on()?),
            "handed-on",
        ),
    ] {
        tell(outside, &from.to_string(), to, name)?;
    }
    Ok(())
}

fn all() -> Names {
    ["an-answer", "an-answer-6", "handed-on"]
        .map(str::to_owned)
        .into()
}

fn tell(from: &Station<'_>, its: &str, to: SocketAddr, name: &str) -> Result<()> {
    let tell = program(from.lab(), &["tell", "--from", its, &to.to_string(), name])?;
    run(&mut from.enter(&tell)).map(drop)
}

/// The host's port that leads to the guest's.
fn handed_on() -> Result<u16> {
    seat(ME).host_ports().next().context("a seat without ports")
}

fn hand_on(host: &Station<'_>, leads: bool) -> Result<()> {
    let mut map = PortMap::new();
    if leads {
        map.insert(("udp", handed_on()?), (seat(ME).ipv4(), PORT.parse()?));
    }
    transaction(host, "forwards", &forwards::whole(&map, 1))
}

/// As the agent does.
fn forget(host: &Station<'_>) -> Result<()> {
    let file = host.lab().scratch().join("connections");
    fs::write(&file, connections::forget(seat(ME)))?;
    run(host.tool("conntrack").arg("--load-file").arg(&file)).map(drop)
}

#[test]
fn what_the_outside_still_sends_does_not_reach_a_seats_next_guest() -> Result<()> {
    surplus_tests::test("seats", |lab| {
        use Step::{Forget, StillSent, TakeBack};
        let heard = heard_by_the_next(lab, &[TakeBack, Forget, StillSent])?;
        ensure!(heard.is_empty(), "{heard:?}");
        // All of it does where connections are remembered, and what is handed on where
        // they are forgotten too soon.
        let heard = heard_by_the_next(lab, &[TakeBack, StillSent])?;
        ensure!(heard == all(), "{heard:?}");
        let heard = heard_by_the_next(lab, &[Forget, StillSent, TakeBack])?;
        ensure!(heard == Names::from(["handed-on".to_owned()]), "{heard:?}");
        Ok(())
    })
}
