//! How much a guest may take of what all share: its rate, each way, and its
//! connections in the host's table.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use surplus_seat::{Seat, rates};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::Station;
use surplus_tests::network::guests::{GuestsNetwork, Setup};

/// The guest's rate, in Mbit/s and bytes a second, and what it may send at once.
const MBITS: u32 = 8;
const RATE: f64 = 1_000_000.0;
const BURST: f64 = 1_000_000.0;

/// What is sent each time, and its bytes on the wire.
const COUNT: u16 = 5000;
const SENT: f64 = 5000.0 * 1442.0;

/// Somebody in the world (RFC 5737).
const WORLD: &str = "203.0.113.7:1024";

fn seat() -> Result<Seat> {
    Seat::try_from(1).map_err(|error| anyhow::anyhow!("{error}"))
}

fn network<'a>(lab: &'a Lab, setup: &Setup) -> Result<GuestsNetwork<'a>> {
    GuestsNetwork::new(lab, setup, &[seat()?])
}

fn flood(from: &Station<'_>, to: &str, count: u16, more: &[&str]) -> Result<()> {
    let mut program = from.lab().program("surplus-attack")?;
    program.args(["flood", to, &count.to_string()]).args(more);
    run(&mut from.enter(&program)).map(drop)
}

/// Bytes that came to a station's interface.
fn received(at: &Station<'_>) -> Result<f64> {
    let mut ip = at.tool("ip");
    let said = run(ip.args(["-json", "-statistics", "link", "show", "eth0"]))?;
    let said: serde_json::Value = serde_json::from_slice(&said)?;
    let bytes = said.pointer("/0/stats64/rx/bytes");
    bytes
        .and_then(serde_json::Value::as_f64)
        .context("no count of bytes")
}

/// What comes of a flood, and what may come at most in the time that it took.
fn measured(from: &Station<'_>, to: &str, at: &Station<'_>) -> Result<(f64, f64)> {
    let (before, began) = (received(at)?, Instant::now());
    flood(from, to, COUNT, &[])?;
    let came = received(at)? - before;
    Ok((came, BURST + RATE * began.elapsed().as_secs_f64()))
}

#[test]
fn a_guest_sends_and_receives_at_its_rate_and_no_faster() -> Result<()> {
    surplus_tests::test("rates", |lab| {
        let seat = seat()?;
        let port = seat.host_ports().next().context("a seat without ports")?;
        let network = network(lab, &Setup::of_the_image(lab)?)?;
        let (host, outside, guest) = (network.host(), network.outside(), network.guest_in(seat)?);
        let forward = format!(
            "add element inet surplus_forwards forwards {{ udp . {port} : {} . 9 }}",
            seat.ipv4()
        );
        run(host.tool("nft").arg(forward))?;
        let inward = format!("{}:{port}", surplus_tests::network::ipv4(1));
        for (what, from, to, at) in [
            ("sent", guest, WORLD, outside),
            ("received", outside, &inward, guest),
        ] {
            run(host
                .tool("nft")
                .args(["destroy", "table", "bridge", "surplus_rates"]))?;
            let (came, _) = measured(from, to, at)?;
            ensure!(
                came > SENT / 2.0,
                "without a limit only {came} bytes were {what}"
            );
            run(host.tool("nft").arg(rates::limit(MBITS)))?;
            let (came, most) = measured(from, to, at)?;
            println!("{what}: {came} bytes, {most} at most");
            ensure!(came < most * 1.05, "{what}: {came} bytes, more than {most}");
            ensure!(came > BURST * 0.8, "{what}: only {came} bytes");
        }
        Ok(())
    })
}

#[test]
fn one_guest_cannot_fill_the_hosts_table_of_connections() -> Result<()> {
    surplus_tests::test("connections", |lab| {
        let connections = |setup: &Setup| -> Result<u32> {
            let network = network(lab, setup)?;
            flood(network.guest_in(seat()?)?, WORLD, 6000, &["--ports"])?;
            let mut cat = std::process::Command::new("cat");
            cat.arg("/proc/sys/net/netfilter/nf_conntrack_count");
            let said = run(&mut network.host().enter(&cat))?;
            Ok(String::from_utf8(said)?.trim().parse()?)
        };
        let image = Setup::of_the_image(lab)?;
        let held = connections(&image)?;
        ensure!((4000..4200).contains(&held), "{held} connections");
        let rule = "\t\tiifname \"surplus0\" ct state new add @connections { ip saddr ct count over 4096 } drop\n";
        let open = connections(&image.with(rule, "")?)?;
        ensure!(open > 5900, "without the limit only {open} connections");
        Ok(())
    })
}
