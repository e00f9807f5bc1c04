//! `surplus-image`: looks into media, writes a site file into them, checks them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use surplus_image::{Outcome, ShownSite};

/// Writes a site file into a Surplus ISO, shows what is in it, and checks it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies an ISO with a site file in its reserved area; no rebuild.
    Customize {
        /// The site file (`surplus site-file` writes one).
        #[arg(long, value_name = "FILE")]
        site: PathBuf,
        /// The ISO to copy; it stays as it is.
        input: PathBuf,
        /// The ISO to write; replaced as a whole if it is there.
        output: PathBuf,
    },
    /// Prints what is in an ISO, secrets masked.
    Show { iso: PathBuf },
    /// Checks an ISO, or a directory of artefacts, against SHA256SUMS and the
    /// root hash.
    Verify { path: PathBuf },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Customize {
            site,
            input,
            output,
        } => customize(&site, &input, &output),
        Command::Show { iso } => show(&iso),
        Command::Verify { path } => verify(&path),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("surplus-image: {error:#}");
        ExitCode::FAILURE
    })
}

fn customize(site: &Path, input: &Path, output: &Path) -> anyhow::Result<ExitCode> {
    let done = surplus_image::customize(site, input, output).context("nothing was written")?;
    let replaced = if done.replaced {
        ", in place of the site file that was in it"
    } else {
        ""
    };
    println!(
        "{}: site file of {} bytes written{replaced}",
        output.display(),
        done.site_size
    );
    if done.has_token {
        println!(
            "It holds the join token: keep the ISO as secret as that, and the token short-lived."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn show(iso: &Path) -> anyhow::Result<ExitCode> {
    let shown = surplus_image::show(iso)?;
    println!("volume     {}", shown.volume_id);
    match &shown.root_hash {
        Ok(hash) => println!("root hash  {hash}"),
        Err(why) => println!("root hash  unknown: {why}"),
    }
    if let Some(made) = &shown.made {
        println!("made       {made}");
    }
    println!("size       {} bytes", shown.size);
    println!("files");
    for (path, size) in &shown.files {
        println!("  {size:>11}  {path}");
    }
    match &shown.site {
        ShownSite::Empty => println!("site file  none; write one with `surplus-image customize`"),
        ShownSite::Refused(why) => println!("site file  a host would refuse it: {why}"),
        ShownSite::Site(text) => {
            println!("site file");
            text.lines().for_each(|line| println!("  {line}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(path: &Path) -> anyhow::Result<ExitCode> {
    let checks = surplus_image::verify(path)?;
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
