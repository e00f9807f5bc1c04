//! `cargo xtask image`: makes the boot artefacts in `target/image/`.
//!
//! ```text
//! packages ──mkosi──▶ base ──compose──▶ tree ──squash──▶ base.squashfs ─┐
//! systemd/ ───────────────────┘                                          ▼
//! surplus-agent, surplus-guard ──────────────────────append──▶ root.img (+ verity)
//! surplus-init ──▶ initrd ◀──root hash── root.img                        │
//! vmlinuz, initrd, command line ──▶ unsigned.efi                         │
//! key ──sign──▶ surplus.efi, snponly.efi ──▶ surplus.iso ◀───────────────┘
//! ```
//!
//! What always holds: an artefact that lies in `target/image/` was made
//! completely, and all of them belong to one root hash once the build has
//! ended well. A step runs only if something that it reads has changed
//! ([`stamp`]), so a new agent costs seconds.

mod boot;
mod iso;
mod keys;
mod loaders;
mod programs;
mod progress;
mod records;
mod root;
mod run;
mod size;
mod stamp;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use surplus_image::signing::Signer;
use surplus_tools::Tools;

pub(crate) use self::progress::Progress;

/// `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sign what UEFI firmware loads with this RSA key (PEM), for Secure Boot.
    #[arg(long, value_name = "KEY.pem", requires = "secure_boot_cert")]
    secure_boot_key: Option<PathBuf>,
    /// The signing key's certificate (PEM); firmware gets it as `db`.
    #[arg(long, value_name = "CERT.pem", requires = "secure_boot_key")]
    secure_boot_cert: Option<PathBuf>,
    /// Make keys and certificates for Secure Boot in DIR, and build nothing.
    #[arg(long, value_name = "DIR", conflicts_with = "secure_boot_key")]
    make_secure_boot_keys: Option<PathBuf>,
}

impl Args {
    fn signer(&self) -> Option<Signer> {
        Some(Signer {
            key: self.secure_boot_key.clone()?,
            certificate: self.secure_boot_cert.clone()?,
        })
    }
}

/// Builds the artefacts, or makes keys, as asked.
pub(crate) fn run(workspace: &Path, args: &Args) -> anyhow::Result<()> {
    match &args.make_secure_boot_keys {
        Some(directory) => keys::make(workspace, directory),
        None => build(workspace, args.signer().as_ref()).map(drop),
    }
}

/// Seconds since 1970 of all times in all artefacts; the same as in mkosi.conf,
/// so that equal input gives equal bytes.
const EPOCH: &str = "1754697600";

/// Where the build reads and writes.
#[derive(Debug)]
struct Build {
    workspace: PathBuf,
    tools: Tools,
    /// Finished artefacts: `target/image`.
    out: PathBuf,
    /// What is kept between builds: `target/image/work`.
    work: PathBuf,
}

/// Builds what is out of date, signed if there is somebody to sign it, and
/// returns the directory of the artefacts.
///
/// # Errors
///
/// The failed step, the program's own last words, and what to do next.
pub(crate) fn build(workspace: &Path, signer: Option<&Signer>) -> anyhow::Result<PathBuf> {
    let progress = Progress::start();
    let stage = progress.stage("tools");
    let tools = Tools::ensure(workspace, &|line| stage.say(line))?;
    stage.done("ready");

    let out = workspace.join("target/image");
    let work = out.join("work");
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let build = Build {
        workspace: workspace.to_owned(),
        tools,
        out,
        work,
    };

    // Compiling and installing packages share nothing but the machine.
    let (programs, base) = std::thread::scope(|scope| {
        let programs = scope.spawn(|| programs::build(&build, &progress));
        let base = root::base(&build, &progress);
        (programs.join(), base)
    });
    let programs = programs.map_err(|_| anyhow!("the thread that compiles ended by a panic"))??;
    let base = base?;

    let root = root::image(&build, &base, &programs, &progress)?;
    let boot = boot::image(&build, &base, &root, &programs.init, &progress)?;
    let loaders = loaders::make(&build, &boot, signer, &progress)?;
    iso::image(&build, &root, &boot, &loaders, &progress)?;
    records::write(&build, &root, &boot, &loaders, &progress)?;
    progress.finish(&format!("artefacts are in {}", build.out.display()));
    Ok(build.out)
}
