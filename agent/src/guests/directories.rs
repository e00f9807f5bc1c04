//! Where the files of guests lie: `guests/<placement>/` (disk, seed, console
//! log) and `images/`, under the state directory or on the volume of the host's
//! disks.
//!
//! What always holds: QEMU, under its own user, reaches images and guests by
//! name and lists none of them; where there are keys, each guest's directory has
//! its own from before its first file, and it is gone before the directory is.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::keys::Keys;
use super::placement::Placement;

/// The directories of guests and images.
#[derive(Clone, Debug)]
pub struct Directories {
    root: Utf8PathBuf,
    keys: Arc<dyn Keys>,
}

/// A directory could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {path}")]
pub struct DirectoryError {
    what: &'static str,
    path: Utf8PathBuf,
    source: io::Error,
}

impl DirectoryError {
    /// Whether a file in it is still open, so that its key is not gone yet.
    pub fn is_busy(&self) -> bool {
        self.source.kind() == io::ErrorKind::ResourceBusy
    }
}

impl Directories {
    /// Makes the directories where they are missing.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] where one cannot be made.
    pub fn open(root: &Utf8Path, keys: Arc<dyn Keys>) -> Result<Self, DirectoryError> {
        let directories = Self {
            root: root.to_owned(),
            keys,
        };
        for (path, mode) in [
            (root.to_owned(), 0o755),
            (directories.images(), 0o711),
            (directories.guests(), 0o711),
        ] {
            make(path, mode)?;
        }
        directories.give_key(&directories.images())?;
        Ok(directories)
    }

    /// The image cache.
    pub fn images(&self) -> Utf8PathBuf {
        self.root.join("images")
    }

    fn guests(&self) -> Utf8PathBuf {
        self.root.join("guests")
    }

    /// The directory of a guest's own files.
    pub fn of(&self, placement: Placement) -> Utf8PathBuf {
        self.guests().join(placement.to_string())
    }

    /// Where a guest's console is logged.
    pub fn console_log(&self, placement: Placement) -> Utf8PathBuf {
        self.of(placement).join("console.log")
    }

    /// Makes a guest's directory anew, empty.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] where the old one stays or a new one cannot be made.
    pub fn renew(&self, placement: Placement) -> Result<Utf8PathBuf, DirectoryError> {
        self.remove(placement)?;
        let path = self.of(placement);
        make(path.clone(), 0o711)?;
        self.give_key(&path)?;
        Ok(path)
    }

    fn give_key(&self, path: &Utf8Path) -> Result<(), DirectoryError> {
        let given = self.keys.give(path);
        given.map_err(error("encrypt", path))
    }

    /// Removes a guest's files, and destroys their key; whether there were any.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] where they cannot be removed, or the key stays.
    pub fn remove(&self, placement: Placement) -> Result<bool, DirectoryError> {
        let path = self.of(placement);
        // The directory itself goes last: it is what names the key, to an agent
        // that comes after this one, too.
        match empty(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(error("empty", &path)(source)),
        }
        let destroyed = self.keys.destroy(&path);
        destroyed.map_err(error("destroy the key of", &path))?;
        fs::remove_dir(&path).map_err(error("remove", &path))?;
        Ok(true)
    }

    /// Whether a guest's files have a key here.
    pub fn have_keys(&self) -> bool {
        self.keys.are_given()
    }

    /// Placements that have files on this host.
    pub fn placements(&self) -> Vec<Placement> {
        let Ok(entries) = self.guests().read_dir_utf8() else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().parse().ok())
            .collect()
    }
}

fn make(path: Utf8PathBuf, mode: u32) -> Result<(), DirectoryError> {
    make_dir(&path, mode).map_err(error("make", &path))
}

fn error(what: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError { what, path, source }
}

fn empty(directory: &Utf8Path) -> io::Result<()> {
    for entry in directory.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a directory of exactly this mode, and those above it.
pub(super) fn make_dir(path: &Utf8Path, mode: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(mode).create(path)?;
    // The umask masks what is made, and the agent's is 0077.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Replaces a file's contents in one step: whoever reads it sees the old or the
/// new whole. Not durable.
pub(super) fn replace(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
