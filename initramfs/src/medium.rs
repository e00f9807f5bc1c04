//! Finds the medium by its identity: the volume id carries the root hash, so
//! another image's CD in the next drive is never taken for ours.
//!
//! Whole disks alone are looked at: CD, USB stick and disk carry the same ISO
//! 9660 file system from their first byte on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use surplus_medium::iso9660::{self, IsoError};

use crate::conf::RootConf;
use crate::failure::Failure;
use crate::source::{self, Source};

const IMAGE: &str = "/root.img";
const AREA: &str = "/site.bin";

/// A medium that is there is found well before the first word about waiting.
const FIRST_WORD: Duration = Duration::from_secs(10);
const NEXT_WORD: Duration = Duration::from_secs(60);

/// What a look at one device showed: its name and why it is not the medium.
type Others = BTreeMap<String, String>;

/// The search for one medium, for ever if need be.
#[derive(Debug)]
pub(crate) struct Search {
    volume_id: String,
    /// What the last look showed.
    others: Others,
    word_at: Instant,
}

impl Search {
    pub(crate) fn new(conf: &RootConf) -> Self {
        Self {
            volume_id: conf.volume_id(),
            others: Others::new(),
            word_at: Instant::now() + FIRST_WORD,
        }
    }

    pub(crate) fn volume_id(&self) -> &str {
        &self.volume_id
    }

    /// Looks at every disk once.
    pub(crate) fn look(&mut self) -> Option<Source> {
        self.others.clear();
        for name in disks(Path::new("/sys/class/block")) {
            match examine(&name, &self.volume_id) {
                Ok(source) => return Some(source),
                Err(why) => _ = self.others.insert(name, why),
            }
        }
        None
    }

    /// Says now and then what is waited for.
    pub(crate) fn say_what_is_missing(&mut self) {
        if Instant::now() >= self.word_at {
            waiting(&self.volume_id, &self.others).announce();
            self.word_at = Instant::now() + NEXT_WORD;
        }
    }
}

fn waiting(volume_id: &str, others: &Others) -> Failure {
    let seen: Vec<_> = others
        .iter()
        .map(|(name, why)| format!("{name} ({why})"))
        .collect();
    let seen = if seen.is_empty() {
        "no block device is there".into()
    } else {
        seen.join(", ")
    };
    Failure::new(
        "medium",
        format!("no medium {volume_id} yet; looked at: {seen}"),
        "connect the CD or stick that this host was booted from; the host goes on looking",
    )
}

/// Kernel names of what may be a medium: no partitions, nothing made of others.
fn disks(class: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !["dm-", "loop", "ram", "zram", "md", "nbd"]
                .iter()
                .any(|made| name.starts_with(made))
        })
        .collect();
    names.sort();
    names
}

/// The medium on this device, or why it is not there.
fn examine(name: &str, volume_id: &str) -> Result<Source, String> {
    let mut device = File::open(Path::new("/dev").join(name)).map_err(|error| {
        let no_disc = error.raw_os_error() == Some(Errno::ENOMEDIUM as i32);
        if no_disc {
            "no disc in it".to_owned()
        } else {
            error.to_string()
        }
    })?;
    let volume = iso9660::volume(&mut device).map_err(|error| describe(&error))?;
    if volume.id != volume_id {
        return Err(format!("volume {:?}", volume.id));
    }
    let image = iso9660::file(&mut device, &volume, IMAGE)
        .map_err(|error| format!("the right volume, but {}", describe(&error)))?;
    let area = iso9660::file(&mut device, &volume, AREA).ok();
    let size = sectors(name).unwrap_or(0).saturating_mul(512);
    if image.end() > size {
        return Err(format!(
            "the right volume, but truncated: {size} bytes, and the root ends at {}",
            image.end()
        ));
    }
    let number = source::device_number(name).map_err(|error| error.to_string())?;
    Ok(Source::on_medium(name.to_owned(), number, image, area))
}

fn describe(error: &IsoError) -> String {
    match error {
        IsoError::Read { offset, source } => format!("reading at byte {offset}: {source}"),
        other => other.to_string(),
    }
}

fn sectors(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_disks_are_looked_at() {
        let class = tempfile::tempdir().unwrap();
        for name in ["sr0", "sda", "sda1", "loop0", "dm-0", "vda", "nvme0n1"] {
            fs::create_dir(class.path().join(name)).unwrap();
        }
        fs::write(class.path().join("sda1/partition"), "1\n").unwrap();
        assert_eq!(disks(class.path()), ["nvme0n1", "sda", "sr0", "vda"]);
    }

    #[test]
    fn the_word_about_waiting_names_what_was_looked_at() {
        let mut others = Others::new();
        let failure = waiting("SURPLUS_AB", &others);
        assert!(failure.error.contains("SURPLUS_AB") && failure.error.contains("no block device"));
        others.insert("sda".into(), "no ISO 9660 file system".into());
        others.insert("sr0".into(), "no disc in it".into());
        let error = waiting("SURPLUS_AB", &others).error;
        assert!(
            error.ends_with("sda (no ISO 9660 file system), sr0 (no disc in it)"),
            "{error}"
        );
    }
}
