//! Damage done to media on purpose.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;

/// Where in an ISO the root file system lies, and how long it is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// Bytes that verity checks as one.
pub const BLOCK: u64 = 4096;

/// Finds `root.img` (as built) in `iso`, by its first sector.
pub fn root_extent(lab: &Lab, iso: &Path) -> Result<Extent> {
    let root = lab.artefact("root.img")?;
    let length = fs::metadata(&root)?.len();
    let mut head = [0; 2048];
    File::open(&root)?.read_exact(&mut head)?;
    let image = fs::read(iso).with_context(|| format!("could not read {}", iso.display()))?;
    let sector = image.chunks(head.len()).position(|sector| sector == head);
    let sector = sector.with_context(|| format!("root.img is not in {}", iso.display()))?;
    Ok(Extent {
        offset: (sector * head.len()) as u64,
        length,
    })
}

/// Flips one byte in each of the extent's blocks from `first` up to `end`.
pub fn flip_blocks(iso: &Path, extent: Extent, first: u64, end: u64) -> Result<()> {
    ensure!(end * BLOCK <= extent.length, "the root has no block {end}");
    let mut file = File::options().read(true).write(true).open(iso)?;
    for block in first..end {
        let at = extent.offset + block * BLOCK + 17;
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&[byte[0] ^ 0x40])?;
    }
    file.sync_all()?;
    Ok(())
}

/// A copy of `surplus.iso` in the lab's directory.
pub fn copy_of_iso(lab: &Lab, name: &str) -> Result<PathBuf> {
    let copy = lab.scratch().join(format!("{name}.iso"));
    fs::copy(lab.artefact("surplus.iso")?, &copy)?;
    Ok(copy)
}

/// Writes `site` into the ISO's reserved area without the checks that
/// `surplus-image customize` makes.
pub fn write_site_unchecked(iso: &Path, site: &str) -> Result<()> {
    let found = surplus_medium::area::find(File::open(iso)?)?;
    let offset = *found.first().context("the ISO has no site area")?;
    let area = surplus_medium::area::encode(site.as_bytes())?;
    let mut file = File::options().write(true).open(iso)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(&area)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_of_each_named_block_changes_and_no_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![0; 5 * 4096]).unwrap();
        let extent = Extent {
            offset: 4096,
            length: 4 * 4096,
        };
        flip_blocks(file.path(), extent, 1, 3).unwrap();
        let bytes = fs::read(file.path()).unwrap();
        let changed: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        assert_eq!(changed, [2 * 4096 + 17, 3 * 4096 + 17]);
        assert!(flip_blocks(file.path(), extent, 1, 5).is_err());
    }
}
