//! The small guest with a program that attacks.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use surplus_medium::cpio::Archive;

use super::kernel::Kernel;
use super::{disk, static_program};
use crate::lab::{Lab, run};

/// Its disk. The program lies in an archive of its own behind the small guest's,
/// as kernels unpack them one after another.
pub fn hostile(lab: &Lab) -> Result<PathBuf> {
    lab.guest_image("raw")?;
    let made = lab.root().join("target/guest");
    let kernel = Kernel::fetch(&made, lab.tools(), &|line| eprintln!("{line}"))?;
    let program = static_program(lab.root(), "surplus-attack")?;
    let program =
        fs::read(&program).with_context(|| format!("could not read {}", program.display()))?;
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.file("bin/surplus-attack", 0o755, &program);

    let directory = lab.scratch().join("hostile");
    fs::create_dir_all(&directory)?;
    let plain = directory.join("program.cpio");
    fs::write(&plain, archive.finish())?;
    run(lab.tools().command("zstd").args(["-q", "-f"]).arg(&plain))?;
    let mut initrd = fs::read(made.join("initrd")).context("could not read the small guest")?;
    initrd.extend(fs::read(plain.with_extension("cpio.zst"))?);
    let both = directory.join("initrd");
    fs::write(&both, initrd)?;

    let image = directory.join("hostile.raw");
    let sources = lab.root().join("tests/guest");
    fs::write(
        &image,
        disk(&sources, &directory, &kernel, &both, lab.tools())?,
    )?;
    Ok(image)
}
