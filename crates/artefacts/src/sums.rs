//! `SHA256SUMS`, as sha256sum writes it, held against what lies beside it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The name of the list.
pub const FILE: &str = "SHA256SUMS";

/// Why artefacts do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum SumsError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} names no sum for {name}", list.display())]
    NotListed { list: PathBuf, name: String },
    #[error("{} is not the file that {FILE} beside it was written for", path.display())]
    Differs { path: PathBuf },
}

/// Checks that `directory` holds each of `names` with the sum that its list
/// says. Reads every byte of them.
///
/// # Errors
///
/// The first one that is missing, not listed, or another file.
pub fn check<'a>(
    directory: &Path,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), SumsError> {
    let list = directory.join(FILE);
    let text = fs::read_to_string(&list).map_err(|source| SumsError::Read {
        path: list.clone(),
        source,
    })?;
    for name in names {
        let path = directory.join(name);
        let expected = sum_of(&text, name).ok_or_else(|| SumsError::NotListed {
            list: list.clone(),
            name: name.to_owned(),
        })?;
        let found = read(&path).map_err(|source| SumsError::Read {
            path: path.clone(),
            source,
        })?;
        if !found.eq_ignore_ascii_case(expected) {
            return Err(SumsError::Differs { path });
        }
    }
    Ok(())
}

fn sum_of<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.lines()
        .filter_map(|line| line.split_once([' ', '\t']))
        .find(|(_, listed)| listed.trim_start().trim_start_matches('*') == name)
        .map(|(sum, _)| sum)
}

fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_must_be_there_listed_and_the_one_that_was_summed() {
        let dir = tempfile::tempdir().unwrap();
        let sum = hex::encode(Sha256::digest(b"one"));
        fs::write(dir.path().join("one"), "one").unwrap();
        fs::write(dir.path().join("two"), "two").unwrap();
        assert!(matches!(
            check(dir.path(), ["one"]),
            Err(SumsError::Read { .. })
        ));
        let list = format!("{sum}  one\n{sum} *two\n{sum}  three\n");
        fs::write(dir.path().join(FILE), list).unwrap();
        check(dir.path(), ["one"]).unwrap();
        assert!(matches!(
            check(dir.path(), ["one", "two"]),
            Err(SumsError::Differs { .. })
        ));
        assert!(matches!(
            check(dir.path(), ["three"]),
            Err(SumsError::Read { .. })
        ));
        assert!(matches!(
            check(dir.path(), ["four"]),
            Err(SumsError::NotListed { .. })
        ));
    }
}
