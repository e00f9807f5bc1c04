//! Makes the small guest's disk: `target/guest/guest.raw` and `guest.qcow2`.
//!
//! All of it comes from the tools tree and one downloaded kernel package;
//! root is not needed, because file systems are filled by mtools and the
//! initramfs is written here. A stamp over every input tells whether the
//! images are still right.
//!
//! The disk: GRUB in the master boot record and behind it, and one FAT
//! partition (type EFI) from 1 MiB on, with GRUB for UEFI, kernel and
//! initramfs.

mod hostile;
mod kernel;
mod writer;

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use surplus_tools::Tools;

use self::kernel::Kernel;
use crate::lab::run;
use surplus_medium::cpio::Archive;

pub use self::hostile::hostile;
pub use self::writer::writer;

/// What programs are compiled for that run where nothing else is: statically.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Raised when the way of making the image changes.
const RECIPE: &str = "1";

const SECTOR: usize = 512;
/// Where the partition begins: behind the usual first MiB.
const PARTITION: usize = 2048 * SECTOR;
/// Room beside kernel and initramfs, for GRUB and the file system itself.
const SLACK: usize = 2 << 20;

const BIOS_MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "fat",
    "search",
    "search_fs_file",
    "linux",
    "boot",
];
const EFI_MODULES: &[&str] = &[
    "part_msdos",
    "fat",
    "search",
    "search_fs_file",
    "linux",
    "boot",
];

/// Makes the images in `target/guest` unless they are up to date; `progress`
/// hears of each step.
pub fn ensure_built(root: &Path, tools: &Tools, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let directory = root.join("target/guest");
    fs::create_dir_all(&directory)
        .with_context(|| format!("could not create {}", directory.display()))?;
    let lock = fs::File::create(directory.join("lock"))?;
    lock.lock()
        .context("could not lock the guest image's directory")?;
    let sources = root.join("tests/guest");
    let stamp = stamp(&sources, tools)?;
    let stamp_file = directory.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(directory);
    }
    let kernel = Kernel::fetch(&directory, tools, progress)?;
    progress("guest image: initramfs and disk");
    let initrd = initramfs(&sources, &directory, &kernel, tools)?;
    let disk = disk(&sources, &directory, &kernel, &initrd, tools)?;
    let raw = directory.join("guest.raw");
    fs::write(&raw, disk)?;
    let qcow2 = directory.join("guest.qcow2");
    run(tools
        .command("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .arg(&raw)
        .arg(&qcow2))?;
    fs::write(&stamp_file, stamp)?;
    Ok(directory)
}

/// The disk of a guest that halts at its first instruction, and hears nothing any
/// more: it takes no time to start, and no processor from its host.
pub fn halting_disk() -> Vec<u8> {
    // `cli; hlt; jmp` back to the `hlt`.
    boots(&[0xfa, 0xf4, 0xeb, 0xfd])
}

/// The disk of a guest that burns its processor from its first instruction on.
pub fn burning_disk() -> Vec<u8> {
    // `jmp` to itself.
    boots(&[0xeb, 0xfe])
}

/// The disk of one whose first sector is this program.
fn boots(program: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..program.len()].copy_from_slice(program);
    disk[510..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// What the guest's TCP service says at a port of this computer, as soon as it
/// does; nothing where it says nothing in time.
pub fn answer(port: u16, within: Duration) -> Result<String> {
    let deadline = Instant::now() + crate::patience(within);
    loop {
        let mut text = String::new();
        let read = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.read_to_string(&mut text)
        });
        if read.is_ok() && !text.is_empty() || Instant::now() >= deadline {
            return Ok(text);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// One of those programs.
fn static_program(root: &Path, name: &str) -> Result<PathBuf> {
    let program = root.join("target").join(TARGET).join("debug").join(name);
    if !program.is_file() {
        bail!(
            "{} is missing: `cargo xtask test` makes it",
            program.display()
        );
    }
    Ok(program)
}

/// What the images are made from, as a hash.
fn stamp(sources: &Path, tools: &Tools) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(RECIPE);
    for name in ["init", "udhcpc", "grub.cfg"] {
        hash.update(
            fs::read(sources.join(name)).with_context(|| format!("could not read {name}"))?,
        );
    }
    hash.update(tools.path("/").as_os_str().as_encoded_bytes());
    Ok(hex::encode(hash.finalize()))
}

/// The compressed initramfs.
fn initramfs(sources: &Path, directory: &Path, kernel: &Kernel, tools: &Tools) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "seed", "etc", "modules"] {
        archive.directory(name);
    }
    archive.console("dev/console");
    let busybox = tools.path("/usr/bin/busybox");
    let busybox =
        fs::read(&busybox).with_context(|| format!("could not read {}", busybox.display()))?;
    archive.file("bin/busybox", 0o755, &busybox);
    for name in ["init", "udhcpc"] {
        archive.file(name, 0o755, &fs::read(sources.join(name))?);
    }
    for (list, wanted) in [("first", kernel::FIRST), ("then", kernel::THEN)] {
        let mut lines = String::new();
        for (name, bytes) in kernel.modules(wanted, tools)? {
            let path = format!("modules/{name}");
            lines.push_str(&format!("/{path}\n"));
            archive.file(&path, 0o644, &bytes);
        }
        archive.file(&format!("modules/{list}"), 0o644, lines.as_bytes());
    }
    let plain = directory.join("initrd.cpio");
    fs::write(&plain, archive.finish())?;
    let packed = directory.join("initrd");
    run(tools
        .command("zstd")
        .args(["-q", "-f", "-19", "-o"])
        .arg(&packed)
        .arg(&plain))?;
    fs::remove_file(&plain)?;
    Ok(packed)
}

