//! Checking artefacts: checksums, each block of the root, signatures.

mod efi;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use surplus_medium::iso9660::Extent;

pub use self::efi::verify_efi;
use crate::iso::{Iso, OpenError};
use crate::signing::SignError;
use crate::{sums, verity};

const SUMS: &str = "SHA256SUMS";

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: `surplus.iso`, `root image in surplus.iso`.
    pub what: String,
    pub outcome: Outcome,
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All right; what that means here.
    Good(String),
    /// Not all right, and what is wrong.
    Bad(String),
    /// Not checked, and why.
    Skipped(String),
}

/// Why nothing could be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no list of SHA-256 sums", path.display())]
    Sums { path: PathBuf },
    #[error(transparent)]
    Signature(#[from] SignError),
}

/// Checks a directory of artefacts, or one ISO (against the `SHA256SUMS` beside
/// it, if there is one).
///
/// An ISO's site area is left out of its checksum: a customised ISO is as good
/// as the one that it was made from.
pub fn verify(path: &Path) -> Result<Vec<Check>, VerifyError> {
    let metadata = fs::metadata(path).map_err(|source| VerifyError::Read {
        path: path.to_owned(),
        source,
    })?;
    if metadata.is_dir() {
        verify_directory(path)
    } else {
        verify_iso(path)
    }
}

fn verify_directory(directory: &Path) -> Result<Vec<Check>, VerifyError> {
    let mut checks = Vec::new();
    for (sum, name) in read_sums(&directory.join(SUMS))? {
        let path = directory.join(&name);
        let outcome = if name.ends_with(".iso") {
            match Iso::open(&path) {
                Ok(mut iso) => {
                    checks.push(check_root_of(&mut iso));
                    compare(sums::of_iso(&mut iso), |found| *found == sum)
                }
                Err(error) => Outcome::Bad(error.to_string()),
            }
        } else {
            compare(sums::of_file(&path), |found| *found == sum)
        };
        checks.push(Check {
            what: name,
            outcome,
        });
    }
    let root = directory.join("root.img");
    if root.exists() {
        let what = "hash tree of root.img".to_owned();
        let outcome = check_bare_root(&root, &directory.join("surplus.efi"));
        checks.push(Check { what, outcome });
    }
    Ok(checks)
}

fn verify_iso(path: &Path) -> Result<Vec<Check>, VerifyError> {
    let mut iso = Iso::open(path)?;
    let root = check_root_of(&mut iso);
    let list = path.parent().unwrap_or(Path::new("")).join(SUMS);
    let outcome = if list.exists() {
        // By its sum and not by its name: a customised ISO has another name.
        let known = read_sums(&list)?;
        compare(sums::of_iso(&mut iso), |found| {
            known
                .iter()
                .any(|(sum, name)| sum == found && name.ends_with(".iso"))
        })
    } else {
        Outcome::Skipped(format!(
            "no {SUMS} beside it, so kernel and boot loaders are not checked"
        ))
    };
    Ok(vec![
        Check {
            what: name_of(path),
            outcome,
        },
        root,
    ])
}

fn check_root_of(iso: &mut Iso) -> Check {
    let checked = iso.root_hash().and_then(|hash| {
        let blocks = verity::check_tree(&mut iso.file, iso.root, &hash)?;
        Ok((hash, blocks))
    });
    Check {
        what: format!("root image in {}", name_of(&iso.path)),
        outcome: describe(checked),
    }
}

/// A root image as a file, against the root hash in the unified kernel image.
fn check_bare_root(root: &Path, kernel: &Path) -> Outcome {
    let checked = fs::read(kernel)
        .map_err(verity::VerityError::Read)
        .and_then(|bytes| verity::root_of_hash(&bytes))
        .and_then(|hash| {
            let mut file = File::open(root).map_err(verity::VerityError::Read)?;
            let size = file.metadata().map_err(verity::VerityError::Read)?.len();
            let blocks = verity::check_tree(&mut file, Extent { offset: 0, size }, &hash)?;
            Ok((hash, blocks))
        });
    describe(checked)
}

fn describe(checked: Result<(String, u64), verity::VerityError>) -> Outcome {
    match checked {
        Ok((hash, blocks)) => Outcome::Good(format!("{blocks} blocks match root hash {hash}")),
        Err(verity::VerityError::Read(source)) => Outcome::Bad(format!("reading it: {source}")),
        Err(error) => Outcome::Bad(error.to_string()),
    }
}

fn compare(sum: io::Result<String>, matches: impl Fn(&String) -> bool) -> Outcome {
    match sum {
        Err(source) => Outcome::Bad(format!("reading it: {source}")),
        Ok(found) if matches(&found) => Outcome::Good("matches SHA256SUMS".into()),
        Ok(found) => Outcome::Bad(format!("its SHA-256 is {found}, which is not in {SUMS}")),
    }
}

fn read_sums(path: &Path) -> Result<Vec<(String, String)>, VerifyError> {
    let text = fs::read_to_string(path).map_err(|source| VerifyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let lines = sums::parse(&text).filter(|lines| !lines.is_empty());
    lines.ok_or_else(|| VerifyError::Sums {
        path: path.to_owned(),
    })
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests;
