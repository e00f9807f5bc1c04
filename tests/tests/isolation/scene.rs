//! Who sends, who listens, and what was heard.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use surplus_attack::{Attack, Cast, Kind};
use surplus_seat::{BRIDGE, Seat};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{GuestsNetwork, Setup, outside6, street6};
use surplus_tests::network::{Station, ipv4};

/// What the host might listen to, and who is there.
pub(crate) const PORT: &str = "4242";
pub(crate) const AT_PORT: &str = "127.0.0.1:4242";

pub(crate) type Names = BTreeSet<String>;

/// Where a frame was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By the tenant beside it.
    Victim,
    /// On the guests' bridge, by the host's own side of it.
    Bridge,
    /// By a program on the host.
    Host,
    /// Behind the host, on the site's network.
    Outside,
    /// … and on the guests' own, where they have one.
    Street,
    /// By its sender, from the host.
    Sender,
}

/// What was heard where.
#[derive(Debug)]
pub(crate) struct Heard(pub(crate) Vec<(Place, Names)>);

impl Heard {
    pub(crate) fn at(&self, place: Place) -> &Names {
        let found = self.0.iter().find(|(at, _)| *at == place);
        &found.expect("every place has ears").1
    }
}

/// Somebody who listens, in a namespace.
pub(crate) struct Ear<'a> {
    station: &'a Station<'a>,
    place: Place,
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    /// What tells it that it has heard everything.
    last: Command,
}

pub(crate) fn program(lab: &Lab, words: &[&str]) -> Result<Command> {
    let mut program = lab.program("surplus-attack")?;
    program.args(words);
    Ok(program)
}

/// Somebody says something to a port of somebody else's, and may be told that there is
/// no way.
pub(crate) fn tell(from: &Station<'_>, to: impl Into<IpAddr>, port: u16, name: &str) -> Result<()> {
    let to = SocketAddr::new(to.into(), port).to_string();
    let tell = program(from.lab(), &["tell", &to, name])?;
    let _ = from.enter(&tell).output().context("could not run it")?;
    Ok(())
}

pub(crate) fn list(names: &[&str]) -> Names {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl<'a> Ear<'a> {
    pub(crate) fn open(
        station: &'a Station<'a>,
        place: Place,
        hear: &[&str],
        last: &[&str],
    ) -> Result<Self> {
        let lab = station.lab();
        let words: Vec<_> = ["hear"].iter().chain(hear).copied().collect();
        let mut process = station
            .enter(&program(lab, &words)?)
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start an ear")?;
        let output = process.stdout.take().context("an ear without a mouth")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "listening", "at {place:?}: {line:?}");
        let last = program(lab, last)?;
        Ok(Self {
            station,
            place,
            process,
            output,
            last,
        })
    }

    pub(crate) fn interface(
        station: &'a Station<'a>,
        place: Place,
        interface: &str,
    ) -> Result<Self> {
        Self::open(station, place, &["frames", interface], &["last", interface])
    }

    /// Everything that it heard.
    pub(crate) fn close(mut self) -> Result<(Place, Names)> {
        run(&mut self.station.enter(&self.last))?;
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the ear at {:?}: {status}", self.place);
        Ok((self.place, said.lines().map(str::to_owned).collect()))
    }
}

pub(crate) fn seat(number: u16) -> Seat {
    Seat::try_from(number).expect("a seat's number")
}

/// Who sends, who suffers, who is not there, and who comes and goes.
pub(crate) const ME: u16 = 1;
pub(crate) const VICTIM: u16 = 2;
pub(crate) const EMPTY: u16 = 3;
pub(crate) const NEWCOMER: u16 = 4;

pub(crate) fn cast() -> Cast {
    Cast {
        me: seat(ME),
        victim: seat(VICTIM),
        // As set below.
        host: [0x02, 0, 0, 0, 0, 0x01],
        uplink: ipv4(1),
        management: ipv4(2),
        uplink6: outside6(1),
        management6: outside6(2),
    }
}

/// The same, with somebody who is near where guests leave their host.
fn cast_in(network: &GuestsNetwork<'_>) -> Cast {
    let near = network.street().map_or(outside6(2), |_| street6(2));
    Cast {
        management6: near,
        ..cast()
    }
}

/// Sends everything, from the guest and from the host, and says what was heard.
pub(crate) fn attack(lab: &Lab, setup: &Setup) -> Result<Heard> {
    attack_while(lab, setup, |_| Ok(()))
}

/// The same over and over, while something is done.
pub(crate) fn attack_while(
    lab: &Lab,
    setup: &Setup,
    meanwhile: impl FnOnce(&GuestsNetwork<'_>) -> Result<()>,
) -> Result<Heard> {
    let cast = cast();
    let network = GuestsNetwork::new(lab, setup, &[cast.me, cast.victim])?;
    let cast = cast_in(&network);
    let (host, me) = (network.host(), network.guest_in(cast.me)?);
    let mac = cast.host.map(|byte| format!("{byte:02x}")).join(":");
    let mut ip = host.tool("ip");
    run(ip.args(["link", "set", BRIDGE, "address", &mac]))?;

    let from_host = ["frames", "eth0", "--from", &mac];
    let victim = network.guest_in(cast.victim)?;
    let mut ears = vec![
        // Also as those who come and go.
        Ear::open(victim, Place::Victim, &["frames"], &["last", "eth0"])?,
        Ear::interface(host, Place::Bridge, BRIDGE)?,
        Ear::interface(network.outside(), Place::Outside, "eth0")?,
        Ear::open(host, Place::Host, &["port", PORT], &["tell", AT_PORT])?,
        Ear::open(me, Place::Sender, &from_host, &["last", "eth0"])?,
    ];
    if let Some(street) = network.street() {
        ears.push(Ear::interface(street, Place::Street, "eth0")?);
    }
    let mut send = sender(&cast, lab, &mac)?;
    let mut sending = me
        .enter(send.args(["--interface", "eth0", "--again"]))
        .stdin(Stdio::piped())
        .spawn()?;
    meanwhile(&network)?;
    // Its standard input ends.
    let status = sending.wait()?;
    ensure!(status.success(), "the attacker: {status}");
    let mut flood = sender(&cast, lab, &mac)?;
    flood.args(["--interface", BRIDGE, "--flood", &EMPTY.to_string()]);
    run(&mut host.enter(&flood))?;
    let heard = ears.into_iter().map(|ear| {
        let (place, mut heard) = ear.close()?;
        if place == Place::Sender {
            // Its own in the host's name, and what the world answers.
            heard.remove("mac-of-the-host");
            heard = &heard - &names(Kind::Allowed);
        }
        Ok((place, heard))
    });
    Ok(Heard(heard.collect::<Result<_>>()?))
}

/// Who sends, and knows who takes part.
fn sender(cast: &Cast, lab: &Lab, host: &str) -> Result<Command> {
    let mut send = program(lab, &["send", "--host", host])?;
    for (option, value) in [
        ("--me", cast.me.to_string()),
        ("--victim", cast.victim.to_string()),
        ("--uplink", cast.uplink.to_string()),
        ("--management", cast.management.to_string()),
        ("--uplink6", cast.uplink6.to_string()),
        ("--management6", cast.management6.to_string()),
    ] {
        send.args([option, &value]);
    }
    Ok(send)
}

/// The names of the attacks of a kind.
pub(crate) fn names(kind: Kind) -> Names {
    let of_kind = |attack: &Attack| attack.kind == kind;
    let all = surplus_attack::all(&cast()).into_iter().filter(of_kind);
    all.map(|attack| attack.name.to_owned()).collect()
}
