//! What makes a partition ours: its type, its name, and a stamp over its first
//! MiB, of which every sector says so.
//!
//! The type alone would not do: an owner who takes his disk back and puts a file
//! system into the partition leaves the type as it is. Whatever it is that he
//! puts there, it begins in the first MiB. What always holds: a partition is
//! ours only while each of these sectors is the stamp's or zero (the power may
//! have failed while it was written).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The partition's type: ours alone.
pub(super) const TYPE: &str = "3E0FB1CF-893B-49F0-A200-2EBC203DC680";
/// The partition's name, the volume's, and the file system's label.
pub(super) const NAME: &str = "surplus-guests";
/// How much of the partition the stamp takes.
pub(super) const BYTES: u64 = (SECTORS * SECTOR) as u64;

const SECTORS: usize = 2048;
const SECTOR: usize = 512;
const BEGINS: &str =
    "surplus guests' disk: its contents are encrypted and their keys are gone; host ";

/// What the stamp of a partition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// The partition of this host; the system UUID as its firmware has it. Empty
    /// where the stamp was not written yet.
    Of(String),
    /// Something else was written there, here for the first time.
    Overwritten(u64),
}

/// Reads the stamp of the partition that begins at `start`.
pub(super) fn read(disk: &File, start: u64) -> io::Result<Stamp> {
    let mut bytes = vec![0; SECTORS * SECTOR];
    disk.read_exact_at(&mut bytes, start)?;
    let mut ours: Option<&[u8]> = None;
    for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
        if sector.iter().all(|byte| *byte == 0) {
            continue;
        }
        let expected = ours.unwrap_or(sector);
        if sector != expected || host_of(sector).is_none() {
            return Ok(Stamp::Overwritten(start + (number * SECTOR) as u64));
        }
        ours = Some(sector);
    }
    Ok(Stamp::Of(ours.and_then(host_of).unwrap_or_default()))
}

/// Writes the stamp of `host`, durably.
pub(super) fn write(disk: &File, start: u64, host: &str) -> io::Result<()> {
    disk.write_all_at(&sector(host).repeat(SECTORS), start)?;
    disk.sync_all()
}

fn sector(host: &str) -> Vec<u8> {
    let host: String = host.chars().filter(char::is_ascii_graphic).collect();
    let mut text = format!("{BEGINS}{host}").into_bytes();
    text.truncate(SECTOR - 1);
    text.resize(SECTOR - 1, b' ');
    text.push(b'\n');
    text
}

fn host_of(sector: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(sector).ok()?;
    let host = text.strip_prefix(BEGINS)?.strip_suffix('\n')?;
    Some(host.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> File {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4 << 20).unwrap();
        disk
    }

    #[test]
    fn a_stamp_is_read_back_and_one_that_was_not_written_yet_is_nobodys() {
        let disk = disk();
        assert_eq!(read(&disk, BYTES).unwrap(), Stamp::Of(String::new()));
        write(&disk, BYTES, "an-id").unwrap();
        assert_eq!(read(&disk, BYTES).unwrap(), Stamp::Of("an-id".to_owned()));
        // The power failed half way through it.
        disk.write_all_at(&vec![0; 300 << 10], BYTES).unwrap();
        assert_eq!(read(&disk, BYTES).unwrap(), Stamp::Of("an-id".to_owned()));
    }

    #[test]
    fn one_foreign_byte_anywhere_in_it_and_the_partition_is_not_ours() {
        for at in [BYTES, BYTES + 0x438, BYTES + 0x10_0000 - 1] {
            let disk = disk();
            write(&disk, BYTES, "an-id").unwrap();
            disk.write_all_at(b"\x07", at).unwrap();
            let found = read(&disk, BYTES).unwrap();
            assert_eq!(found, Stamp::Overwritten(at / 512 * 512), "{at}");
        }
        let disk = disk();
        disk.write_all_at(b"\x07", BYTES + 700).unwrap();
        assert_eq!(read(&disk, BYTES).unwrap(), Stamp::Overwritten(BYTES + 512));
    }

    #[test]
    fn two_hosts_stamps_are_nobodys() {
        let disk = disk();
        write(&disk, BYTES, "one").unwrap();
        disk.write_all_at(&sector("other"), BYTES + 512).unwrap();
        assert!(matches!(read(&disk, BYTES).unwrap(), Stamp::Overwritten(_)));
    }
}
