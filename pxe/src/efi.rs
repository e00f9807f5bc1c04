//! `surplus.efi` as it is served: with the site in it, unless it is signed; and
//! what else firmware may find signed.

use std::io;
use std::path::{Path, PathBuf};

use surplus_image::efi;

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EfiError {
    #[error(
        "cannot read {}; make the artefacts (cargo xtask image), and give their directory (target/image)",
        path.display()
    )]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not in order", path.display())]
    NotImage {
        path: PathBuf,
        #[source]
        source: efi::EfiError,
    },
    #[error(
        "cannot write where the site is into {}; make the artefacts anew (cargo xtask image)",
        path.display()
    )]
    Rewrite {
        path: PathBuf,
        #[source]
        source: efi::EfiError,
    },
}

/// Whether an EFI program is signed: then it is served as it is, and
/// `surplus.efi` has to name the site itself.
///
/// # Errors
///
/// Where it cannot be read, or is no EFI program.
pub(crate) fn is_signed(path: &Path) -> Result<bool, EfiError> {
    efi::is_signed(&read(path)?).map_err(|source| EfiError::NotImage {
        path: path.to_owned(),
        source,
    })
}

/// The unsigned image, with `arguments` for the kernel.
///
/// # Errors
///
/// Where it cannot be read or rewritten.
pub(crate) fn with_arguments(path: &Path, arguments: &str) -> Result<Vec<u8>, EfiError> {
    efi::with_arguments(read(path)?, arguments).map_err(|source| EfiError::Rewrite {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, EfiError> {
    std::fs::read(path).map_err(|source| EfiError::Read {
        path: path.to_owned(),
        source,
    })
}
