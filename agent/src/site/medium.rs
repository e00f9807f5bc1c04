//! A stick or CD labelled `SURPLUS` with `site.toml` on it.
//!
//! What always holds: nothing is mounted and nothing written; a device is read
//! beyond its first bytes only when it bears the label; a device that was looked
//! at is not read again until it changes, so that looking every few seconds wakes
//! no disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

use fatfs::FsOptions;
use surplus_medium::iso9660::{self, IsoError};

use super::label::{self, FileSystem};
use super::{LARGEST, Source};
use crate::sysroot::SysRoot;

/// The label that a medium must bear.
pub const LABEL: &str = "SURPLUS";

const FILE: &str = "site.toml";

/// What it is called on CDs that allow three letters behind the dot.
const SHORT_FILE: &str = "site.tom";

/// Devices that cannot be a medium that somebody plugged in.
const NEVER: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "nbd"];

/// Every block device of the machine, asked for the label.
#[derive(Debug)]
pub struct Media {
    root: SysRoot,
    /// Devices that bear no label, as they were then.
    unlabelled: BTreeSet<Seen>,
    found_on: Option<String>,
}

/// A device at one time: the kernel counts a disk's changes of medium.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    name: String,
    sectors: u64,
    sequence: u64,
}

impl Media {
    pub fn new(root: SysRoot) -> Self {
        Self {
            root,
            unlabelled: BTreeSet::new(),
            found_on: None,
        }
    }

    fn devices(&self) -> Vec<Seen> {
        let class = "/sys/class/block";
        let mut devices = Vec::new();
        for name in self.root.names(class) {
            let fact = |file: &str| self.root.number::<u64>(format!("{class}/{name}/{file}"));
            let sectors = fact("size").unwrap_or(0);
            if sectors > 0 && !NEVER.iter().any(|prefix| name.starts_with(prefix)) {
                let sequence = fact("diskseq").or_else(|| fact("../diskseq")).unwrap_or(0);
                devices.push(Seen {
                    name,
                    sectors,
                    sequence,
                });
            }
        }
        devices
    }
}

/// What kind of file system the device has, if it bears the label.
fn labelled(device: &Path) -> io::Result<Option<FileSystem>> {
    let mut start = Vec::with_capacity(label::NEEDED);
    File::open(device)?
        .take(label::NEEDED as u64)
        .read_to_end(&mut start)?;
    let labelled = label::read(&start).filter(|(_, label)| label.eq_ignore_ascii_case(LABEL));
    Ok(labelled.map(|(filesystem, _)| filesystem))
}

/// The file's content; `None` where the device has no such file.
fn read_file(device: &Path, filesystem: FileSystem) -> io::Result<Option<Vec<u8>>> {
    let device = File::open(device)?;
    match filesystem {
        FileSystem::Fat => read_from_fat(device),
        FileSystem::Iso9660 => read_from_iso(device),
    }
}

fn read_from_fat(device: File) -> io::Result<Option<Vec<u8>>> {
    let volume = fatfs::FileSystem::new(device, FsOptions::new())?;
    match volume.root_dir().open_file(FILE) {
        Ok(file) => bounded(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_from_iso(mut device: File) -> io::Result<Option<Vec<u8>>> {
    let volume = iso9660::volume(&mut device).map_err(io::Error::other)?;
    for name in [FILE, SHORT_FILE] {
        match iso9660::file(&mut device, &volume, name) {
            Ok(extent) => {
                device.seek(SeekFrom::Start(extent.offset))?;
                return bounded(device.take(extent.size)).map(Some);
            }
            Err(IsoError::NotFound { .. }) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(None)
}

fn bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "{FILE} is larger than {LARGEST} bytes"
        )));
    }
    Ok(bytes)
}

impl Source for Media {
    fn name(&self) -> String {
        match &self.found_on {
            Some(device) => format!("medium:{device}"),
            None => "medium".to_owned(),
        }
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let devices = self.devices();
        self.unlabelled.retain(|seen| devices.contains(seen));
        self.found_on = None;
        for device in devices {
            if self.unlabelled.contains(&device) {
                continue;
            }
            let path = self.root.path(format!("/dev/{}", device.name));
            // A device that cannot be read (an empty drive) is none of ours.
            let Ok(Some(filesystem)) = labelled(&path) else {
                self.unlabelled.insert(device);
                continue;
            };
            self.found_on = Some(device.name);
            match read_file(&path, filesystem)? {
                Some(bytes) => return Ok(Some(bytes)),
                None => return Err(io::Error::other(format!("there is no {FILE} on it"))),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
