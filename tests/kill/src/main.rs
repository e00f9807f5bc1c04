//! Runs cases, or is what they need: the agent, and `qemu-img`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};
use surplus_kill::agent::{self, World};
use surplus_kill::{Case, Outcome, Way, points, run};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// What the second death, and the time until the next life, follow from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Every way at every point, so often, each time with the next seed
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Every so many points only
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// This way alone
    #[arg(long)]
    way: Option<Way>,
    /// This point alone
    #[arg(long, requires = "way")]
    point: Option<usize>,
    /// Names every point, and runs nothing else
    #[arg(long)]
    list: bool,
    /// Cases beside each other; one for each processor if not given
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Is the agent of a story
    #[command(hide = true)]
    Agent { world: PathBuf, state: Utf8PathBuf },
    /// Is the agent's `qemu-img`
    #[command(hide = true)]
    QemuImg {
        world: PathBuf,
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Agent { world, state }) => agent::live(world, state),
        Some(Role::QemuImg { world, arguments }) => qemu_img(world, arguments),
        None => cases(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("surplus-kill: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `create -q -u -f qcow2 -b IMAGE -F raw DISK SIZE`: makes an empty file.
fn qemu_img(world: &Path, arguments: &[PathBuf]) -> Result<()> {
    let world = World::connect(world)?;
    let disk = arguments.get(9).context("which disk?")?;
    if !world.point("make the disk".to_owned()) {
        bail!("no room, as it was told to say");
    }
    std::fs::write(disk, b"a disk").with_context(|| format!("could not write {disk:?}"))?;
    if !world.point("make the disk, done".to_owned()) {
        bail!("a fault, as it was told to say");
    }
    Ok(())
}

fn cases(arguments: &Arguments) -> Result<()> {
    let program = std::env::current_exe().context("could not find this program")?;
    let begun = Instant::now();
    let points = points(&program)?;
    if arguments.list {
        for (index, point) in points.iter().enumerate() {
            println!("{:>4}  {point}", index + 1);
        }
        return Ok(());
    }
    let ways = match arguments.way {
        Some(way) => vec![way],
        None => vec![Way::Kill, Way::Fail, Way::FailTwice],
    };
    let chosen = match arguments.point {
        Some(point) => vec![point],
        None => (1..=points.len()).step_by(arguments.every.max(1)).collect(),
    };
    let mut all = Vec::new();
    for round in 0..arguments.rounds {
        let seed = arguments.seed + round;
        for &way in &ways {
            all.extend(chosen.iter().map(|&point| Case { seed, way, point }));
        }
    }
    let (struck, failed) = beside_each_other(&program, &all, arguments.jobs)?;
    println!(
        "{} points; {} stories with {struck} faults in {:.1} s; {failed} broke a promise",
        points.len(),
        all.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed > 0 {
        bail!("{failed} of {} stories broke a promise", all.len());
    }
    Ok(())
}

/// How many faults happened, and how many stories broke a promise.
fn beside_each_other(program: &Path, all: &[Case], jobs: Option<usize>) -> Result<(usize, usize)> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, sums) = (AtomicUsize::new(0), Mutex::new((0, 0)));
    let work = || -> Result<()> {
        loop {
            let Some(&case) = all.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return Ok(());
            };
            let outcome = run(program, Some(case)).with_context(|| format!("{case}"))?;
            if let Ok(mut sums) = sums.lock() {
                sums.0 += outcome.struck.len();
                sums.1 += usize::from(!outcome.broken.is_empty());
            }
            tell(case, &outcome);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.unwrap_or(processors).max(1))
            .map(|_| scope.spawn(work))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    Ok(sums.into_inner().unwrap_or_default())
}

fn tell(case: Case, outcome: &Outcome) {
    if outcome.broken.is_empty() {
        return;
    }
    println!("{case}");
    println!("  struck at: {}", outcome.struck.join("; "));
    for what in &outcome.broken {
        println!("  {what}");
    }
}
