//! A stick or CD labelled `SURPLUS` with `site.toml` on it.
//!
//! What always holds: a device is mounted read-only, only when it bears the
//! label, and is unmounted again at once; a device that was looked at is not
//! read again until it changes, so that looking every few seconds wakes no
//! disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::label::{self, Labelled};
use super::{LARGEST, Source};
use crate::sysroot::SysRoot;

/// The label that a medium must bear.
pub const LABEL: &str = "SURPLUS";

const FILE: &str = "site.toml";

/// Devices that cannot be a medium that somebody plugged in.
const NEVER: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "nbd"];

/// Reads a file from a file system that is not mounted.
pub trait Mounter: Send {
    fn read(&mut self, device: &Path, filesystem: &str, file: &str) -> io::Result<Option<Vec<u8>>>;
}

/// Mounts below a private directory.
#[derive(Clone, Debug)]
pub struct KernelMounter {
    at: PathBuf,
}

impl KernelMounter {
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            at: directory.into(),
        }
    }
}

impl Mounter for KernelMounter {
    fn read(&mut self, device: &Path, filesystem: &str, file: &str) -> io::Result<Option<Vec<u8>>> {
        std::fs::create_dir_all(&self.at)?;
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(
            Some(device),
            &self.at,
            Some(filesystem),
            flags,
            None::<&str>,
        )?;
        let content = read_file(&self.at.join(file));
        umount2(&self.at, MntFlags::MNT_DETACH)?;
        content
    }
}

fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!(
            "{FILE} is larger than {LARGEST} bytes"
        )));
    }
    Ok(Some(bytes))
}

/// Every block device of the machine, asked for the label.
#[derive(Debug)]
pub struct Media<M> {
    root: SysRoot,
    mounter: M,
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

impl<M: Mounter> Media<M> {
    pub fn new(root: SysRoot, mounter: M) -> Self {
        Self {
            root,
            mounter,
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

fn labelled(device: &Path) -> io::Result<Option<Labelled>> {
    let mut start = Vec::with_capacity(label::NEEDED);
    File::open(device)?
        .take(label::NEEDED as u64)
        .read_to_end(&mut start)?;
    Ok(label::read(&start).filter(|labelled| labelled.label.eq_ignore_ascii_case(LABEL)))
}

impl<M: Mounter> Source for Media<M> {
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
            let Ok(Some(labelled)) = labelled(&path) else {
                self.unlabelled.insert(device);
                continue;
            };
            self.found_on = Some(device.name);
            match self.mounter.read(&path, labelled.filesystem, FILE)? {
                Some(bytes) => return Ok(Some(bytes)),
                None => return Err(io::Error::other(format!("there is no {FILE} on it"))),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[derive(Default)]
    struct FakeMounter(Vec<(PathBuf, String)>, Option<Vec<u8>>);

    impl Mounter for FakeMounter {
        fn read(
            &mut self,
            device: &Path,
            filesystem: &str,
            file: &str,
        ) -> io::Result<Option<Vec<u8>>> {
            assert_eq!(file, "site.toml");
            self.0.push((device.to_owned(), filesystem.to_owned()));
            Ok(self.1.clone())
        }
    }

    fn fat(label: &[u8; 11]) -> Vec<u8> {
        let mut device = vec![0; 40_000];
        device[0x52..0x57].copy_from_slice(b"FAT32");
        device[0x47..0x52].copy_from_slice(label);
        device
    }

    #[test]
    fn only_the_labelled_medium_is_mounted() {
        let tree = Tree::new();
        for (name, content) in [
            ("sda", vec![1; 40_000]),
            ("sdb", vec![0; 10]),
            ("sdb1", fat(b"SURPLUS    ")),
            ("sdc1", fat(b"OTHER      ")),
        ] {
            tree.file(&format!("/sys/class/block/{name}/size"), "80")
                .file(&format!("/dev/{name}"), content);
        }
        tree.file("/sys/class/block/sr0/size", "0");
        let mounter = FakeMounter(Vec::new(), Some(b"version = 1".to_vec()));
        let mut media = Media::new(tree.root(), mounter);
        assert_eq!(media.read().unwrap().unwrap(), b"version = 1");
        assert_eq!(media.name(), "medium:sdb1");
        assert_eq!(
            media.mounter.0,
            [(tree.root().path("/dev/sdb1"), "vfat".to_owned())]
        );
    }

    #[test]
    fn a_device_is_read_again_only_when_its_medium_changed() {
        let tree = Tree::new();
        tree.file("/sys/class/block/sdb/size", "80")
            .file("/sys/class/block/sdb/diskseq", "7")
            .file("/dev/sdb", vec![0; 40_000]);
        let mut media = Media::new(tree.root(), FakeMounter(Vec::new(), Some(b"x".to_vec())));
        assert!(media.read().unwrap().is_none());
        tree.file("/dev/sdb", fat(b"SURPLUS    "));
        assert!(media.read().unwrap().is_none());
        tree.file("/sys/class/block/sdb/diskseq", "8");
        assert!(media.read().unwrap().is_some());
    }

    #[test]
    fn a_labelled_stick_without_the_file_is_an_error_that_says_so() {
        let tree = Tree::new();
        tree.file("/sys/class/block/sdb/size", "80")
            .file("/dev/sdb", fat(b"SURPLUS    "));
        let mut media = Media::new(tree.root(), FakeMounter::default());
        assert_eq!(
            media.read().unwrap_err().to_string(),
            "there is no site.toml on it"
        );
    }
}
