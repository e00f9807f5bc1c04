//! Kernel, initramfs, and both with the command line as one unified kernel
//! image, which nobody has signed yet.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use surplus_image::efi::ROOM;

use super::root::{Base, Root};
use super::stamp::{Inputs, Key, up_to_date_or};
use super::{Build, EPOCH, Progress, run};
use crate::initrd;

/// The kernel's command line without the root hash.
///
/// Both consoles; little chatter, since the consoles belong to the stage lines;
/// a panic starts over after ten seconds; no escape sequences on serial
/// consoles; no BPF among the security modules, for systemd would load a
/// program into it before anything else (a second and more under emulation); and
/// not even root changes the running kernel, with Secure Boot or without.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet loglevel=4 panic=10 TERM=dumb \
     systemd.firstboot=no lsm=landlock,lockdown,yama,apparmor lockdown=integrity";

/// The boot files.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) key: Key,
    /// The unified kernel image, as unsigned.
    pub(crate) unsigned: PathBuf,
    /// The command line, root hash included, without padding.
    pub(crate) command_line: String,
}

/// Makes `vmlinuz`, `initrd` and the unified kernel image.
pub(crate) fn image(
    build: &Build,
    base: &Base,
    root: &Root,
    init: &Path,
    progress: &Progress,
) -> anyhow::Result<Boot> {
    let stage = progress.stage("boot");
    let command_line = format!("{COMMAND_LINE} surplus.roothash={}", root.conf.hash);
    let key = Inputs::new("boot 3")
        .text(root.key.as_str())
        .text(&command_line)
        .path(init)?
        .path(&build.workspace.join("initramfs/modules.list"))?
        // How the initramfs is packed is part of this program.
        .path(&build.workspace.join("xtask/src/initrd.rs"))?
        .path(&build.workspace.join("xtask/src/initrd"))?
        .path(&build.workspace.join("crates/medium/src"))?
        .key();
    let unsigned = build.work.join("unsigned.efi");
    let [vmlinuz, initrd] = ["vmlinuz", "initrd"].map(|name| build.out.join(name));
    let outputs = [unsigned.clone(), vmlinuz.clone(), initrd.clone()];
    let ran = up_to_date_or(&build.work, "boot", &key, &outputs, || {
        stage.say("packing the initramfs");
        fs::copy(&base.vmlinuz, &vmlinuz).context("copying the kernel")?;
        let packed = build.work.join("initrd.packed");
        initrd::build(&base.modules()?, init, &root.conf, &root.path, &packed)?;
        let mut bytes = fs::read(&base.microcode).context("reading the microcode archive")?;
        bytes.extend(fs::read(&packed)?);
        fs::write(&initrd, bytes).with_context(|| format!("writing {}", initrd.display()))?;
        stage.say("making the unified kernel image");
        unify(build, &vmlinuz, &initrd, &command_line, &unsigned)
    })?;
    let megabytes = unsigned.metadata()?.len() as f64 / 1e6;
    let state = if ran { "made" } else { "unchanged" };
    stage.done(&format!("unified kernel image {state}, {megabytes:.1} MB"));
    Ok(Boot {
        key,
        unsigned,
        command_line,
    })
}

fn unify(
    build: &Build,
    vmlinuz: &Path,
    initrd: &Path,
    command_line: &str,
    uki: &Path,
) -> anyhow::Result<()> {
    let os_release = build.work.join("os-release");
    fs::write(
        &os_release,
        "ID=surplus\nNAME=Surplus\nPRETTY_NAME=\"Surplus host\"\n",
    )?;
    // Room to write the site's address into a finished image; the stub takes
    // the spaces off again. From a file, for ukify takes them off arguments.
    ensure!(
        command_line.len() <= ROOM / 2,
        "the kernel command line leaves too little of its {ROOM} bytes for the site's address"
    );
    let padded = build.work.join("command-line");
    fs::write(&padded, format!("{command_line:ROOM$}"))?;
    let mut command = build.tools.command("ukify");
    command
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .arg("build")
        .arg("--linux")
        .arg(vmlinuz)
        .arg("--initrd")
        .arg(initrd)
        .arg("--cmdline")
        .arg(format!("@{}", padded.display()))
        .arg("--os-release")
        .arg(format!("@{}", os_release.display()))
        .arg("--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
        .arg("--output")
        .arg(uki);
    run::quiet(&mut command, "ukify")
}
