//! Where networkd's files lie: what a plan wants is written there, and what an earlier
//! one left is known by its name.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{DIRECTORY, UnitFile};
use crate::sysroot::SysRoot;

/// Writes `files` and removes what an earlier site file needed besides; says
/// whether anything was not so already.
pub fn write(root: &SysRoot, files: &[UnitFile]) -> io::Result<bool> {
    let directory = root.path(DIRECTORY);
    let mut changed = false;
    for file in files {
        let path = directory.join(&file.name);
        if fs::read_to_string(&path).is_ok_and(|old| old == file.content) {
            continue;
        }
        // networkd is not root, and our own mask is narrow.
        for above in [Some(&*directory), path.parent()].into_iter().flatten() {
            fs::create_dir_all(above)?;
            fs::set_permissions(above, Permissions::from_mode(0o755))?;
        }
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        changed = true;
    }
    for name in ours(root) {
        if files.iter().all(|file| file.name != name) {
            fs::remove_file(directory.join(name))?;
            changed = true;
        }
    }
    Ok(changed)
}

/// What lies there of this and earlier [`plan`](super::plan)s.
pub(super) fn ours(root: &SysRoot) -> Vec<String> {
    let mut all = root.names(DIRECTORY);
    for directory in all.clone().iter().filter(|name| name.ends_with(".d")) {
        let inside = root.names(format!("{DIRECTORY}/{directory}"));
        all.extend(inside.iter().map(|name| format!("{directory}/{name}")));
    }
    all.retain(|path| {
        let name = Path::new(path).file_name().unwrap_or_default();
        // A directory may hold drop-ins of others, too.
        !path.ends_with(".d") && is_ours(&name.to_string_lossy())
    });
    all
}

/// Whether the files that were written leave the host's addresses to DHCP, as the
/// image's own file does where there are none.
pub fn by_dhcp(root: &SysRoot) -> bool {
    let fixed = |name: String| {
        let content = fs::read_to_string(root.path(DIRECTORY).join(name)).unwrap_or_default();
        content.lines().any(|line| line.starts_with("Address="))
    };
    let mut names = ours(root);
    names.retain(|name| !name.contains("-guests"));
    !names.into_iter().any(fixed)
}

/// Whether a file of this name is one of a [`plan`](super::plan).
fn is_ours(name: &str) -> bool {
    name.trim_start_matches(|c: char| c.is_ascii_digit())
        .starts_with("-surplus-")
}
