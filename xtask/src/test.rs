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
    /// The small guest's image, made
    Guest,
    /// The appliance in QEMU
    E2e,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which parts; all of them if none is named
    parts: Vec<Part>,
    /// Only tests whose name contains this (with `unit` or `e2e`)
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// One line of the summary.
struct Finished {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() {
        vec![Part::Lint, Part::Unit, Part::E2e]
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
                Part::Guest => step(&mut finished, "guest image", || ground::guest().map(drop)),
                Part::E2e => e2e(&mut finished, filter),
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

fn e2e(finished: &mut Vec<Finished>, filter: Option<&str>) {
    let before = finished.len();
    step(finished, "programs", ground::programs);
    step(finished, "image", ground::image);
    step(finished, "guest image", || ground::guest().map(drop));
    if finished[before..].iter().any(|step| step.error.is_some()) {
        eprintln!("\nend-to-end tests: not run, for what they need is not there");
        return;
    }
    step(finished, "end-to-end tests", || {
        ground::nextest()?;
        let accel = ground::accel()?;
        eprintln!("machines run by {}", accel.name());
        let mut nextest = cargo(["nextest", "run", "--profile", "e2e", "--locked"]);
        nextest.args([
            "--package",
            "surplus-tests",
            "-E",
            &expression("kind(test)", filter),
        ]);
        // A backtrace of the test harness says nothing about a machine.
        nextest
            .env("SURPLUS_TEST_ACCEL", accel.name())
            .env("RUST_BACKTRACE", "0");
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
