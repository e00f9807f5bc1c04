//! Makes the tools tree with mmdebstrap, once per package list and mirror.
//!
//! What always holds: a tree under its final name is complete (it is made
//! beside and renamed), and two builds never make it at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::mirror::RELEASE;
use crate::{Mirror, ToolsError, host};

/// Raised when the way of making the tree changes.
const RECIPE: &str = "1";

/// The tree for the present list, made if need be.
pub(crate) fn ensure(
    workspace: &Path,
    mirror: &Mirror,
    root: bool,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, ToolsError> {
    let list = workspace.join("image/tools/packages.list");
    let list = fs::read_to_string(&list).map_err(|e| ToolsError::io("read", &list, e))?;
    let packages = packages(&list);
    let home = workspace.join("target/tools");
    fs::create_dir_all(&home).map_err(|e| ToolsError::io("make", &home, e))?;
    let tree = home.join(stamp(&packages, mirror));
    if tree.exists() {
        return Ok(tree);
    }
    let lock = home.join("lock");
    let lock_file = File::create(&lock).map_err(|e| ToolsError::io("make", &lock, e))?;
    lock_file
        .lock()
        .map_err(|e| ToolsError::io("lock", &lock, e))?;
    if !tree.exists() {
        remove_old(&home, root)?;
        make(&tree, &packages, mirror, root, progress)?;
    }
    Ok(tree)
}

/// The names in a package list: one a line, `#` begins a comment.
fn packages(list: &str) -> Vec<&str> {
    let lines = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    lines
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

fn stamp(packages: &[&str], mirror: &Mirror) -> String {
    let mut hash = Sha256::new();
    for part in [RECIPE, &mirror.main, &mirror.security]
        .iter()
        .chain(packages)
    {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hex::encode(hash.finalize())[..12].to_owned()
}

/// Trees of earlier lists only fill the disk.
fn remove_old(home: &Path, root: bool) -> Result<(), ToolsError> {
    let entries = fs::read_dir(home).map_err(|e| ToolsError::io("list", home, e))?;
    for entry in entries.flatten().map(|entry| entry.path()) {
        if entry.is_dir() {
            remove(&entry, root)?;
        }
    }
    Ok(())
}

fn remove(tree: &Path, root: bool) -> Result<(), ToolsError> {
    run(host::as_root("rm", root)
        .args(["-rf", "--one-file-system", "--"])
        .arg(tree))
    .map(drop)
}

fn make(
    tree: &Path,
    packages: &[&str],
    mirror: &Mirror,
    root: bool,
    progress: &dyn Fn(&str),
) -> Result<(), ToolsError> {
    progress(&format!(
        "making the tools tree: {} packages and what they need, from {} (about a minute, once)",
        packages.len(),
        mirror.main
    ));
    let beside = tree.with_extension("new");
    let log = tree.with_file_name("tree.log");
    remove(&beside, root)?;
    let log_file = File::create(&log).map_err(|e| ToolsError::io("make", &log, e))?;
    let also = log_file
        .try_clone()
        .map_err(|e| ToolsError::io("open", &log, e))?;
    let mut command = host::as_root("mmdebstrap", root);
    command
        .args(["--variant=apt", "--format=directory", "--mode=root"])
        .arg(format!("--include={}", packages.join(",")))
        .arg("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg")
        .args([
            "--aptopt=APT::Install-Recommends \"false\"",
            "--aptopt=Acquire::Languages \"none\"",
        ])
        .args([
            "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .args([
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
        ])
        // Where the sandbox puts the machine's own files.
        .arg("--customize-hook=: >\"$1/etc/resolv.conf\"; : >\"$1/etc/hosts\"")
        .arg(RELEASE)
        .arg(&beside)
        .args(mirror.sources())
        .stdin(Stdio::null())
        .stdout(log_file)
        .stderr(also);
    if !run(&mut command)? {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        return Err(ToolsError::Tree {
            mirror: mirror.main.clone(),
            log,
            tail: lines[lines.len().saturating_sub(12)..].join("\n"),
        });
    }
    run(host::as_root("mv", root).arg("--").arg(&beside).arg(tree)).map(drop)
}

fn run(command: &mut std::process::Command) -> Result<bool, ToolsError> {
    let status = command.status().map_err(|source| ToolsError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_packages() {
        let list = "# Making.\n\nmkosi\nxorriso # the ISO\n  ovmf\n";
        assert_eq!(packages(list), ["mkosi", "xorriso", "ovmf"]);
    }

    #[test]
    fn a_changed_list_or_mirror_makes_a_new_tree_and_a_changed_comment_does_not() {
        let mirror = Mirror::standard();
        let first = stamp(&packages("mkosi\n"), &mirror);
        assert_eq!(first, stamp(&packages("# why\nmkosi\n"), &mirror));
        assert_ne!(first, stamp(&packages("mkosi\novmf\n"), &mirror));
        let other = Mirror {
            main: "http://near.example/debian".into(),
            ..mirror
        };
        assert_ne!(first, stamp(&packages("mkosi\n"), &other));
    }
}
