//! Runs the programs of a build; a failed one is shown with its last lines.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// How many last lines of a failed program's output are shown.
const TAIL: usize = 25;

/// Runs a program to its end, its output kept in `log`, and fails with the
/// output's end unless it succeeded.
pub(crate) fn logged(command: &mut Command, what: &str, log: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {what}"))?;
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        bail!(
            "{what} failed ({status}); all it said is in {}, the end is:\n{}",
            log.display(),
            tail(&text)
        );
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(command: &mut Command, what: &str) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {what}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what} failed ({}):\n{}", output.status, tail(&said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end, quietly unless it fails.
pub(crate) fn quiet(command: &mut Command, what: &str) -> anyhow::Result<()> {
    output(command, what).map(drop)
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
