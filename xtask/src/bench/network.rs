//! What the guests' isolation costs: throughput beside the same guest without it,
//! and the time that it takes to give a guest his network.
//!
//! Host, guest and outside are network namespaces of this computer, under the
//! image's own filter; TCP goes from the guest over the bridge and out under the
//! host's address. There is no wire and no virtual card to wait for, so that what
//! the filter costs shows more than it would on a host.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use surplus_seat::forwards::{self, PortMap};
use surplus_seat::{BRIDGE, PORTS, SEATS, Seat};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{GuestsNetwork, Setup, WORLD, WORLD6};

use super::table::{Table, median};

/// One turn of the one or the other, and how many of both there are in a run.
const SPAN: Duration = Duration::from_secs(1);
const TURNS: u32 = 3;

/// Guests that have as many ports handed on as may be: a server's, and a host's
/// whose every seat is taken.
const GUESTS: [u16; 2] = [20, SEATS];

/// For each figure of time.
const TIMES: u32 = 20;

pub(super) fn measure(lab: &Lab, runs: u32, table: &mut Table) -> Result<()> {
    let mut seats = Seat::all();
    let (poured, attached) = seats.next().zip(seats.next()).context("two seats")?;
    let isolated = Setup::of_the_image(lab)?;
    let with = GuestsNetwork::new(lab, &isolated, &[poured])?;
    let without = GuestsNetwork::new(lab, &Setup::without_isolation(), &[poured])?;
    for (world, protocol) in [(WORLD.into(), "IPv4"), (WORLD6.into(), "IPv6")] {
        for (segments, size) in [(true, "64 KiB at once"), (false, "1,500 bytes at once")] {
            for network in [&with, &without] {
                cut(network, poured, segments)?;
            }
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..runs * TURNS {
                // In turns, so that what else the computer does hits both.
                let pair = (
                    with.throughput(poured, world, SPAN)?,
                    without.throughput(poured, world, SPAN)?,
                );
                ours.push(pair.0);
                theirs.push(pair.1);
                ratios.push(pair.0 / pair.1);
            }
            table.row(
                format!("guest → outside, TCP over {protocol}, {size}, with isolation"),
                format!("{} Gbit/s", spread(&ours, 8e-9, 2)),
                "",
            );
            table.row(
                "… without",
                format!("{} Gbit/s", spread(&theirs, 8e-9, 2)),
                "",
            );
            table.row(
                "… with / without, of each pair of turns",
                format!("{} %", spread(&ratios, 100.0, 0)),
                "90 %",
            );
        }
    }
    for guests in GUESTS {
        let cost = attach(&with, attached, Some(guests))?;
        let what = format!("a guest's tap, isolated; his ports beside those of {guests} guests");
        table.row(what, cost.to_string(), "50 ms");
        let cost = write_whole(&with, guests)?;
        table.row(
            "… and the ports of all of them at once, as a new agent writes them",
            cost.to_string(),
            "",
        );
    }
    let cost = attach(&without, attached, None)?;
    table.row("a guest's tap alone", cost.to_string(), "");
    let mut cost = Cost::default();
    for _ in 0..TIMES {
        cost.add(|| isolated.load(with.host()))?;
    }
    table.row(
        "the filter and all seats, once at boot",
        cost.to_string(),
        "",
    );
    Ok(())
}

/// Whether the guest hands on large segments, as a virtual card does, or each
/// packet by itself, so that each passes the filter.
fn cut(network: &GuestsNetwork<'_>, seat: Seat, segments: bool) -> Result<()> {
    let most = if segments { "65535" } else { "1" };
    let mut ip = network.guest_in(seat)?.tool("ip");
    run(ip.args(["link", "set", "eth0", "gso_max_segs", most])).map(drop)
}

/// Gives a guest a tap on the bridge, and takes it away. With isolation the port is
/// isolated, and his ports written beside those of so many guests. By programs, each
/// started for it: libvirt and the agent need no more.
fn attach(network: &GuestsNetwork<'_>, seat: Seat, guests: Option<u16>) -> Result<Cost> {
    let host = network.host();
    let (tap, scratch) = (seat.interface(), host.lab().scratch());
    let mut lines = format!("tuntap add {tap} mode tap\nlink set {tap} master {BRIDGE}\n");
    if guests.is_some() {
        _ = writeln!(lines, "link set {tap} type bridge_slave isolated on");
    }
    _ = writeln!(lines, "link set {tap} up");
    let batch = file(scratch.join("attach.ip"), &lines)?;
    let maps = guests.map(|guests| {
        let others = Seat::all().take(guests.into()).filter(|it| *it != seat);
        let others = ports_of(others);
        let all = others.clone().into_iter().chain(ports_of([seat]));
        let change = forwards::changes(&others, &all.collect(), 1);
        let before = file(scratch.join("before.nft"), &forwards::whole(&others, 1))?;
        anyhow::Ok((before, file(scratch.join("change.nft"), &change)?))
    });
    let maps = maps.transpose()?;
    let nft = |map: &PathBuf| run(host.tool("nft").arg("--file").arg(map)).map(drop);
    let mut cost = Cost::default();
    for _ in 0..TIMES {
        if let Some((before, _)) = &maps {
            nft(before)?;
        }
        cost.add(|| {
            run(host.tool("ip").arg("-batch").arg(&batch))?;
            maps.iter().try_for_each(|(_, change)| nft(change))
        })?;
        run(host.tool("ip").args(["link", "delete", &tap]))?;
    }
    Ok(cost)
}

/// Writes as many ports as these guests can have in the place of what was there.
fn write_whole(network: &GuestsNetwork<'_>, guests: u16) -> Result<Cost> {
    let host = network.host();
    let ports = ports_of(Seat::all().take(guests.into()));
    let map = host.lab().scratch().join("whole.nft");
    let map = file(map, &forwards::whole(&ports, 1))?;
    let mut cost = Cost::default();
    for _ in 0..TIMES {
        cost.add(|| run(host.tool("nft").arg("--file").arg(&map)).map(drop))?;
    }
    Ok(cost)
}

/// What something takes that is done several times.
#[derive(Debug, Default)]
struct Cost {
    seconds: Vec<f64>,
    /// Of processors, by the programs that were run, which other work on the
    /// computer hardly changes.
    cpu: f64,
}

impl Cost {
    fn add(&mut self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = childrens_cpu()?;
        let begun = Instant::now();
        work()?;
        self.seconds.push(begun.elapsed().as_secs_f64());
        self.cpu += childrens_cpu()? - before;
        Ok(())
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu / f64::from(TIMES) * 1e3;
        let time = spread(&self.seconds, 1e3, 0);
        write!(f, "{time} ms; {cpu:.0} ms of CPU time")
    }
}

/// CPU seconds of all programs that have ended: fields 16 and 17 of proc(5)'s stat,
/// counted behind the name, in ticks of which there are 100 a second.
fn childrens_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("could not read our own times")?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in our own times")?;
    let ticks = fields.split(' ').skip(13).take(2);
    let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

fn file(path: PathBuf, text: &str) -> Result<PathBuf> {
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}

/// As many forwarded ports as these guests can have.
fn ports_of(seats: impl IntoIterator<Item = Seat>) -> PortMap<&'static str> {
    let ports = seats.into_iter().flat_map(|seat| {
        let pairs = seat.host_ports().zip(1..=PORTS);
        pairs.map(move |(host, port)| (("tcp", host), (seat.ipv4(), port)))
    });
    ports.collect()
}

/// The median and its spread.
fn spread(values: &[f64], scale: f64, digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        median(values) * scale,
        least * scale,
        most * scale
    )
}
