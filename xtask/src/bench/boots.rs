//! From the kernel's start to `stage=enrolled`: how long, and in how little
//! memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use surplus_tests::{Firmware, Lab, Medium};

use super::table::{Table, median};

/// A boot that has not enrolled by then never will.
pub(super) const ENROLLED: Duration = Duration::from_secs(120);
/// With too little memory a boot crawls: this many times the time of a boot
/// with enough, and it counts as failed.
const CRAWLS: u32 = 3;
/// Memory sizes between which the least is sought, in MiB.
const LEAST: u32 = 160;
const MOST: u32 = 512;
/// How exactly, in MiB: usually, and in a hurry.
pub(super) const FINE: u32 = 16;
pub(super) const COARSE: u32 = 64;

/// One boot's figures.
struct Boot {
    /// Seconds from the kernel's start, as the host says.
    seconds: f64,
    cpu_seconds: f64,
}

fn boot(
    lab: &Lab,
    iso: &Path,
    firmware: Firmware,
    memory_mib: u32,
    within: Duration,
) -> Result<Boot> {
    let name = format!("{firmware:?}-{memory_mib}").to_lowercase();
    let machine = lab
        .machine(&name)
        .firmware(firmware)
        .medium(Medium::Cd, iso);
    let mut machine = machine.memory_mib(memory_mib).start()?;
    let stage = machine.wait_for_stage("enrolled", within)?;
    let boot = Boot {
        seconds: stage.elapsed,
        cpu_seconds: machine.cpu_seconds(),
    };
    machine.kill();
    Ok(boot)
}

pub(super) fn time(lab: &Lab, iso: &Path, runs: u32, table: &mut Table) -> Result<()> {
    for (firmware, name) in [(Firmware::Bios, "BIOS"), (Firmware::Uefi, "UEFI")] {
        let boots = (0..runs)
            .map(|_| boot(lab, iso, firmware, 1024, ENROLLED))
            .collect::<Result<Vec<_>>>()?;
        let seconds: Vec<_> = boots.iter().map(|boot| boot.seconds).collect();
        let cpu: Vec<_> = boots.iter().map(|boot| boot.cpu_seconds).collect();
        let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = seconds.iter().copied().fold(0.0, f64::max);
        table.row(
            format!("kernel start → enrolled, {name}/CD, median of {runs}"),
            format!("{:.1} s ({least:.1}–{most:.1})", median(&seconds)),
            "20 s on two quiet cores without KVM",
        );
        table.row(
            format!("QEMU's CPU time up to there, {name}/CD"),
            format!("{:.1} s", median(&cpu)),
            "",
        );
    }
    Ok(())
}

pub(super) fn least_memory_from_cd(
    lab: &Lab,
    iso: &Path,
    firmwares: &[Firmware],
    grain: u32,
    table: &mut Table,
) {
    for firmware in firmwares {
        let way = format!("{firmware:?}/CD");
        least_memory(&way, grain, table, |memory, within| {
            boot(lab, iso, *firmware, memory, within).map(drop)
        });
    }
}

/// The least memory to `grain` MiB, by halving the interval between what fails
/// and what enrols; `boot` takes MiB and how long it may take.
pub(super) fn least_memory(
    way: &str,
    grain: u32,
    table: &mut Table,
    mut boot: impl FnMut(u32, Duration) -> Result<()>,
) {
    let mut within = ENROLLED;
    let least = search(LEAST, MOST, grain, |memory| {
        let begun = Instant::now();
        let enrols = boot(memory, within).is_ok();
        if enrols {
            within = within.min(begun.elapsed() * CRAWLS);
        }
        println!(
            "  {way} in {memory} MiB: {} ({:.0} s)",
            if enrols { "enrols" } else { "fails" },
            begun.elapsed().as_secs_f64()
        );
        enrols
    });
    let measured = least.map_or_else(
        || format!("more than {MOST} MiB"),
        |mib| format!("{mib} MiB (to {grain} MiB)"),
    );
    table.row(
        format!("memory to boot and enrol, {way}"),
        measured,
        "512 MiB",
    );
}

/// The least multiple of `grain` above `low` and up to `high` for which
/// `works`, given that what works goes on working with more.
fn search(low: u32, high: u32, grain: u32, mut works: impl FnMut(u32) -> bool) -> Option<u32> {
    if !works(high) {
        return None;
    }
    let (mut fails, mut enough) = (low, high);
    while enough - fails > grain {
        let middle = fails + (enough - fails) / 2 / grain * grain;
        let middle = middle.max(fails + grain);
        if works(middle) {
            enough = middle;
        } else {
            fails = middle;
        }
    }
    Some(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_the_least_that_works() {
        for least in [176, 208, 256, 496, 512] {
            assert_eq!(search(160, 512, 16, |memory| memory >= least), Some(least));
        }
        assert_eq!(search(160, 512, 64, |memory| memory >= 300), Some(352));
        assert_eq!(search(160, 512, 16, |_| false), None);
    }
}
