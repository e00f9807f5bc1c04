//! Just enough of ISO 9660 (ECMA-119) to know a medium and find a file on it.
//!
//! Reads the primary volume descriptor and plain directories; names are
//! compared without regard to case, since the primary tree holds them in upper
//! case whatever Rock Ridge says. A file must lie in one extent, which is so
//! for every file below 4 GiB.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of a sector of the medium; extents are counted in these.
pub const SECTOR: u64 = 2048;
const SECTOR_BYTES: usize = 2048;

const DESCRIPTORS: u64 = 16;
/// Volume descriptors looked at before giving up; real media have two to four.
const MAX_DESCRIPTORS: u64 = 32;
/// Largest directory that is read; ours has a dozen entries.
const MAX_DIRECTORY: u64 = 1024 * 1024;
const MULTI_EXTENT: u8 = 0x80;
const DIRECTORY: u8 = 0x02;

/// A run of bytes on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the medium's start; a multiple of [`SECTOR`].
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Extent {
    /// The first byte behind the extent.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the primary tree has it, without the version: `ROOT.IMG`.
    pub name: String,
    pub extent: Extent,
    pub is_directory: bool,
    multi_extent: bool,
}

/// What the primary volume descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Volume identifier without its padding.
    pub id: String,
    /// Bytes of the file system, which the medium must have at least.
    pub size: u64,
    root: Extent,
}

/// Why a medium could not be read as ISO 9660.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    #[error("reading at byte {offset}")]
    Read { offset: u64, source: io::Error },
    #[error("no ISO 9660 file system")]
    NotIso,
    #[error("the ISO 9660 structure is damaged: {what} at byte {offset}")]
    Damaged { what: &'static str, offset: u64 },
    #[error("no file {path} on the medium")]
    NotFound { path: String },
    #[error("{path} is spread over several extents, or is no plain file")]
    NotPlain { path: String },
}

impl IsoError {
    /// Whether the medium ended before what was to be read.
    pub fn is_truncation(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof)
    }
}

/// Reads the primary volume descriptor.
pub fn volume(medium: &mut (impl Read + Seek)) -> Result<Volume, IsoError> {
    for index in 0..MAX_DESCRIPTORS {
        let offset = (DESCRIPTORS + index) * SECTOR;
        let mut sector = [0; SECTOR_BYTES];
        match read_at(medium, offset, &mut sector) {
            Err(error) if index == 0 && error.is_truncation() => return Err(IsoError::NotIso),
            other => other?,
        }
        if &sector[1..6] != b"CD001" {
            return Err(IsoError::NotIso);
        }
        match sector[0] {
            1 => return parse_volume(&sector, offset),
            255 => return Err(IsoError::NotIso),
            _ => {}
        }
    }
    Err(IsoError::NotIso)
}

/// The entry at `path`, as `/` or `/boot/grub/grub.cfg`.
pub fn entry(
    medium: &mut (impl Read + Seek),
    volume: &Volume,
    path: &str,
) -> Result<Entry, IsoError> {
    let not_found = || IsoError::NotFound {
        path: path.to_owned(),
    };
    let mut here = Entry {
        name: String::new(),
        extent: volume.root,
        is_directory: true,
        multi_extent: false,
    };
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !here.is_directory {
            return Err(not_found());
        }
        here = list(medium, &here)?
            .into_iter()
            .find(|entry| entry.name.eq_ignore_ascii_case(part))
            .ok_or_else(not_found)?;
    }
    Ok(here)
}

/// The extent of the plain file at `path`.
pub fn file(
    medium: &mut (impl Read + Seek),
    volume: &Volume,
    path: &str,
) -> Result<Extent, IsoError> {
    let entry = entry(medium, volume, path)?;
    if entry.is_directory || entry.multi_extent {
        return Err(IsoError::NotPlain {
            path: path.to_owned(),
        });
    }
    Ok(entry.extent)
}

/// What a directory holds, in the order of the medium, without `.` and `..`.
pub fn list(medium: &mut (impl Read + Seek), directory: &Entry) -> Result<Vec<Entry>, IsoError> {
    let Extent { offset, size } = directory.extent;
    if size > MAX_DIRECTORY {
        return Err(IsoError::Damaged {
            what: "a directory of impossible size",
            offset,
        });
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    read_at(medium, offset, &mut bytes)?;
    parse_directory(&bytes, offset)
}

/// Reads exactly `buffer` from `offset`.
pub fn read_at(
    medium: &mut (impl Read + Seek),
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), IsoError> {
    medium
        .seek(SeekFrom::Start(offset))
        .and_then(|_| medium.read_exact(buffer))
        .map_err(|source| IsoError::Read { offset, source })
}

fn parse_volume(sector: &[u8; SECTOR_BYTES], offset: u64) -> Result<Volume, IsoError> {
    let damaged = |what| IsoError::Damaged { what, offset };
    if number16(&sector[128..]) != 2048 {
        return Err(damaged("an unknown block size"));
    }
    let (root, _) = parse_record(&sector[156..190])
        .ok_or_else(|| damaged("an unreadable root directory record"))?;
    if !root.is_directory {
        return Err(damaged("a root that is no directory"));
    }
    Ok(Volume {
        id: text(&sector[40..72]),
        size: u64::from(number32(&sector[80..])) * SECTOR,
        root: root.extent,
    })
}

fn parse_directory(bytes: &[u8], offset: u64) -> Result<Vec<Entry>, IsoError> {
    let mut entries = Vec::new();
    let mut continued = false;
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let mut rest = sector;
        // A zero length fills the sector up: records never cross into the next.
        while rest.first().is_some_and(|&length| length > 0) {
            let at = offset + (index as u64) * SECTOR + (sector.len() - rest.len()) as u64;
            let damaged = || IsoError::Damaged {
                what: "an unreadable directory record",
                offset: at,
            };
            let (mut entry, length) = parse_record(rest).ok_or_else(damaged)?;
            rest = &rest[length..];
            // All records of one file but the last carry the flag.
            let more = entry.multi_extent;
            entry.multi_extent |= continued;
            continued = more;
            if !entry.name.is_empty() {
                entries.push(entry);
            }
        }
    }
    Ok(entries)
}

/// One directory record and its length; `.` and `..` get an empty name.
fn parse_record(bytes: &[u8]) -> Option<(Entry, usize)> {
    let length = usize::from(*bytes.first()?);
    let record = bytes.get(..length)?;
    let name_length = usize::from(*record.get(32)?);
    let name = record.get(33..33 + name_length)?;
    let flags = record[25];
    let name = match name {
        [] | [0 | 1] => String::new(),
        name => text(name)
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_end_matches('.')
            .to_owned(),
    };
    let entry = Entry {
        name,
        extent: Extent {
            offset: u64::from(number32(&record[2..])) * SECTOR,
            size: u64::from(number32(&record[10..])),
        },
        is_directory: flags & DIRECTORY != 0,
        multi_extent: flags & MULTI_EXTENT != 0,
    };
    Some((entry, length))
}

fn text(bytes: &[u8]) -> String {
    let printable = |&byte: &u8| {
        if byte.is_ascii_graphic() || byte == b' ' {
            byte as char
        } else {
            '?'
        }
    };
    bytes
        .iter()
        .map(printable)
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn number16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn number32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests;
