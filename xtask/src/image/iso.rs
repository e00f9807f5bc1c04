//! The hybrid ISO: boots from CD and USB stick, under BIOS and UEFI.
//!
//! UEFI finds the unified kernel image in a FAT file system; GRUB, on BIOS
//! machines, reads kernel and initramfs out of the same file by block lists, so
//! that they are on the medium once. What always holds: the site area is the
//! first file, so that its place does not depend on the others' sizes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::boot::Boot;
use super::loaders::Loaders;
use super::root::Root;
use super::stamp::{Inputs, up_to_date_or};
use super::{Build, EPOCH, Progress, run};

/// GRUB counts block lists in sectors of this many bytes.
const SECTOR: usize = 512;

/// El Torito gives the size of the EFI image in 16 bits of sectors.
const LARGEST_EFI_IMAGE: u64 = 65535 * 512;

/// What GRUB needs to read the medium and start Linux; nothing to talk with.
const GRUB_MODULES: &[&str] = &[
    "biosdisk",
    "echo",
    "fat",
    "iso9660",
    "linux",
    "loopback",
    "part_gpt",
    "part_msdos",
    "reboot",
    "search_label",
    "sleep",
];

/// Makes `surplus.iso`.
pub(crate) fn image(
    build: &Build,
    root: &Root,
    boot: &Boot,
    loaders: &Loaders,
    progress: &Progress,
) -> anyhow::Result<()> {
    let stage = progress.stage("iso");
    let iso = build.out.join("surplus.iso");
    let key = Inputs::new("iso 1")
        .text(root.key.as_str())
        .text(loaders.key.as_str())
        .key();
    let ran = up_to_date_or(&build.work, "iso", &key, std::slice::from_ref(&iso), || {
        stage.say("making the boot loaders");
        let label = volume_id(&root.conf.hash);
        let efi = efi_image(build, &loaders.uki)?;
        let grub = grub_core(build, &label, &efi, &loaders.uki, &boot.command_line)?;
        let site = build.work.join("site.bin");
        fs::write(&site, surplus_medium::area::empty())?;
        stage.say("making the ISO");
        assemble(
            build,
            &label,
            &[
                ("site.bin", &site),
                ("grub.img", &grub),
                ("efi.img", &efi),
                ("root.img", &root.path),
            ],
            &iso,
        )
    })?;
    let megabytes = iso.metadata()?.len() as f64 / 1e6;
    let state = if ran { "made" } else { "unchanged" };
    stage.done(&format!("ISO {state}, {megabytes:.1} MB"));
    Ok(())
}

/// By which the initramfs knows its own medium among others.
fn volume_id(hash: &str) -> String {
    format!("SURPLUS_{}", hash[..16].to_uppercase())
}

/// The FAT file system with the unified kernel image where firmware looks.
fn efi_image(build: &Build, uki: &Path) -> anyhow::Result<PathBuf> {
    let image = build.work.join("efi.img");
    // FAT's own tables and directories, and rounding.
    let size = (uki.metadata()?.len() + 128 * 1024).next_multiple_of(32 * 1024);
    if size > LARGEST_EFI_IMAGE {
        bail!(
            "the unified kernel image is too large for a CD's boot record ({size} of at most \
             {LARGEST_EFI_IMAGE} bytes): take modules or microcode out of the initramfs"
        );
    }
    fs::File::create(&image)?.set_len(size)?;
    let tool = |program: &str| {
        let mut command = build.tools.command(program);
        command.env("SOURCE_DATE_EPOCH", EPOCH);
        command
    };
    let mut format = tool("mkfs.fat");
    format
        .args([
            "--invariant",
            "-i",
            "53555250",
            "-n",
            "SURPLUS-EFI",
            "-s",
            "4",
        ])
        .arg(&image);
    run::quiet(&mut format, "mkfs.fat")?;
    let mut directories = tool("mmd");
    directories
        .arg("-i")
        .arg(&image)
        .args(["::/EFI", "::/EFI/BOOT"]);
    run::quiet(&mut directories, "mmd")?;
    let mut copy = tool("mcopy");
    copy.arg("-i")
        .arg(&image)
        .arg(uki)
        .arg("::/EFI/BOOT/BOOTX64.EFI");
    run::quiet(&mut copy, "mcopy")?;
    Ok(image)
}

