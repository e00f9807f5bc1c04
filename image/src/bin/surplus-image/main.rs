//! `surplus-image`: looks into artefacts, writes the site into them, checks them.

mod customize;
mod show;

use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use surplus_image::{Kind, Outcome};

/// Writes a site into a Surplus ISO or boot image, shows what is in it, and
/// checks it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies an ISO with a site file in it, or surplus.efi with the site
    /// file's address; no rebuild.
    Customize(customize::Args),
    /// Prints what is in an ISO or an EFI program, secrets masked.
    Show { file: PathBuf },
    /// Checks an ISO, an EFI program or a directory of artefacts, against
    /// SHA256SUMS and the root hash.
    Verify {
        path: PathBuf,
        /// Also check that the EFI program is signed with this certificate's
        /// key (PEM).
        #[arg(long, value_name = "CERT.pem")]
        cert: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Customize(args) => customize::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Show { file } => show::run(&file).map(|()| ExitCode::SUCCESS),
        Command::Verify { path, cert } => verify(&path, cert.as_deref()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("surplus-image: {error:#}");
        ExitCode::FAILURE
    })
}

/// What the file is, by its content.
fn kind(path: &Path) -> anyhow::Result<Kind> {
    Kind::of(path).with_context(|| format!("reading {}", path.display()))
}

/// A program of this machine.
fn program(name: &str) -> Process {
    Process::new(name)
}

fn verify(path: &Path, cert: Option<&Path>) -> anyhow::Result<ExitCode> {
    let checks = if !path.is_dir() && kind(path)? == Kind::Efi {
        surplus_image::verify_efi(path, cert, &program)?
    } else if cert.is_some() {
        anyhow::bail!(
            "--cert is for one EFI program, and {} is none; leave it out, or name surplus.efi",
            path.display()
        );
    } else {
        surplus_image::verify(path)?
    };
    let mut bad = 0;
    for check in &checks {
        let (word, text) = match &check.outcome {
            Outcome::Good(text) => ("good", text),
            Outcome::Skipped(text) => ("not checked", text),
            Outcome::Bad(text) => {
                bad += 1;
                ("BAD", text)
            }
        };
        println!("{word}: {}: {text}", check.what);
    }
    if bad > 0 {
        eprintln!(
            "surplus-image: {bad} of {} checks failed; build or download the artefacts again",
            checks.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
