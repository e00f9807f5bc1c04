//! `cargo xtask image --make-secure-boot-keys DIR`: the operator's own keys, and
//! the files by which firmware takes their certificates.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use surplus_image::signing::{self, MadeKeys};
use surplus_tools::Tools;

/// Makes the keys, and says what to do with them.
pub(crate) fn make(workspace: &Path, directory: &Path) -> anyhow::Result<()> {
    let tools = Tools::ensure(workspace, &|line| eprintln!("{line}"))?;
    let made = signing::make_keys(directory, "Surplus", &|name| tools.command(name))?;
    updates(&tools, directory, &made)?;
    let here = directory.display();
    println!(
        "Keys for Secure Boot are in {here}. Keep the .key files offline where you can.\n\
         \n\
         Sign the artefacts:\n  \
         cargo xtask image --secure-boot-key {here}/db.key --secure-boot-cert {here}/db.pem\n\
         Enrol in the firmware's setup: db.cer, then KEK.cer, then PK.cer (or the .auth files);\n\
         docs/secure-boot.md tells it step by step."
    );
    Ok(())
}

/// For each variable a signed update, which firmware in setup mode and programs
/// that enrol keys take: `PK` signs `PK` and `KEK`, `KEK` signs `db`.
fn updates(tools: &Tools, directory: &Path, made: &MadeKeys) -> anyhow::Result<()> {
    let owner = fs::read_to_string("/proc/sys/kernel/random/uuid").context("making a GUID")?;
    let place = tempfile::tempdir()?;
    for (name, by) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
        let at = |file: &str| place.path().join(file);
        fs::copy(directory.join(format!("{name}.cer")), at("certificate"))?;
        fs::copy(made.certificate(by), at("signer"))?;
        let mut list = tools.command("sbsiglist");
        list.args(["--owner", owner.trim(), "--type", "x509", "--output"])
            .arg(at("list"))
            .arg(at("certificate"));
        checked(&mut list, "sbsiglist", Stdio::null())?;
        // The key by a pipe's place, so that there is no second copy of it.
        let key = fs::File::open(made.key(by))?;
        let mut update = tools.command("sbvarsign");
        update
            .args(["--key", "/dev/stdin", "--cert"])
            .arg(at("signer"))
            .arg("--output")
            .arg(at("update"))
            .arg(name)
            .arg(at("list"));
        checked(&mut update, "sbvarsign", key.into())?;
        fs::copy(at("update"), directory.join(format!("{name}.auth")))?;
    }
    Ok(())
}

fn checked(command: &mut Command, name: &str, input: Stdio) -> anyhow::Result<()> {
    let output = command
        .stdin(input)
        .output()
        .with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
