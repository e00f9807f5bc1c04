//! The root as a verified device: dm-linear cuts the image out of what carries
//! it, dm-verity checks each block of it against the root hash.
//!
//! Verity's own `panic_on_corruption` is not used: it stops the kernel before
//! the watcher can say a word. The default, to give the reader an error and
//! raise an event, leaves the word to the watcher, which powers off, or has
//! the kernel panic where it cannot.

use crate::conf::{BLOCK, RootConf};
use crate::dm::{self, Device, Table};
use crate::failure::{Context as _, Failure, KERNEL, MEDIUM};
use crate::source::Source;

/// The device-mapper name of the verified root.
pub(crate) const ROOT: &str = "surplus-root";
const IMAGE: &str = "surplus-image";
const SECTOR: u64 = 512;

/// Sets both mappings up over the image in `source`.
pub(crate) fn set_up(source: &Source, conf: &RootConf) -> Result<Device, Failure> {
    let size = source.image_size();
    if size <= conf.hash_offset {
        return Err(Failure::new(
            "root",
            format!(
                "the root image has {size} bytes, and its hashes begin at byte {}",
                conf.hash_offset
            ),
            MEDIUM,
        ));
    }
    let image =
        dm::create(IMAGE, &linear(source)).failed("root", "mapping the root image", KERNEL)?;
    let root = dm::create(ROOT, &verity(&image, conf));
    if root.is_err() {
        let _ = dm::remove(IMAGE);
    }
    root.failed("root", "setting dm-verity up over the root image", KERNEL)
}

/// Whether a bad block of the root was met.
pub(crate) fn is_corrupted() -> bool {
    dm::status(ROOT).is_ok_and(|status| is_bad(&status))
}

/// Whether a status line of dm-verity says that a bad block was met.
pub(crate) fn is_bad(status: &str) -> bool {
    status.trim_start().starts_with('C')
}

fn linear(source: &Source) -> Table {
    let (major, minor) = source.device_number();
    let start = source.image_offset() / SECTOR;
    Table {
        target: "linear",
        sectors: source.image_size() / SECTOR,
        parameters: format!("{major}:{minor} {start}"),
    }
}

/// Format 1, no superblock, no salt, as `veritysetup format --no-superblock
/// --salt=-` makes the tree.
fn verity(image: &Device, conf: &RootConf) -> Table {
    let Device { major, minor, .. } = image;
    let RootConf {
        hash,
        data_blocks,
        hash_offset,
    } = conf;
    let device = format!("{major}:{minor}");
    let hash_start = hash_offset / BLOCK;
    Table {
        target: "verity",
        sectors: data_blocks * (BLOCK / SECTOR),
        parameters: format!(
            "1 {device} {device} {BLOCK} {BLOCK} {data_blocks} {hash_start} sha256 {hash} -"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_the_kernel_s_documents_have_them() {
        let image = Device {
            name: IMAGE.into(),
            major: 254,
            minor: 0,
        };
        let conf = RootConf {
            hash: "ab".repeat(32),
            data_blocks: 5,
            hash_offset: 5 * BLOCK,
        };
        let table = verity(&image, &conf);
        let expected = format!("1 254:0 254:0 4096 4096 5 5 sha256 {} -", "ab".repeat(32));
        assert_eq!((table.sectors, table.parameters), (40, expected));
        let source = Source::for_tests((8, 16), 4096, 24576);
        let table = linear(&source);
        assert_eq!((table.sectors, &*table.parameters), (48, "8:16 8"));
    }

    #[test]
    fn a_bad_status_is_told_from_a_good_one() {
        assert!(is_bad("C") && is_bad("C \n") && !is_bad("V") && !is_bad(""));
    }
}
