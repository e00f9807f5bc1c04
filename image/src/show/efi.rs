//! What is in an EFI program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::efi::{self, EfiError};

/// What is in an EFI program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownEfi {
    /// Bytes.
    pub size: u64,
    /// The kernel command line, or why it has none of ours: iPXE has none.
    pub command_line: Result<String, EfiError>,
    /// Whom each signature names; not checked.
    pub signers: Vec<String>,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowEfiError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Efi { path: PathBuf, source: EfiError },
}

/// Looks into an EFI program.
pub fn show_efi(path: &Path) -> Result<ShownEfi, ShowEfiError> {
    let bytes = fs::read(path).map_err(|source| ShowEfiError::Read {
        path: path.to_owned(),
        source,
    })?;
    let signers = efi::signers(&bytes).map_err(|source| ShowEfiError::Efi {
        path: path.to_owned(),
        source,
    })?;
    Ok(ShownEfi {
        size: bytes.len() as u64,
        command_line: efi::command_line(&bytes),
        signers,
    })
}

impl ShownEfi {
    /// The values of this word (`surplus.site=`) on the command line.
    pub fn values<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        let line = self.command_line.as_deref().unwrap_or_default();
        efi::values(line, word)
    }
}
