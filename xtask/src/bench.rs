//! `cargo xtask bench`: the measured table.
//!
//! Every figure is measured in this run, on this computer; the accelerator
//! stands above the table, for without KVM times are those of emulation. CPU
//! seconds are QEMU's own, which other work on the computer does not change.

mod boots;
mod contents;
mod guests;
mod idle;
mod netboot;
mod network;
mod table;

use std::time::Duration;

use anyhow::Result;
use surplus_tests::{Firmware, Lab, Marketplace, interrupt};

use self::table::Table;
use crate::test::ground;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Bytes of the ISO by content
    Contents,
    /// Kernel start to enrolled
    Boots,
    /// The least memory that enrols
    Memory,
    /// Network boot: its time beside the CD's, its memory, its fetch beside curl
    Netboot,
    /// The agent's cost, and ticket to QEMU beside a bare `virsh create`
    Guests,
    /// What guests' isolation costs: throughput, and the time to set it up
    Network,
    /// What the agent takes while nothing happens, with twenty leases too
    Idle,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which parts; all of them if none is named
    parts: Vec<Part>,
    /// Boots for the median
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// One boot and one guest of each kind, the memory floor only roughly
    #[arg(long)]
    quick: bool,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    interrupt::handle()?;
    ground::programs()?;
    let lab = Lab::open_with("bench", &ground::say)?;
    let mut table = Table::default();
    let runs = if args.quick { 1 } else { args.runs.max(1) };
    if args.wants(Part::Network) {
        network::measure(&lab, runs, &mut table)?;
    }
    // All else needs the image.
    if args.parts != [Part::Network] {
        image(args, &lab, runs, &mut table)?;
    }
    println!(
        "\nmachines run by {} on {} processors\n",
        lab.accel().name(),
        processors()
    );
    print!("{table}");
    lab.forget_logs();
    Ok(())
}

fn image(args: &Args, lab: &Lab, runs: u32, table: &mut Table) -> Result<()> {
    ground::image()?;
    ground::guest()?;
    if args.wants(Part::Contents) {
        contents::measure(lab, table)?;
    }
    let marketplace = Marketplace::start(lab)?;
    let token = marketplace.token("bench", 1000)?;
    let iso = marketplace.customised_iso("bench", &marketplace.site_file(&token)?)?;
    if args.wants(Part::Boots) {
        boots::time(lab, &iso, runs, table)?;
    }
    let (firmwares, grain): (&[_], _) = if args.quick {
        (&[Firmware::Bios], boots::COARSE)
    } else {
        (&[Firmware::Bios, Firmware::Uefi], boots::FINE)
    };
    if args.wants(Part::Memory) {
        boots::least_memory_from_cd(lab, &iso, firmwares, grain, table);
    }
    if args.wants(Part::Netboot) {
        netboot::measure(lab, runs, firmwares, grain, table)?;
    }
    if args.wants(Part::Guests) {
        let runs = if args.quick { 1 } else { 3 };
        guests::measure(lab, &marketplace, &iso, runs, table)?;
    }
    if args.wants(Part::Idle) {
        let watched = Duration::from_secs(if args.quick { 60 } else { 300 });
        idle::measure(lab, &marketplace, &iso, watched, table)?;
    }
    Ok(())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
