//! Compiles the programs that go into the image.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use super::{Build, Progress, run};

/// The target of the static programs; the same machine, but named, so that its
/// flags do not reach build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The compiled programs.
#[derive(Debug)]
pub(crate) struct Programs {
    /// `surplus-agent`, linked against the image's libvirt.
    pub(crate) agent: PathBuf,
    /// `surplus-guard`, static.
    pub(crate) guard: PathBuf,
    /// `surplus-init`, static.
    pub(crate) init: PathBuf,
}

/// Compiles all; cargo knows what is out of date.
pub(crate) fn build(build: &Build, progress: &Progress) -> anyhow::Result<Programs> {
    let stage = progress.stage("programs");
    let target = build.workspace.join("target");
    stage.say("compiling surplus-init");
    compile(build, "surplus-init", Some(TARGET))?;
    stage.say("compiling surplus-guard");
    compile(build, "surplus-guard", Some(TARGET))?;
    stage.say("compiling surplus-agent (minutes, the first time)");
    compile(build, "surplus-agent", None)?;
    stage.done("surplus-init, surplus-guard and surplus-agent compiled");
    Ok(Programs {
        agent: target.join("appliance/surplus-agent"),
        guard: target.join(TARGET).join("appliance/surplus-guard"),
        init: target.join(TARGET).join("appliance/surplus-init"),
    })
}

fn compile(build: &Build, package: &str, target: Option<&str>) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&build.workspace).args([
        "build",
        "--quiet",
        "--profile",
        "appliance",
        "--package",
        package,
    ]);
    if let Some(target) = target {
        command.args(["--target", target]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    let log = build.work.join(format!("{package}.log"));
    run::logged(&mut command, &format!("compiling {package}"), &log)
        .with_context(|| format!("`cargo build --package {package}` shows the errors in full"))
}