/// The whole disk, from its boot record to its partition's end.
fn disk(
    sources: &Path,
    directory: &Path,
    kernel: &Kernel,
    initrd: &Path,
    tools: &Tools,
) -> Result<Vec<u8>> {
    let size = |path: &Path| fs::metadata(path).map(|file| file.len()).unwrap_or(0);
    let content = usize::try_from(size(&kernel.image) + size(initrd))?;
    let partition_bytes = (content + SLACK).next_multiple_of(1 << 20);

    let core = grub(sources, directory, "i386-pc", BIOS_MODULES, tools)?;
    let efi = grub(sources, directory, "x86_64-efi", EFI_MODULES, tools)?;
    let fat = directory.join("partition.fat");
    fs::write(&fat, vec![0; partition_bytes])?;
    run(tools
        .command("mkfs.fat")
        .args(["--invariant", "-i", "5355524e", "-n", "GUEST"])
        .arg(&fat))?;
    let marker = directory.join("surplus-guest");
    fs::write(&marker, "")?;
    run(tools
        .command("mmd")
        .arg("-i")
        .arg(&fat)
        .args(["::/EFI", "::/EFI/BOOT"]))?;
    for (from, to) in [
        (kernel.image.as_path(), "::/vmlinuz"),
        (initrd, "::/initrd"),
        (marker.as_path(), "::/surplus-guest"),
        (efi.as_path(), "::/EFI/BOOT/BOOTX64.EFI"),
    ] {
        run(tools.command("mcopy").arg("-i").arg(&fat).arg(from).arg(to))?;
    }

    let mut disk = vec![0; PARTITION];
    let boot = fs::read(tools.path("/usr/lib/grub/i386-pc/boot.img"))
        .context("could not read GRUB's boot.img")?;
    ensure!(boot.len() == SECTOR, "GRUB's boot.img is not one sector");
    disk[..SECTOR].copy_from_slice(&boot);
    disk[440..SECTOR].copy_from_slice(&partition_table(partition_bytes)?);
    let core = fs::read(core)?;
    ensure!(
        SECTOR + core.len() <= PARTITION,
        "GRUB's core does not fit before the partition"
    );
    // Where boot.img and core.img look by themselves: right behind each other.
    disk[SECTOR..SECTOR + core.len()].copy_from_slice(&core);
    disk.extend_from_slice(&fs::read(&fat)?);
    for scratch in [&fat, &marker] {
        fs::remove_file(scratch)?;
    }
    Ok(disk)
}

/// Bytes 440 to 511 of the boot record: disk id, one active EFI partition,
/// signature.
fn partition_table(partition_bytes: usize) -> Result<[u8; 72]> {
    let mut table = [0; 72];
    table[..4].copy_from_slice(b"SURP");
    let entry = &mut table[6..22];
    entry[0] = 0x80;
    // No one looks at cylinders any more; these say "by sector number".
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = 0xef;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&u32::try_from(PARTITION / SECTOR)?.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(partition_bytes / SECTOR)?.to_le_bytes());
    table[70..].copy_from_slice(&[0x55, 0xaa]);
    Ok(table)
}

/// GRUB's core for `format`, with our configuration inside.
fn grub(
    sources: &Path,
    directory: &Path,
    format: &str,
    modules: &[&str],
    tools: &Tools,
) -> Result<PathBuf> {
    let output = directory.join(format!("grub-{format}"));
    run(tools
        .command("grub-mkimage")
        .args(["-O", format, "-p", "/grub", "-c"])
        .arg(sources.join("grub.cfg"))
        .arg("-o")
        .arg(&output)
        .args(modules))?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_active_and_begins_behind_the_first_mebibyte() {
        let table = partition_table(16 << 20).unwrap();
        assert_eq!(table[6], 0x80);
        assert_eq!(table[14..18], 2048_u32.to_le_bytes());
        assert_eq!(table[18..22], 32768_u32.to_le_bytes());
        assert_eq!(table[70..], [0x55, 0xaa]);
    }
}
