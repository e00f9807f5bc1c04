//! Small artefacts of our shape for the tests, made by hand: an ISO with a root
//! image and its tree, a site area and a kernel command line, as the image build
//! lays them; and a unified kernel image.

use std::fs;
use std::path::{Path, PathBuf};

use surplus_medium::area;

use crate::verity::tests::image;

const SECTOR: usize = 2048;
const DIRECTORY: usize = 20;
const AREA: usize = 24;
const UKI: usize = AREA + area::SIZE / SECTOR;
const ROOT: usize = UKI + 1;

pub(crate) const SITE: &str = "version = 1\n[marketplace]\nurl = \"https://hub:8443\"\n\
    ca_sha256 = \"sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"\n\
    token = \"s3cret\"\n";

/// A scratch directory with an ISO and a site file in it.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) iso: PathBuf,
    pub(crate) site: PathBuf,
    pub(crate) hash: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (bytes, hash) = build();
        let iso = directory.path().join("surplus.iso");
        let site = directory.path().join("site.toml");
        fs::write(&iso, bytes).unwrap();
        fs::write(&site, SITE).unwrap();
        Self {
            directory,
            iso,
            site,
            hash,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Names of all files: nothing may be left over.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Byte in the middle of the root image of the test ISO.
pub(crate) const IN_ROOT: usize = ROOT * SECTOR + 5000;
/// Byte in the site area's payload of a customised test ISO.
pub(crate) const IN_AREA: usize = AREA * SECTOR + 70;
/// Byte behind the command line, covered by SHA256SUMS alone.
pub(crate) const IN_KERNEL: usize = UKI * SECTOR + 200;

fn build() -> (Vec<u8>, String) {
    let (root, hash) = image(300);
    let files: [(&[u8], usize, usize); 3] = [
        (b"ROOT.IMG;1", ROOT, root.len()),
        (b"SITE.BIN;1", AREA, area::SIZE),
        (b"SURPLUS.EFI;1", UKI, SECTOR),
    ];
    let sectors = ROOT + root.len().div_ceil(SECTOR);
    let mut iso = vec![0; sectors * SECTOR];
    let mut put = |sector: usize, bytes: &[u8]| {
        iso[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
    };
    put(16, &descriptor(&hash, sectors));
    put(17, b"\xffCD001\x01");
    let listing = [
        record(&[0], DIRECTORY, SECTOR, true),
        record(&[1], DIRECTORY, SECTOR, true),
    ]
    .into_iter()
    .chain(
        files
            .iter()
            .map(|(name, sector, size)| record(name, *sector, *size, false)),
    )
    .collect::<Vec<_>>()
    .concat();
    put(DIRECTORY, &listing);
    put(AREA, &area::empty());
    put(UKI, format!("quiet surplus.roothash={hash}\0").as_bytes());
    put(ROOT, &root);
    (iso, hash)
}

fn descriptor(hash: &str, sectors: usize) -> Vec<u8> {
    let mut bytes = vec![b' '; SECTOR];
    bytes[..7].copy_from_slice(b"\x01CD001\x01");
    let id = format!("SURPLUS_{}", hash[..16].to_ascii_uppercase());
    bytes[40..40 + id.len()].copy_from_slice(id.as_bytes());
    bytes[80..84].copy_from_slice(&u32::try_from(sectors).unwrap().to_le_bytes());
    bytes[128..130].copy_from_slice(&2048_u16.to_le_bytes());
    bytes[156..190].copy_from_slice(&record(&[0], DIRECTORY, SECTOR, true));
    bytes[813..829].copy_from_slice(b"2025080900000000");
    bytes
}

fn record(name: &[u8], sector: usize, size: usize, directory: bool) -> Vec<u8> {
    let length = (33 + name.len()).next_multiple_of(2);
    let mut bytes = vec![0; length];
    bytes[0] = u8::try_from(length).unwrap();
    bytes[2..6].copy_from_slice(&u32::try_from(sector).unwrap().to_le_bytes());
    bytes[10..14].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    bytes[25] = u8::from(directory) * 2;
    bytes[32] = u8::try_from(name.len()).unwrap();
    bytes[33..33 + name.len()].copy_from_slice(name);
    bytes
}

/// A root hash that a kernel image names.
pub(crate) const HASH: &str = "30963ba806de3b535e612e77b7c1ee6add0e5e93248a5e7d28b1c57587857544";

/// The beginning of every command line, up to the root hash.
pub(crate) fn line() -> String {
    format!("console=tty0 quiet surplus.roothash={HASH}")
}

/// A unified kernel image with this command line in room for `room` bytes, as
/// signing programs take it.
pub(crate) fn kernel(line: &str, room: usize) -> Vec<u8> {
    const HEADER: usize = 0x40;
    const ALIGN: usize = 512;
    let sections: [(&[u8], Vec<u8>); 3] = [
        (b".text", vec![0xc3; 100]),
        (b".cmdline", format!("{line:room$}").into_bytes()),
        (b".linux", b"a kernel".repeat(90)),
    ];
    let mut image = vec![0; 2 * ALIGN];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(HEADER, b"PE\0\0\x64\x86");
    put(HEADER + 6, &[3, 0]);
    put(HEADER + 20, &[240, 0, 0x22, 0]);
    let optional = HEADER + 24;
    put(optional, &0x20b_u16.to_le_bytes());
    for (at, value) in [
        (16, 4096),
        (32, 4096),
        (36, 512),
        (56, 5 * 4096),
        (60, 1024),
        (108, 16),
    ] {
        put(optional + at, &u32::to_le_bytes(value));
    }
    put(optional + 68, &[10, 0]);
    for (index, (name, content)) in sections.into_iter().enumerate() {
        let entry = optional + 240 + index * 40;
        let fields = [
            content.len(),
            (index + 1) * 4096,
            content.len().next_multiple_of(ALIGN),
            image.len(),
        ];
        image[entry..entry + name.len()].copy_from_slice(name);
        for (number, field) in fields.into_iter().enumerate() {
            let at = entry + 8 + number * 4;
            image[at..at + 4].copy_from_slice(&u32::try_from(field).unwrap().to_le_bytes());
        }
        image.extend(content);
        image.resize(image.len().next_multiple_of(ALIGN), 0);
    }
    image
}

/// A program that the tests compare with, of this machine.
pub(crate) fn program(name: &str) -> std::process::Command {
    std::process::Command::new(name)
}
