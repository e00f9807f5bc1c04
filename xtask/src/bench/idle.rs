//! What the agent takes while nothing happens: alone, and with many leases.
//!
//! The guests halt at their first instruction, so that all CPU time is the
//! host's own. Without KVM it is that of an emulated processor, which needs many
//! times as long for the same work.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::Lease;
use surplus_protocol::lease::LeaseState;
use surplus_tests::{Lab, Machine, Marketplace, Medium};

use super::table::Table;

/// How many leases the host knows, each with its running guest.
const LEASES: u32 = 20;
const BOOT: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(900);
const COMMAND: Duration = Duration::from_secs(120);
/// `cli; hlt; jmp` back to the `hlt`, as a boot sector.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

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
    rows(&mut machine, "no lease", watched, table)?;

    let buyer = marketplace.buyer("idle-buyer")?;
    let image = lab.scratch().join("halt.img");
    let mut sector = vec![0; 1 << 20];
    sector[..HALT.len()].copy_from_slice(&HALT);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&image, sector)?;
    buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "halt"])?;
    for number in 0..LEASES {
        buyer.run(&[
            "rent",
            "--image",
            "halt",
            "--vcpus",
            "1",
            "--memory",
            "64MiB",
            "--for",
            "2h",
            "--name",
            &format!("halt-{number}"),
        ])?;
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
    rows(&mut machine, &format!("{LEASES} leases"), watched, table)?;
    machine.kill();
    Ok(())
}

fn rows(machine: &mut Machine, known: &str, watched: Duration, table: &mut Table) -> Result<()> {
    let seconds = watched.as_secs();
    let run = "cat /proc/$(pidof surplus-agent)/task/*/schedstat | awk '{n+=$1}END{printf \"%d\\n\", n/1000}'";
    let pss = "awk '/^Pss:/{print $2}' /proc/$(pidof surplus-agent)/smaps_rollup";
    let script = format!("{run}; sleep {seconds}; {run}; {pss}");
    let said = machine.shell()?.run(&script, watched + COMMAND)?;
    let figures = said
        .lines()
        .map(|line| line.trim().parse::<f64>())
        .collect::<Result<Vec<_>, _>>();
    let figures = figures.with_context(|| format!("the host's figures are {said:?}"))?;
    ensure!(figures.len() == 3, "the host's figures are {said:?}");
    let percent = (figures[1] - figures[0]) / 1e6 / watched.as_secs_f64() * 100.0;
    table.row(
        format!("agent: CPU, {known}, over {seconds} s"),
        format!("{percent:.3} % of a core"),
        "0.1 %",
    );
    table.row(
        format!("agent: memory (PSS), {known}"),
        format!("{:.1} MiB", figures[2] / 1024.0),
        "15 MiB",
    );
    Ok(())
}
