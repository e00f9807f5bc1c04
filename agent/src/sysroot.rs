//! The file system as the agent reads it, below a root that tests replace.
//!
//! What always holds: an unreadable file is a missing fact, never an error:
//! `/sys` and `/proc` differ from kernel to kernel and from machine to machine.

use std::fs;
use std::path::{Path, PathBuf};

/// A root directory: `/` on a host, a fixture tree in tests.
#[derive(Clone, Debug)]
pub struct SysRoot(PathBuf);

impl Default for SysRoot {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl SysRoot {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The real path of an absolute path inside the root.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.0.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A file's text without surrounding white space; `None` where it is
    /// missing, unreadable or empty.
    pub fn text(&self, inside: impl AsRef<Path>) -> Option<String> {
        let bytes = fs::read(self.path(inside)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file's text as a number.
    pub fn number<T: std::str::FromStr>(&self, inside: impl AsRef<Path>) -> Option<T> {
        self.text(inside)?.parse().ok()
    }

    /// Last component of what a symbolic link points at.
    pub fn link_name(&self, inside: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(inside)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    pub fn exists(&self, inside: impl AsRef<Path>) -> bool {
        self.path(inside).exists()
    }

    /// Names in a directory, sorted as people count (`sda9` before `sda10`).
    pub fn names(&self, inside: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(inside)) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort_by_key(|name| sort_key(name));
        names
    }
}

fn sort_key(name: &str) -> (String, u64) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.to_owned(), name[stem.len()..].parse().unwrap_or(0))
}

/// Numbers of a kernel list such as `0-3,8,10-11`.
pub fn parse_list(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend(first..=last.min(first.saturating_add(65_535)));
        }
    }
    numbers
}

#[cfg(test)]
pub(crate) mod fixture {
    use std::fs;

    use super::*;

    /// A fixture tree that is removed when dropped.
    #[derive(Debug)]
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn root(&self) -> SysRoot {
            SysRoot::new(self.0.path())
        }

        pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
            let path = self.root().path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
            self
        }

        pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
            let path = self.root().path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_are_spelled_out() {
        assert_eq!(parse_list("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert!(parse_list("").is_empty());
        assert_eq!(parse_list("x,3"), [3]);
    }

    #[test]
    fn names_come_in_counting_order_and_missing_files_are_missing_facts() {
        let tree = fixture::Tree::new();
        tree.file("/d/cpu10", "").file("/d/cpu9", " 7\n");
        assert_eq!(tree.root().names("/d"), ["cpu9", "cpu10"]);
        assert_eq!(tree.root().number::<u32>("/d/cpu9"), Some(7));
        assert_eq!(tree.root().text("/d/cpu10"), None);
        assert_eq!(tree.root().text("/nowhere"), None);
    }
}
