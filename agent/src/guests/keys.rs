//! What makes a guest's files unreadable once it is gone.
//!
//! In memory there is nothing to be done: a page is wiped before anybody else
//! gets it. On the host's disks each directory has a random key, which only the
//! kernel knows; the key's end is the files' end, whatever is left of them.

use std::fmt;
use std::fs::File;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use surplus_fscrypt::{Destroyed, KeyName};

/// Gives directories keys, and destroys them.
pub trait Keys: fmt::Debug + Send + Sync {
    /// Puts an empty directory under a new key; one that has a key keeps it.
    ///
    /// # Errors
    ///
    /// Where the file system does not do it.
    fn give(&self, directory: &Utf8Path) -> io::Result<()>;

    /// Destroys the directory's key, if it has one. What the directory holds
    /// can then be removed and not read.
    ///
    /// # Errors
    ///
    /// Where the key stays, or a file under it is still open.
    fn destroy(&self, directory: &Utf8Path) -> io::Result<()>;

    /// Whether directories have keys here.
    fn are_given(&self) -> bool;
}

/// No keys: the files lie in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct InMemory;

impl Keys for InMemory {
    fn give(&self, _: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    fn destroy(&self, _: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    fn are_given(&self) -> bool {
        false
    }
}

/// Keys in the kernel, for an ext4 that encrypts.
#[derive(Clone, Debug)]
pub struct KernelKeys {
    /// Where it is mounted: a directory without a key.
    top: Utf8PathBuf,
}

impl KernelKeys {
    pub fn new(top: &Utf8Path) -> Self {
        Self {
            top: top.to_owned(),
        }
    }
}

/// By its name, so that the directory itself is closed again: open it would be
/// busy.
fn key_of(directory: &Utf8Path) -> io::Result<Option<KeyName>> {
    surplus_fscrypt::key_of(&File::open(directory)?)
}

impl Keys for KernelKeys {
    fn give(&self, directory: &Utf8Path) -> io::Result<()> {
        if key_of(directory)?.is_none() {
            surplus_fscrypt::encrypt(&File::open(directory)?)?;
        }
        Ok(())
    }

    fn destroy(&self, directory: &Utf8Path) -> io::Result<()> {
        let Some(key) = key_of(directory)? else {
            return Ok(());
        };
        match surplus_fscrypt::destroy(&File::open(&self.top)?, key)? {
            Destroyed::Gone => Ok(()),
            Destroyed::FilesBusy => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a file of the guest is still open on this host",
            )),
        }
    }

    fn are_given(&self) -> bool {
        true
    }
}
