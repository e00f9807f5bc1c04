//! Runs seeds: one with everything that happens printed, or a range.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use surplus_safeguard::{Safeguard, without};
use surplus_sim::world::seconds;
use surplus_sim::{Broken, Summary};

#[derive(Debug, Parser)]
struct Arguments {
    /// This seed alone, with every event printed
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Take one rule out, to see what breaks
    #[arg(long, value_name = "RULE")]
    without: Option<Rule>,
    /// Seeds beside each other; one for each processor if not given
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rule {
    Epoch,
    NotAfter,
    UsageKey,
    Brake,
    Restart,
    Tombstone,
}

impl From<Rule> for Safeguard {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Epoch => Self::Epoch,
            Rule::NotAfter => Self::NotAfter,
            Rule::UsageKey => Self::UsageKey,
            Rule::Brake => Self::Brake,
            Rule::Restart => Self::Restart,
            Rule::Tombstone => Self::Tombstone,
        }
    }
}

/// What a range came to.
#[derive(Debug, Default)]
struct Range {
    events: u64,
    simulated: u64,
    leases: usize,
    ran: u64,
    failed: Vec<u64>,
}

impl Range {
    fn add(&mut self, seed: u64, result: Result<Summary, Broken>) {
        match result {
            Ok(summary) => {
                self.events += summary.events;
                self.simulated += summary.took;
                self.leases += summary.leases;
                self.ran += summary.ran;
            }
            Err(broken) => {
                let at = seconds(broken.at);
                println!("seed {seed}: at {at:.3} s: {}", broken.what);
                self.failed.push(seed);
            }
        }
    }
}

fn main() -> ExitCode {
    match seeds() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("surplus-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn seeds() -> Result<()> {
    let arguments = Arguments::parse();
    let rule = arguments.without.map(Safeguard::from);
    if let Some(seed) = arguments.seed {
        return match without(rule, || surplus_sim::run(seed, true))? {
            Ok(summary) => {
                println!("{summary:?}");
                Ok(())
            }
            Err(broken) => bail!("at {:.3} s: {}", seconds(broken.at), broken.what),
        };
    }
    let begun = Instant::now();
    let range = run(&arguments, rule)?;
    println!(
        "{} seeds, {} leases that ran {:.1} days, {} events, {:.1} days simulated in {:.1} s; {} failed",
        arguments.seeds,
        range.leases,
        seconds(range.ran) / 86_400.0,
        range.events,
        seconds(range.simulated) / 86_400.0,
        begun.elapsed().as_secs_f64(),
        range.failed.len()
    );
    if let Some(seed) = range.failed.first() {
        bail!("replay it with --seed {seed}");
    }
    Ok(())
}

fn run(arguments: &Arguments, rule: Option<Safeguard>) -> Result<Range> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(processors).max(1);
    let (next, range) = (AtomicU64::new(0), Mutex::new(Range::default()));
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= arguments.seeds {
                return Ok(());
            }
            let seed = arguments.first_seed + number;
            let result = without(rule, || surplus_sim::run(seed, false))?;
            if let Ok(mut range) = range.lock() {
                range.add(seed, result);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let mut range = range.into_inner().unwrap_or_default();
    range.failed.sort_unstable();
    Ok(range)
}
