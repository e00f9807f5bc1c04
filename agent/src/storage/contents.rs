//! What is on a disk, without changing it.
//!
//! What always holds: what cannot be read or understood is never blank. A disk
//! is blank only where libblkid knows nothing on it and what was read of it is
//! zero: its first and last 8 MiB, whole (no format in use keeps its marks
//! elsewhere), and 256 blocks between.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::stamp::{self, Stamp};
use super::tools::{Signature, ToolError, Tools};

/// How much is read at either end.
const ENDS: u64 = 8 << 20;
const SAMPLES: u64 = 256;
const BLOCK: u64 = 4096;
const PIECE: usize = 1 << 20;

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Blank,
    /// Nothing that libblkid knows, but this byte is not zero.
    Unknown(u64),
    Signed(Vec<Signature>),
    /// Our partition; the host whose it is, where the stamp says so.
    Ours {
        extent: Extent,
        host: String,
    },
    /// Our partition, with something else written into it at this byte.
    Overwritten(u64),
    /// Something holds it open for itself.
    InUse,
    Unreadable(String),
}

/// A part of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// Looks at a disk of `size` bytes.
pub(super) fn look(tools: &Tools, device: &Path, size: u64) -> Contents {
    let disk = match open_exclusively(device, false) {
        Ok(disk) => disk,
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => return Contents::InUse,
        Err(error) => return Contents::Unreadable(format!("it cannot be opened: {error}")),
    };
    match examine(tools, &disk, device, size) {
        Ok(contents) => contents,
        Err(problem) => Contents::Unreadable(problem.to_string()),
    }
}

/// Opens a disk such that neither a mount nor a volume may have it meanwhile.
pub(super) fn open_exclusively(device: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_EXCL)
        .open(device)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("reading it failed at byte {at:#x}: {source}")]
    Read { at: u64, source: io::Error },
    #[error(transparent)]
    Tool(#[from] ToolError),
}

fn examine(tools: &Tools, disk: &File, device: &Path, size: u64) -> Result<Contents, Problem> {
    let signatures = tools.signatures(device)?;
    // libblkid passes over what it cannot read: a disk with bad blocks where marks
    // would be is found here, whatever else is on it.
    let unknown = first_byte(disk, size)?;
    if signatures.is_empty() {
        return Ok(unknown.map_or(Contents::Blank, Contents::Unknown));
    }
    let table_alone = signatures
        .iter()
        .all(|signature| ["gpt", "PMBR"].contains(&signature.kind.as_str()));
    if !table_alone {
        return Ok(Contents::Signed(signatures));
    }
    match our_extent(tools, device, size)? {
        None => Ok(Contents::Signed(signatures)),
        Some(extent) => {
            let read = |source| Problem::Read {
                at: extent.start,
                source,
            };
            Ok(match stamp::read(disk, extent.start).map_err(read)? {
                Stamp::Of(host) => Contents::Ours { extent, host },
                Stamp::Overwritten(at) => Contents::Overwritten(at),
            })
        }
    }
}

/// The one partition of the disk, where it is ours by type and name.
pub(super) fn our_extent(
    tools: &Tools,
    device: &Path,
    size: u64,
) -> Result<Option<Extent>, ToolError> {
    let table = tools.table(device)?;
    let [partition] = &table.partitions[..] else {
        return Ok(None);
    };
    let ours = table.label == "gpt"
        && partition.kind.eq_ignore_ascii_case(stamp::TYPE)
        && partition.name == stamp::NAME;
    let sector = table.sector_bytes.unwrap_or(512);
    let extent = Extent {
        start: partition.start.saturating_mul(sector),
        bytes: partition.size.saturating_mul(sector),
    };
    let inside = extent.start.saturating_add(extent.bytes) <= size
        && extent.start > 0
        && extent.bytes > stamp::BYTES;
    Ok((ours && inside).then_some(extent))
}

/// The first byte that is not zero, of all that is read.
fn first_byte(disk: &File, size: u64) -> Result<Option<u64>, Problem> {
    let mut found = None;
    let mut buffer = vec![0; PIECE];
    let mut read = |start: u64, bytes: u64| -> Result<(), Problem> {
        let mut at = start;
        while at < start + bytes {
            let left = usize::try_from(start + bytes - at).unwrap_or(PIECE);
            let buffer = &mut buffer[..left.min(PIECE)];
            disk.read_exact_at(buffer, at)
                .map_err(|source| Problem::Read { at, source })?;
            if found.is_none() {
                let here = buffer.iter().position(|byte| *byte != 0);
                found = here.map(|index| at + index as u64);
            }
            at += buffer.len() as u64;
        }
        Ok(())
    };
    let end = ENDS.min(size);
    read(0, end)?;
    let last = size.saturating_sub(ENDS).max(end);
    let step = (last - end) / (SAMPLES + 1) / BLOCK * BLOCK;
    if step >= BLOCK {
        for sample in 1..=SAMPLES {
            read((end + sample * step) / BLOCK * BLOCK, BLOCK)?;
        }
    } else {
        read(end, last - end)?;
    }
    read(last, size - last)?;
    Ok(found)
}

#[cfg(test)]
mod tests;
