//! A journal's files in a directory of a real file system.
//!
//! What always holds: one process at a time writes, held by a lock on the
//! directory itself, which the kernel gives back when the process ends, and which
//! leaves nothing behind. Files are for their owner alone.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Medium, Source};

/// A journal's directory, locked.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Open as long as the lock is to be held.
    handle: File,
    /// The file last written to.
    open: Option<(String, File)>,
}

/// A journal's directory to look into, also while it is in use: the end of the
/// last segment may then be half-written.
#[derive(Clone, Debug)]
pub struct View {
    path: PathBuf,
}

/// Why a journal's directory could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("could not make the journal's directory {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("could not open the journal's directory {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("could not lock the journal's directory {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error(
        "the journal in {path} is in use by another process, and two would spoil it: \
         let that one end first, then try again"
    )]
    InUse { path: PathBuf },
}

impl Directory {
    /// Takes a directory into use; makes it where it is missing.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let path = path.to_owned();
        if let Err(source) = make(&path) {
            return Err(DirectoryError::Make { path, source });
        }
        let handle = match File::open(&path) {
            Ok(handle) => handle,
            Err(source) => return Err(DirectoryError::Open { path, source }),
        };
        match handle.try_lock() {
            Ok(()) => Ok(Self {
                path,
                handle,
                open: None,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(DirectoryError::Lock { path, source }),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if self.open.as_ref().is_none_or(|(open, _)| open != name) {
            let path = self.path.join(name);
            let file = OpenOptions::new().append(true).open(path)?;
            self.open = Some((name.to_owned(), file));
        }
        match &mut self.open {
            Some((_, file)) => Ok(file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A new directory's own name has to be durable, too.
fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match path.parent().filter(|it| !it.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl View {
    /// Looks into a directory without locking it.
    pub fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path }
    }
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        // A name that is not UTF-8 is none of ours.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

impl Source for View {
    fn list(&self) -> io::Result<Vec<String>> {
        list(&self.path)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }
}

impl Source for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        list(&self.path)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }
}

impl Medium for Directory {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.append(true).create_new(true).mode(0o600);
        let file = options.open(self.path.join(name))?;
        self.open = Some((name.to_owned(), file));
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        // The length is among what sync_data makes durable; times are not needed.
        self.file(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        if let Some((name, _)) = &mut self.open
            && name == from
        {
            to.clone_into(name);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.take_if(|(open, _)| open == name);
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.handle.sync_all()
    }
}
