//! `cargo xtask test`: every test, or a part of them.
//!
//! What is missing is installed first, said before it is done. Each part's
//! time stands in the summary; the exit code is 0 only when all of it passed.

pub(crate) mod ground;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Part {
    /// Formatting, lints, licences and sources
    Lint,
    /// Everything that needs no machine
    Unit,
    /// Hosts and marketplace under simulated faults, many seeds
    Sim,
    /// The agent killed at every point, then agent and libvirt on a booted host
    Kill,
    /// The power cut: a host's, and that of a disk with a ledger on it
    Powercut,
    /// What hostile guests try, on the network and out of QEMU; also within `e2e`
    Attack,
    /// Disks that are given to guests, on a booted host; also within `e2e`
    Storage,
    /// Guest images of every format, good and hostile, then on a booted host; also
    /// within `unit` and `e2e`
    Images,
    /// The small guest's image, made
    Guest,
    /// The appliance in QEMU, booted from media
    E2e,
    /// The appliance in QEMU, booted over a network; Secure Boot
    Netboot,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which parts; all of them if none is named
    parts: Vec<Part>,
    /// Only tests whose name contains this (with `unit`, `e2e`, `netboot`)
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// With what a rack may really see: eight hosts at once, DHCP two minutes late
    #[arg(long)]
    full: bool,
    /// With `sim`: this seed alone, everything that happens in it printed. With
    /// `kill` and `powercut`: what the moments follow from
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// With `kill` and `powercut`: so many rounds, each with the next seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u64,
    /// With `kill`: this point of the agent's life alone, in this `--way`
    #[arg(long, value_name = "N", requires = "way")]
    point: Option<usize>,
    /// With `kill`: `kill`, `fail` or `fail-twice`
    #[arg(long, value_name = "WAY")]
    way: Option<String>,
    /// With `sim`: the first seed of the range
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_seed: u64,
    /// With `sim`: how many seeds
    #[arg(long, value_name = "N", default_value_t = 1000)]
    seeds: u64,
}

const PROGRAMS: &str = "programs";
const IMAGE: &str = "image";
const GUEST: &str = "guest image";

/// One line of the summary.
struct Finished {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() {
        vec![Part::Lint, Part::Unit, Part::E2e, Part::Netboot]
    } else {
        args.parts.clone()
    };
    let filter = args.filter.as_deref();
    let begun = Instant::now();
    let mut finished = Vec::new();
    step(&mut finished, "tools", || {
        ground::peers()?;
        ground::tools().map(drop)
    });
    if finished.iter().all(|step| step.error.is_none()) {
        for part in parts {
            match part {
                Part::Lint => lint(&mut finished),
                Part::Unit => step(&mut finished, "unit tests", || unit(filter)),
                Part::Sim => step(&mut finished, "simulation", || sim(args)),
                Part::Kill => {
                    step(&mut finished, "kill, every point", || kill(args));
                    if args.point.is_none() {
                        machines(&mut finished, &KILL, args);
                    }
                }
                Part::Powercut => machines(&mut finished, &POWERCUT, args),
                Part::Attack => machines(&mut finished, &ATTACK, args),
                Part::Storage => machines(&mut finished, &STORAGE, args),
                Part::Images => {
                    step(&mut finished, "images", images);
                    machines(&mut finished, &IMAGES, args);
                }
                Part::Guest => step(&mut finished, GUEST, || ground::guest().map(drop)),
                Part::E2e => machines(&mut finished, &E2E, args),
                Part::Netboot => machines(&mut finished, &NETBOOT, args),
            }
        }
    }
    summary(&finished, begun.elapsed())
}

fn step(finished: &mut Vec<Finished>, name: &'static str, body: impl FnOnce() -> Result<()>) {
    eprintln!("\n==> {name}");
    let begun = Instant::now();
    let error = body().err();
    if let Some(error) = &error {
        eprintln!("{name}: {error:#}");
    }
    finished.push(Finished {
        name,
        took: begun.elapsed(),
        error,
    });
}

fn lint(finished: &mut Vec<Finished>) {
    step(finished, "formatting", || {
        ground::run(cargo(["fmt", "--all", "--check"]))
    });
    step(finished, "clippy", || {
        let mut clippy = cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
        ]);
        clippy.args(["--", "-D", "warnings"]);
        ground::run(clippy)
    });
    if ground::on_path("cargo-deny") {
        step(finished, "licences and sources", || {
            ground::run(cargo([
                "deny",
                "--offline",
                "check",
                "licenses",
                "bans",
                "sources",
            ]))
        });
    } else {
        eprintln!("\nlicences and sources: not checked (`cargo install cargo-deny --locked`)");
    }
}

fn unit(filter: Option<&str>) -> Result<()> {
    ground::nextest()?;
    let mut nextest = cargo(["nextest", "run", "--workspace", "--locked"]);
    nextest.args([
        "-E",
        &expression("not (package(surplus-tests) and kind(test))", filter),
    ]);
    nextest.args(["--no-fail-fast"]);
    ground::run(nextest)
}

/// What is judged, fetched, converted and cached, with the real qemu-img; these
/// are among the unit tests too.
fn images() -> Result<()> {
    ground::nextest()?;
    let mut nextest = cargo(["nextest", "run", "--locked", "--no-fail-fast"]);
    for package in ["surplus-disk-image", "surplus-agent", "surplus-marketplace"] {
        nextest.args(["--package", package]);
    }
    let those = "package(surplus-disk-image) or test(/guests::(base|disk|image)::/) \
                 or test(system::transient) or test(images::)";
    nextest.args(["-E", those]);
    ground::run(nextest)
}