/// GRUB with its script inside: find the medium by its label, read kernel and
/// initramfs out of the image that UEFI boots, start.
fn grub_core(
    build: &Build,
    label: &str,
    efi: &Path,
    uki: &Path,
    command_line: &str,
) -> anyhow::Result<PathBuf> {
    let script = build.work.join("grub.cfg");
    fs::write(
        &script,
        grub_script(label, &fs::read(efi)?, &fs::read(uki)?, command_line)?,
    )?;
    let core = build.work.join("grub.img");
    let mut command = build.tools.command("grub-mkimage");
    command
        .args([
            "--format=i386-pc-eltorito",
            "--prefix=/",
            "--compression=xz",
        ])
        .arg("--config")
        .arg(&script)
        .arg("--output")
        .arg(&core)
        .args(GRUB_MODULES);
    run::quiet(&mut command, "grub-mkimage")?;
    Ok(core)
}

fn grub_script(label: &str, efi: &[u8], uki: &[u8], command_line: &str) -> anyhow::Result<String> {
    let start = uki_in_image(efi, uki)?;
    let blocks = |name: &str| -> anyhow::Result<String> {
        let section =
            surplus_image::efi::section(uki, name).context("reading the unified kernel image")?;
        let first = start + section.start;
        if first % SECTOR != 0 {
            bail!("section {name} begins at byte {first}, which no block list can name");
        }
        Ok(format!(
            "(medium){}+{}",
            first / SECTOR,
            section.len().div_ceil(SECTOR)
        ))
    };
    // A failed command leaves its message; the reboot tries again with nobody
    // at the keyboard.
    Ok(format!(
        "search.fs_label {label} root\n\
         loopback medium /efi.img\n\
         linux {} {command_line}\n\
         initrd {}\n\
         boot\n\
         echo surplus: stage=medium error=\"the boot loader could not read its medium\" \
         next=\"check the CD or stick; trying again\"\n\
         sleep 10\n\
         reboot\n",
        blocks(".linux")?,
        blocks(".initrd")?,
    ))
}

/// Where the unified kernel image lies, in one piece, in the FAT image.
fn uki_in_image(efi: &[u8], uki: &[u8]) -> anyhow::Result<usize> {
    (0..efi.len().saturating_sub(uki.len()))
        .step_by(SECTOR)
        .find(|start| efi[*start..].starts_with(uki))
        .context("the unified kernel image does not lie in one piece in the EFI image")
}

fn assemble(build: &Build, label: &str, files: &[(&str, &Path)], iso: &Path) -> anyhow::Result<()> {
    let part = build.work.join("surplus.iso.part");
    let date = "2025080900000000";
    let mut command = build.tools.command("xorriso");
    command
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .args([
            "-as",
            "mkisofs",
            "-quiet",
            "-iso-level",
            "3",
            "-rational-rock",
        ])
        .args([
            "-volid",
            label,
            "-appid",
            "SURPLUS",
            "-publisher",
            "SURPLUS",
        ])
        .arg(format!("--modification-date={date}"))
        .args(["--set_all_file_dates", date])
        .args([
            "-eltorito-boot",
            "/grub.img",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
        ])
        .args(["-boot-info-table", "--grub2-boot-info"])
        .args(["--grub2-mbr", "/usr/lib/grub/i386-pc/boot_hybrid.img"])
        .args([
            "--efi-boot",
            "/efi.img",
            "-efi-boot-part",
            "--efi-boot-image",
        ])
        .arg("--protective-msdos-label");
    // The heavier, the earlier on the medium.
    for (weight, (name, _)) in files.iter().rev().enumerate() {
        command.args([
            "--sort-weight",
            &(weight + 1).to_string(),
            &format!("/{name}"),
        ]);
    }
    command.arg("-output").arg(&part).arg("-graft-points");
    for (name, path) in files {
        command.arg(format!("/{name}={}", path.display()));
    }
    run::quiet(&mut command, "xorriso")?;
    fs::rename(&part, iso).with_context(|| format!("renaming to {}", iso.display()))
}
