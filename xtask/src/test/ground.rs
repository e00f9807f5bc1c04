//! What tests, demo and bench stand on: tools, programs, images.
//!
//! Each function makes its part if it is missing or old, and says so.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use surplus_tests::accel::Accel;
use surplus_tests::lab::repository;
use surplus_tools::Tools;

/// Says one line of progress.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

pub(crate) fn tools() -> Result<Tools> {
    Tools::ensure(&repository(), &say).context("could not make the tools ready")
}

/// The programs that ours are held against in tests.
pub(crate) fn peers() -> Result<()> {
    Tools::install_for_tests(&say).context("could not install what the tests compare with")
}

/// Our own programs that tests run on this computer, beside this program.
pub(crate) fn programs() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked"]);
    for package in [
        "surplus-marketplace",
        "surplus",
        "surplus-image",
        "surplus-netboot",
        "surplus-attack",
    ] {
        cargo.args(["--package", package]);
    }
    run(cargo)?;
    static_programs()
}

/// What writes a ledger in a machine of its own, and what attacks in a guest:
/// static, for nothing else is there.
fn static_programs() -> Result<()> {
    let writer = ["--package", "surplus-journal", "--example", "writer"];
    let attack = ["--package", "surplus-attack", "--bin", "surplus-attack"];
    for program in [writer, attack] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--locked",
            "--target",
            surplus_tests::guest::TARGET,
        ]);
        cargo.args(program);
        cargo.env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        );
        run(cargo)?;
    }
    Ok(())
}

/// `target/image/`.
pub(crate) fn image() -> Result<()> {
    crate::image::build(&repository(), None).map(drop)
}

/// `target/guest/`.
pub(crate) fn guest() -> Result<PathBuf> {
    surplus_tests::guest::ensure_built(&repository(), &tools()?, &say)
}

/// What runs machines here, found by trying once.
pub(crate) fn accel() -> Result<Accel> {
    let scratch = tempfile::tempdir().context("could not make a temporary directory")?;
    Accel::choose(&tools()?, scratch.path())
}

/// Installs cargo-nextest where it is missing.
pub(crate) fn nextest() -> Result<()> {
    if on_path("cargo-nextest") {
        return Ok(());
    }
    say("installing cargo-nextest, which runs the tests (some minutes, once)");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "cargo-nextest", "--locked", "--quiet"]);
    run(cargo)
}

pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Runs a command in the repository's root, its output shown, to its end.
pub(crate) fn run(mut command: Command) -> Result<()> {
    command.current_dir(repository());
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", words.join(" ")))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words.join(" "));
    }
    Ok(())
}