/// Many simulated worlds, or one of them; a few are among the unit tests.
fn sim(args: &Args) -> Result<()> {
    let mut sim = cargo([
        "run",
        "--quiet",
        "--locked",
        "--profile",
        "sim",
        "--package",
        "surplus-sim",
        "--",
    ]);
    match args.seed {
        Some(seed) => sim.args(["--seed", &seed.to_string()]),
        None => sim.args([
            "--first-seed",
            &args.first_seed.to_string(),
            "--seeds",
            &args.seeds.to_string(),
        ]),
    };
    ground::run(sim)
}

/// The agent in a process of its own, killed and let fail at every point; some
/// of them are among the unit tests.
fn kill(args: &Args) -> Result<()> {
    let mut kill = cargo([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "surplus-kill",
        "--",
    ]);
    kill.args(["--seed", &args.seed.unwrap_or_default().to_string()]);
    kill.args(["--rounds", &args.rounds.to_string()]);
    if let Some(way) = &args.way {
        kill.args(["--way", way]);
    }
    if let Some(point) = args.point {
        kill.args(["--point", &point.to_string()]);
    }
    ground::run(kill)
}

/// A part that runs machines.
struct Machines {
    name: &'static str,
    /// Its test programs, as nextest chooses them.
    programs: &'static str,
}

const E2E: Machines = Machines {
    name: "end-to-end tests",
    // What is killed and cut off at random moments is a part by itself.
    programs: "kind(test) and not binary(/netboot|secure_boot|^kill$|^powercut$/)",
};
const KILL: Machines = Machines {
    name: "kill, on a host",
    programs: "kind(test) and binary(kill)",
};
const POWERCUT: Machines = Machines {
    name: "power cuts",
    programs: "kind(test) and binary(powercut)",
};
const ATTACK: Machines = Machines {
    name: "attacks",
    programs: "kind(test) and binary(/^isolation$|^hostile_guest$|^confinement$|^self_test$|^limits$|^exposure$/)",
};
const STORAGE: Machines = Machines {
    name: "disks",
    programs: "kind(test) and binary(storage)",
};
const IMAGES: Machines = Machines {
    name: "images, on a host",
    programs: "kind(test) and binary(images)",
};
const NETBOOT: Machines = Machines {
    name: "network boot tests",
    programs: "kind(test) and binary(/netboot|secure_boot/)",
};

fn machines(finished: &mut Vec<Finished>, part: &Machines, args: &Args) {
    // What one part has made, or found wanting, is there for the next.
    if finished.iter().all(|step| step.name != PROGRAMS) {
        step(finished, PROGRAMS, ground::programs);
        step(finished, IMAGE, ground::image);
        step(finished, GUEST, || ground::guest().map(drop));
    }
    let failed = |step: &Finished| step.error.is_some();
    let needed = |step: &&Finished| [PROGRAMS, IMAGE, GUEST].contains(&step.name);
    if finished.iter().filter(needed).any(failed) {
        eprintln!("\n{}: not run, for what they need is not there", part.name);
        return;
    }
    step(finished, part.name, || {
        ground::nextest()?;
        let accel = ground::accel()?;
        eprintln!("machines run by {}", accel.name());
        let mut nextest = cargo(["nextest", "run", "--profile", "e2e", "--locked"]);
        nextest.args([
            "--package",
            "surplus-tests",
            "-E",
            &expression(part.programs, args.filter.as_deref()),
        ]);
        // A backtrace of the test harness says nothing about a machine.
        nextest
            .env("SURPLUS_TEST_ACCEL", accel.name())
            .env("RUST_BACKTRACE", "0");
        if args.full {
            nextest.env("SURPLUS_TEST_FULL", "1");
        }
        if let Some(seed) = args.seed {
            nextest.env("SURPLUS_TEST_SEED", seed.to_string());
        }
        nextest.env("SURPLUS_TEST_ROUNDS", args.rounds.to_string());
        ground::run(nextest).with_context(|| {
            "logs of failed tests: target/test-logs/<test>/<machine>/serial.log".to_owned()
        })
    });
}

fn expression(base: &str, filter: Option<&str>) -> String {
    match filter {
        Some(text) => format!("{base} and test({text})"),
        None => base.to_owned(),
    }
}

fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

fn summary(finished: &[Finished], all: Duration) -> Result<()> {
    eprintln!("\n{:<24} {:>8}", "part", "seconds");
    for step in finished {
        let verdict = if step.error.is_some() {
            "FAILED"
        } else {
            "passed"
        };
        eprintln!(
            "{:<24} {:>8.1}  {verdict}",
            step.name,
            step.took.as_secs_f64()
        );
    }
    eprintln!("{:<24} {:>8.1}", "all", all.as_secs_f64());
    let failed: Vec<_> = finished
        .iter()
        .filter(|step| step.error.is_some())
        .map(|step| step.name)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_part_fails_the_run() {
        let mut finished = Vec::new();
        step(&mut finished, "good", || Ok(()));
        assert!(summary(&finished, Duration::ZERO).is_ok());
        step(&mut finished, "bad", || bail!("no"));
        step(&mut finished, "good again", || Ok(()));
        let error = summary(&finished, Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "failed: bad");
    }

    #[test]
    fn a_filter_narrows_a_part() {
        assert_eq!(expression("kind(test)", None), "kind(test)");
        assert_eq!(
            expression("kind(test)", Some("lease")),
            "kind(test) and test(lease)"
        );
    }
}
