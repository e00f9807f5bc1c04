//! Packs the firmware that network cards ask their drivers for.
//!
//! The kernel looks for it under `/lib/firmware`, compressed as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use surplus_medium::cpio::Archive;

use super::xz::{self, Content};

/// Adds the files and directories `wanted` of the directory `firmware`.
pub(super) fn pack(
    firmware: &Path,
    wanted: &[String],
    archive: &mut Archive,
) -> anyhow::Result<()> {
    let mut files = BTreeSet::new();
    for path in wanted {
        find(firmware, path, &mut files)?;
    }
    let contents: Vec<_> = files
        .iter()
        .map(|path| {
            let path = firmware.join(path);
            fs::read(&path).with_context(|| format!("reading {}", path.display()))
        })
        .collect::<Result<_, _>>()?;
    let packed = xz::compress_all(&contents, Content::Data)?;
    for directory in parents(&files) {
        archive.directory(&directory);
    }
    for (path, bytes) in files.iter().zip(packed) {
        archive.file(&format!("lib/firmware/{path}.xz"), 0o644, &bytes);
    }
    Ok(())
}

fn find(firmware: &Path, path: &str, files: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let full = firmware.join(path);
    let context = || {
        format!(
            "reading the firmware {}, which initramfs/modules.list asks for",
            full.display()
        )
    };
    if fs::metadata(&full).with_context(context)?.is_file() {
        files.insert(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&full).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        find(
            firmware,
            &format!("{path}/{}", name.to_string_lossy()),
            files,
        )?;
    }
    Ok(())
}

/// All directories above the files, outer ones first.
fn parents(files: &BTreeSet<String>) -> BTreeSet<String> {
    let mut directories = BTreeSet::new();
    for file in files {
        let path = format!("lib/firmware/{file}");
        let ends = path.match_indices('/').map(|(end, _)| end);
        directories.extend(ends.map(|end| path[..end].to_owned()));
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_whole_directories_are_packed_below_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("intel/ice/ddp")).unwrap();
        fs::write(dir.path().join("intel/ice/ddp/ice.pkg"), [0; 9000]).unwrap();
        fs::write(dir.path().join("one.bin"), "one").unwrap();
        fs::write(dir.path().join("other.bin"), "other").unwrap();
        let mut archive = Archive::default();
        let wanted = ["intel".to_owned(), "one.bin".to_owned()];
        pack(dir.path(), &wanted, &mut archive).unwrap();
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> = [
            "lib\0",
            "lib/firmware\0",
            "lib/firmware/intel/ice\0",
            "lib/firmware/intel/ice/ddp/ice.pkg.xz\0",
            "lib/firmware/one.bin.xz\0",
        ]
        .iter()
        .map(|name| text.find(name).unwrap_or_else(|| panic!("{name:?}")))
        .collect();
        assert!(places.is_sorted() && !text.contains("other.bin"));
        let missing = pack(dir.path(), &["none".to_owned()], &mut Archive::default());
        assert!(format!("{:#}", missing.unwrap_err()).contains("none"));
    }
}
