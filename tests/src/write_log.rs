//! What a disk with a volatile cache holds after its power was cut.
//!
//! Killing QEMU loses the machine's memory, yet every write that it had handed
//! on stays in this computer's page cache. A real disk may lose those, too, if
//! no flush came after them. So QEMU's `blklogwrites` keeps each write and flush
//! in a log (the format of Linux's dm-log-writes), whose head counts what was
//! done when the last flush had ended; and the disk is made anew from what it was
//! before, and the log as far as that.
//!
//! That is the worst that such a disk may do in one direction: it loses all that
//! it may. It does not lose some and keep others; `surplus-journal` is tested
//! against that in memory.

use std::fs::{File, copy};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    pub writes: u64,
    pub flushes: u64,
}

/// A write or a flush.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the data is to go, and where it lies in the log.
    to: u64,
    from: u64,
    bytes: u64,
    is_flush: bool,
}

/// Puts `disk` back to `before`, and does again what `log` has up to its last
/// flush. `None`: QEMU died beside that flush with a write of the log half done,
/// and the disk stays as it is.
pub fn lose_what_was_not_flushed(
    before: &Path,
    disk: &Path,
    log: &Path,
) -> Result<Option<Replayed>> {
    let log_file = File::open(log)?;
    let entries = entries(&log_file);
    let Some(entries) = entries.with_context(|| format!("could not read {}", log.display()))?
    else {
        return Ok(None);
    };
    copy(before, disk).with_context(|| format!("could not put {} back", disk.display()))?;
    let disk = File::options().write(true).open(disk)?;
    let mut replayed = Replayed::default();
    for entry in entries {
        if entry.is_flush {
            replayed.flushes += 1;
            continue;
        }
        let mut data = vec![0; usize::try_from(entry.bytes)?];
        log_file.read_exact_at(&mut data, entry.from)?;
        disk.write_all_at(&data, entry.to)?;
        replayed.writes += 1;
    }
    Ok(Some(replayed))
}

/// What the log's head counts. Zeroes are written and blocks discarded by none
/// of our machines: QEMU 10 does not log them in order.
fn entries(log: &File) -> Result<Option<Vec<Entry>>> {
    let head: [u64; 3] = words(log, 0)?;
    let mut entries = Vec::new();
    if head == [0; 3] {
        // No flush came at all.
        return Ok(Some(entries));
    }
    ensure!(head[0] == MAGIC, "it is no log of writes: {head:x?}");
    let mut sector_bytes = [0; 4];
    log.read_exact_at(&mut sector_bytes, 24)?;
    let sector = u64::from(u32::from_le_bytes(sector_bytes));
    let mut at = sector;
    for number in 0..head[2] {
        let entry: [u64; 3] = words(log, at)?;
        let [first, sectors, flags] = entry;
        if entry == [0; 3] {
            return Ok(None);
        }
        let is_flush = sectors == 0 && flags & FLUSH != 0;
        ensure!(
            is_flush || sectors > 0 && flags & !(FLUSH | FUA) == 0,
            "entry {number} is none of a write or a flush: {entry:?}"
        );
        let bytes = sectors * sector;
        at += sector;
        entries.push(Entry {
            to: first * sector,
            from: at,
            bytes,
            is_flush,
        });
        at += bytes;
    }
    Ok(Some(entries))
}

fn words<const N: usize>(file: &File, at: u64) -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at + 8 * index as u64)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(file: &File, at: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            let at = at + 8 * index as u64;
            file.write_all_at(&word.to_le_bytes(), at).unwrap();
        }
    }

    #[test]
    fn what_came_after_the_last_flush_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("before"), [1; 2048]).unwrap();
        let log = File::create(path("log")).unwrap();
        log.set_len(8192).unwrap();
        // A write, a flush; the head does not count the second write yet.
        put(&log, 0, &[MAGIC, 1, 2, 512]);
        put(&log, 512, &[1, 1, 0, 512]);
        log.write_all_at(&[2; 512], 1024).unwrap();
        put(&log, 1536, &[0, 0, 1, 0]);
        put(&log, 2048, &[2, 1, 0, 512]);
        log.write_all_at(&[3; 512], 2560).unwrap();
        std::fs::write(path("disk"), [9; 2048]).unwrap();
        let replayed =
            lose_what_was_not_flushed(&path("before"), &path("disk"), &path("log")).unwrap();
        let (writes, flushes) = (1, 1);
        assert_eq!(replayed, Some(Replayed { writes, flushes }));
        let disk = std::fs::read(path("disk")).unwrap();
        assert_eq!(disk, [[1; 512], [2; 512], [1; 512], [1; 512]].concat());
    }
}
