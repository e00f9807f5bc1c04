//! Deadline files: until when each guest may run.
//!
//! One file for each placement that has, or is about to have, a guest. The agent
//! writes it before the guest is made, and anew whenever the deadline moves, in
//! either direction; it removes it once the guest is gone. A file is replaced by
//! rename, so that a reader sees the old or the new one and never a part.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// Where deadline files lie on a host.
pub const DIRECTORY: &str = "/run/surplus/deadlines";

/// A file that is larger is none of ours.
const MAX_BYTES: u64 = 4096;
/// libvirt's own limit is below that.
const MAX_NAME: usize = 200;

/// Until when a guest may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadline {
    /// The libvirt domain's name, by which its QEMU is found.
    pub domain: String,
    /// When it must be gone, in milliseconds since boot (`CLOCK_BOOTTIME`).
    pub gone_by_boot_millis: u64,
}

/// Why a deadline file means nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("it is no regular file")]
    Irregular,
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is not in a deadline's form")]
    Form(#[from] serde_json::Error),
    #[error("{0:?} is no domain's name")]
    Domain(String),
}

/// Whether QEMU of a domain of this name can be told from other processes.
fn is_domain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}

/// Writes the deadline of `placement`, and makes the directory where it is
/// missing; both are for their owner alone.
///
/// # Errors
///
/// Where the file is not there in full; an older one stays then.
pub fn write(directory: &Path, placement: &str, deadline: &Deadline) -> io::Result<()> {
    if !is_domain_name(&deadline.domain) || !is_domain_name(placement) || is_hidden(placement) {
        let what = format!("{placement:?} or {:?} is no name", deadline.domain);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let next = directory.join(format!(".{placement}.new"));
    let mut file = match create(&next) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
            create(&next)?
        }
        other => other?,
    };
    let written = serde_json::to_vec(deadline)
        .map_err(io::Error::from)
        .and_then(|bytes| file.write_all(&bytes))
        .and_then(|()| fs::rename(&next, directory.join(placement)));
    if written.is_err() {
        // Only to be tidy: nobody reads it.
        let _ = fs::remove_file(&next);
    }
    written
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Removes the deadline of `placement`; that there is none is success.
///
/// # Errors
///
/// Where it may still be there.
pub fn remove(directory: &Path, placement: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(placement)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What each file in the directory says, by placement. One that is removed
/// meanwhile is not there.
///
/// # Errors
///
/// Where the directory cannot be listed to its end.
pub fn list(directory: &Path) -> io::Result<BTreeMap<String, Result<Deadline, ReadError>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_hidden(&name) {
            continue;
        }
        match read(&directory.join(&name)) {
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            read => drop(found.insert(name, read)),
        }
    }
    Ok(found)
}

/// Files that are being written.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

fn read(path: &Path) -> Result<Deadline, ReadError> {
    // A pipe or a link to somewhere else must not hold anybody up.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Irregular);
    }
    if metadata.len() > MAX_BYTES {
        return Err(ReadError::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let deadline: Deadline = serde_json::from_slice(&bytes)?;
    if !is_domain_name(&deadline.domain) {
        return Err(ReadError::Domain(deadline.domain));
    }
    Ok(deadline)
}

#[cfg(test)]
mod tests;
