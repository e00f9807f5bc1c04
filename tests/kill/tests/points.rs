//! Some of the points, in every way. All of them: `cargo xtask test kill`.

use std::path::Path;

use anyhow::{Result, ensure};
use surplus_kill::{Case, Way, points, run};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_surplus-kill"))
}

/// A point in `every` of a life is struck, beginning with `first`.
fn strike(way: Way, first: usize, every: usize) -> Result<()> {
    let count = points(program())?.len();
    for point in (first..=count).step_by(every) {
        let seed = u64::try_from(point)?;
        let case = Case { seed, way, point };
        let outcome = run(program(), Some(case))?;
        ensure!(
            outcome.broken.is_empty(),
            "{}\nstruck at: {:?}\nreplay it: cargo xtask test kill {case}",
            outcome.broken.join("\n"),
            outcome.struck
        );
        ensure!(!outcome.struck.is_empty(), "{case}: nothing happened");
    }
    Ok(())
}

#[test]
fn an_agent_killed_twice_at_any_point_goes_on_and_leaves_nothing() -> Result<()> {
    strike(Way::Kill, 3, 17)
}

#[test]
fn whatever_fails_once_is_made_good() -> Result<()> {
    strike(Way::Fail, 5, 31)
}

#[test]
fn whatever_fails_twice_is_made_good() -> Result<()> {
    strike(Way::FailTwice, 12, 31)
}

#[test]
fn the_story_needs_every_step_of_the_engine() {
    let undisturbed = run(program(), None).unwrap();
    let made = |name: &String| name.starts_with("create") && name.ends_with("done");
    let point = 1 + undisturbed.passed.iter().position(made).unwrap();
    let (seed, way) = (0, Way::Kill);
    let killed = run(program(), Some(Case { seed, way, point })).unwrap();
    let done = [undisturbed.steps, killed.steps].concat();
    for step in [
        "destroy stray ",
        "remove leftovers of ",
        "ask 0",
        "destroy 0",
        "finish ",
        "close ",
        "reject ",
        "adopt 0",
        "adopt orphan ",
        "accept ",
        "refresh ",
        "prepare ",
        "start ",
    ] {
        assert!(
            done.iter().any(|it| it.starts_with(step)),
            "{step}is missing: {done:#?}"
        );
    }
}
