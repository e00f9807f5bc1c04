//! Small images made by the real qemu-img.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use surplus_protocol::lease::ImageFormat;

/// The disk's size.
pub(crate) const DISK: u64 = 8 << 20;

/// A format, and what qemu-img calls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub format: ImageFormat,
    driver: &'static str,
    options: &'static str,
}

pub(crate) const VARIANTS: [Variant; 8] = [
    variant(ImageFormat::Qcow2, "qcow2", "compat=1.1"),
    variant(ImageFormat::Qcow2, "qcow2", "compat=0.10,cluster_size=4k"),
    STREAM,
    variant(ImageFormat::Vmdk, "vmdk", "subformat=monolithicSparse"),
    variant(ImageFormat::Vhd, "vpc", "subformat=dynamic"),
    variant(ImageFormat::Vhd, "vpc", "subformat=fixed,force_size=on"),
    variant(ImageFormat::Vhdx, "vhdx", "subformat=dynamic,block_size=1M"),
    variant(ImageFormat::Vhdx, "vhdx", "subformat=fixed"),
];
pub(crate) const STREAM: Variant = variant(ImageFormat::Vmdk, "vmdk", "subformat=streamOptimized");

const fn variant(format: ImageFormat, driver: &'static str, options: &'static str) -> Variant {
    Variant {
        format,
        driver,
        options,
    }
}

/// An image in a directory of its own.
pub(crate) struct Made {
    _dir: tempfile::TempDir,
    path: PathBuf,
    variant: Variant,
}

impl Made {
    pub(crate) fn new(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (raw, path) = (dir.path().join("raw"), dir.path().join("image"));
        std::fs::write(&raw, disk()).unwrap();
        let mut command = Command::new("/usr/bin/qemu-img");
        command.args(["convert", "-f", "raw", "-O", variant.driver]);
        qemu_img(command.args(["-o", variant.options]).args([&raw, &path]));
        Self {
            _dir: dir,
            path,
            variant,
        }
    }

    pub(crate) fn open(&self) -> File {
        File::open(&self.path).unwrap()
    }

    /// The disk's size as qemu-img reads it.
    pub(crate) fn size_by_qemu(&self) -> u64 {
        let mut command = Command::new("/usr/bin/qemu-img");
        command.args(["info", "--output=json", "-f", self.variant.driver]);
        let output = command.arg(&self.path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let size = text.rsplit("\"virtual-size\":").next().unwrap();
        size.split(',').next().unwrap().trim().parse().unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

/// Data that hardly packs, from the beginning to the end, and nothing between.
fn disk() -> Vec<u8> {
    let mut state = 1_u32;
    let mut noise = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let mut disk = vec![0; usize::try_from(DISK).unwrap()];
    let middle = disk.len() / 2;
    for (index, byte) in disk.iter_mut().enumerate() {
        if index < 1 << 20 || index > middle {
            *byte = noise(index);
        }
    }
    disk
}

pub(crate) fn qemu_img(command: &mut Command) {
    let done = command.output().expect("needs `apt install qemu-utils`");
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words}");
}

/// `qemu-img create`, and what it made.
pub(crate) fn created(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let path = dir.join("created");
    let mut command = Command::new("/usr/bin/qemu-img");
    command.current_dir(dir).args(["create", "-q"]);
    let (options, size) = arguments.split_at(arguments.len() - 1);
    qemu_img(command.args(options).arg(&path).args(size));
    std::fs::read(path).unwrap()
}
