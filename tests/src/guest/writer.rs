//! A machine that does nothing but write a ledger on its disk.

use std::fs;

use anyhow::{Context as _, Result};
use surplus_medium::cpio::Archive;

use super::kernel::Kernel as Package;
use super::static_program;
use crate::lab::Lab;
use crate::machine::Kernel;

/// Its kernel, with `tests/guest/writer` and the journal's `writer` in the
/// initramfs. The disk is `/dev/vda`, with ext4 on it.
pub fn writer(lab: &Lab) -> Result<Kernel> {
    let directory = lab.root().join("target/guest");
    let package = Package::fetch(&directory, lab.tools(), &|line| eprintln!("{line}"))?;
    let program = static_program(lab.root(), "examples/writer")?;
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "disk", "modules"] {
        archive.directory(name);
    }
    archive.console("dev/console");
    let init = lab.root().join("tests/guest/writer");
    for (name, from) in [
        ("bin/busybox", lab.tools().path("/usr/bin/busybox")),
        ("bin/writer", program),
        ("init", init),
    ] {
        let content =
            fs::read(&from).with_context(|| format!("could not read {}", from.display()))?;
        archive.file(name, 0o755, &content);
    }
    let mut list = String::new();
    for (name, content) in package.modules(&["virtio_pci", "virtio_blk", "ext4"], lab.tools())? {
        list.push_str(&format!("/modules/{name}\n"));
        archive.file(&format!("modules/{name}"), 0o644, &content);
    }
    archive.file("modules/list", 0o644, list.as_bytes());
    let initrd = lab.scratch().join("writer.cpio");
    fs::write(&initrd, archive.finish())?;
    Ok(Kernel {
        image: package.image,
        initrd,
        command_line: "console=ttyS0 quiet loglevel=3 panic=-1 tsc=nowatchdog".to_owned(),
    })
}
