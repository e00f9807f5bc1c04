//! What the agent takes while nothing happens: alone, and with many leases.
//!
//! The guests halt at their first instruction, so that all CPU time is the
//! host's own. Without KVM it is that of an emulated processor, which needs many
//! times as long for the same work: how many is measured beside it, by one
//! program that only computes. The agent makes system calls as well, so what it
//! would take on this computer itself is an estimate.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use surplus_protocol::api::Lease;
use surplus_protocol::lease::LeaseState;
use surplus_tests::lab::run;
use surplus_tests::rental::Order;
use surplus_tests::{Lab, Machine, Marketplace, Medium};

use super::table::Table;

/// How many leases the host knows, each with its running guest.
const LEASES: u32 = 20;
const BOOT: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(900);
const COMMAND: Duration = Duration::from_secs(120);
/// From the last start on: what starts bring with them is no idling.
const SETTLE: Duration = Duration::from_secs(60);
/// Something to compute, and the milliseconds that it took.
const WORK: &str = "t() { set -- $(cat /proc/uptime); echo ${1%.*}${1#*.}0; }; a=$(t); \
    dd if=/dev/zero bs=1M count=256 2>/dev/null | md5sum >/dev/null; echo $(($(t)-a))";

pub(super) fn measure(
    lab: &Lab,
    marketplace: &Marketplace,
    iso: &Path,
    watched: Duration,
    table: &mut Table,
) -> Result<()> {
    let machine = lab.machine("idle").medium(Medium::Cd, iso).shell();
    // One thread for each guest and one for the host; memory alike, of which
    // half is for disks.
    let mut machine = machine.cpus(LEASES + 1).memory_mib(12 * 1024).start()?;
    machine.wait_for_stage("offering", BOOT)?;
    machine.shell()?.wait_ready(COMMAND)?;
    let slower = times_slower(lab, &mut machine)?;
    table.row(
        "the host's processor beside this computer's, for the same work",
        format!("{slower:.1} times as long"),
        "",
    );
    rows(&mut machine, "no lease", watched, slower, table)?;

    let buyer = marketplace.buyer("idle-buyer")?;
    let image = lab.halting_image()?;
    buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "halt"])?;
    for number in 0..LEASES {
        let name = format!("halt-{number}");
        let order = Order {
            image: "halt",
            memory: "64MiB",
            window: "2h",
            ..Order::hello(&name)
        };
        order.place(&buyer)?;
    }
    let wanted = usize::try_from(LEASES)?;
    buyer.wait_until(
        &["leases"],
        "twenty active leases",
        START,
        |leases: Vec<Lease>| {
            let active = leases.iter().filter(|it| it.state == LeaseState::Active);
            (active.count() == wanted).then_some(())
        },
    )?;
    rows(
        &mut machine,
        &format!("{LEASES} leases"),
        watched,
        slower,
        table,
    )?;
    machine.kill();
    Ok(())
}

/// How many times as long the host needs for the same work.
fn times_slower(lab: &Lab, machine: &mut Machine) -> Result<f64> {
    let busybox = lab.tools().path("/usr/bin/busybox");
    let here = run(Command::new(&busybox).args(["sh", "-c", &with_applets(&busybox)]))?;
    let here = String::from_utf8_lossy(&here);
    let there = machine.shell()?.run(WORK, COMMAND)?;
    let millis = |text: &str| -> Result<f64> {
        let parsed = text.trim().parse();
        parsed.with_context(|| format!("the work took {text:?}"))
    };
    Ok(millis(&there)? / millis(&here)?.max(1.0))
}

/// The work by this busybox alone.
fn with_applets(busybox: &Path) -> String {
    let names = ["dd", "md5sum", "cat"];
    let aliases =
        names.map(|name| format!("{name}() {{ {} {name} \"$@\"; }}; ", busybox.display()));
    format!("{}{WORK}", aliases.concat())
}

fn rows(
    machine: &mut Machine,
    known: &str,
    watched: Duration,
    slower: f64,
    table: &mut Table,
) -> Result<()> {
    let settle = SETTLE.as_secs();
    let seconds = watched.as_secs();
    let run = "cat /proc/$(pidof surplus-agent)/task/*/schedstat | awk '{n+=$1}END{printf \"%d\\n\", n/1000}'";
    let pss = "awk '/^Pss(_Anon)?:/{print $2}' /proc/$(pidof surplus-agent)/smaps_rollup";
    let script = format!("sleep {settle}; {run}; sleep {seconds}; {run}; {pss}");
    let said = machine.shell()?.run(&script, SETTLE + watched + COMMAND)?;
    let figures = said
        .lines()
        .map(|line| line.trim().parse::<f64>())
        .collect::<Result<Vec<_>, _>>();
    let figures = figures.with_context(|| format!("the host's figures are {said:?}"))?;
    let [before, after, pss, own] = figures[..] else {
        bail!("the host's figures are {said:?}");
    };
    let percent = (after - before) / 1e6 / watched.as_secs_f64() * 100.0;
    table.row(
        format!("agent: CPU, {known}, over {seconds} s"),
        format!(
            "{percent:.3} % of the host's core, some {:.3} % of one here",
            percent / slower
        ),
        "0.1 %",
    );
    table.row(
        format!("agent: memory (PSS), {known}"),
        format!(
            "{:.1} MiB, {:.1} of them its own and no file's",
            pss / 1024.0,
            own / 1024.0
        ),
        "15 MiB",
    );
    Ok(())
}
