//! Which steps of the build are up to date.
//!
//! A step's key is a hash of everything that it reads: texts, files, and the
//! keys of the steps before it. Beside its outputs lies a stamp with the key
//! that they were made from. What always holds: a stamp is removed before a
//! step runs and written after it succeeded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

/// What a step reads, as a running hash.
#[derive(Debug)]
pub(crate) struct Inputs(Sha256);

impl Inputs {
    /// Begins with a word that changes when the way of making changes.
    pub(crate) fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text(recipe)
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// A file's content, or that of all files in a directory, with their names,
    /// their links' targets and whether they may be executed.
    pub(crate) fn path(mut self, path: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        collect(path, &mut files)?;
        files.sort();
        for file in files {
            let name = file.strip_prefix(path).unwrap_or(&file);
            self = self.text(&name.to_string_lossy());
            let content = read(&file).with_context(|| format!("reading {}", file.display()))?;
            self.0.update((content.len() as u64).to_le_bytes());
            self.0.update(&content);
        }
        Ok(self)
    }

    pub(crate) fn key(self) -> Key {
        Key(hex::encode(self.0.finalize()))
    }
}

/// The hash of all inputs of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Runs `make` unless all `outputs` were made from the same inputs before.
/// Returns whether it ran.
pub(crate) fn up_to_date_or(
    work: &Path,
    name: &str,
    key: &Key,
    outputs: &[PathBuf],
    make: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let stamp = work.join(format!("{name}.stamp"));
    let same = fs::read_to_string(&stamp).is_ok_and(|old| old == key.0);
    if same && outputs.iter().all(|output| output.exists()) {
        return Ok(false);
    }
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("removing {}", stamp.display()))?;
    }
    make()?;
    fs::write(&stamp, &key.0).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(true)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entry = path
        .symlink_metadata()
        .with_context(|| format!("looking at {}", path.display()))?;
    if !entry.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let children = fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?;
    for child in children {
        collect(&child?.path(), files)?;
    }
    Ok(())
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    let entry = file.symlink_metadata()?;
    if entry.is_symlink() {
        return Ok([b"link ", fs::read_link(file)?.as_os_str().as_bytes()].concat());
    }
    let executable = entry.permissions().mode() & 0o111 != 0;
    Ok([&[u8::from(executable)], fs::read(file)?.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &Path) -> Key {
        Inputs::new("1").path(path).unwrap().key()
    }

    #[test]
    fn a_changed_a_renamed_and_a_newly_executable_file_each_make_another_key() {
        use std::os::unix::fs::PermissionsExt as _;

        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a");
        fs::write(&file, "one").unwrap();
        let first = key(place.path());
        assert_eq!(first, key(place.path()));
        fs::write(&file, "two").unwrap();
        let second = key(place.path());
        assert_ne!(first, second);
        fs::rename(&file, place.path().join("b")).unwrap();
        let third = key(place.path());
        assert_ne!(second, third);
        fs::set_permissions(place.path().join("b"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(third, key(place.path()));
    }

    #[test]
    fn a_step_runs_again_after_it_failed_and_not_after_it_succeeded() {
        let place = tempfile::tempdir().unwrap();
        let key = Inputs::new("1").key();
        let output = [place.path().join("output")];
        let run = |make: fn(&Path) -> anyhow::Result<()>| {
            up_to_date_or(place.path(), "step", &key, &output, || make(&output[0]))
        };
        assert!(run(|_| anyhow::bail!("broken")).is_err());
        assert!(run(|path| Ok(fs::write(path, "made")?)).unwrap());
        assert!(!run(|_| anyhow::bail!("must not run")).unwrap());
        fs::remove_file(&output[0]).unwrap();
        assert!(run(|path| Ok(fs::write(path, "made")?)).unwrap());
    }
}
