//! Telling artefacts apart by how they begin, never by their names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// What a file is, at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Begins as an EFI program does.
    Efi,
    /// Anything else; an ISO, if it is one of ours.
    Medium,
}

impl Kind {
    /// Looks at the first bytes of a file.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(path)?.take(2).read_to_end(&mut start)?;
        Ok(if start == b"MZ" {
            Self::Efi
        } else {
            Self::Medium
        })
    }
}
