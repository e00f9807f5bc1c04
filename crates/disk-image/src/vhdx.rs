//! VHDX without a parent.
//!
//! Source: Microsoft, \[MS-VHDX\]: Virtual Hard Disk v2 File Format.

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use super::part::{Part, Window};
use super::{Fault, Unfit};

pub(crate) const MAGIC: &[u8] = b"vhdxfile";

const FORMAT: ImageFormat = ImageFormat::Vhdx;
const TABLE: usize = 64 << 10;
/// The region table's first copy.
const REGIONS: u64 = 192 << 10;
const MAX_METADATA: u64 = 16 << 20;
/// The format's own limit on table entries.
const MAX_ENTRIES: u16 = 2047;

const BAT: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
const METADATA: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";
const FILE_PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const DISK_SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const SECTOR_SIZE: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";
const PARENT: &str = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c";

/// What the tables say, once they are judged.
pub(crate) struct Head {
    pub virtual_bytes: u64,
    pub block_bytes: u64,
    /// Blocks of data behind which one of bitmaps follows.
    pub chunk: u64,
    /// Where the block allocation table lies.
    pub table: u64,
}

pub(crate) fn judge<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<Head, Fault> {
    if window.read_up_to(0, MAGIC.len())? != MAGIC {
        return Err(Unfit::Unlike(FORMAT).into());
    }
    let regions = window.part(FORMAT, "its region table", REGIONS, TABLE)?;
    if !regions.0.starts_with(b"regi") {
        return Err(bounds("region table").into());
    }
    let table = entry(&regions, 8, 16, BAT)?.ok_or(bounds("block table"))?;
    let region = entry(&regions, 8, 16, METADATA)?.ok_or(bounds("metadata"))?;
    let (table_at, table_bytes) = (regions.le64(table + 16), regions.le32(table + 24));
    let (at, bytes) = (regions.le64(region + 16), regions.le32(region + 24));
    if u64::from(bytes) > MAX_METADATA {
        return Err(bounds("metadata").into());
    }
    let list = window.part(FORMAT, "its metadata", at, TABLE)?;
    if !list.0.starts_with(b"metadata") {
        return Err(bounds("metadata").into());
    }
    let mut item = |name, bytes: usize| -> Result<Option<Part>, Fault> {
        let Some(entry) = entry(&list, 10, 32, name)? else {
            return Ok(None);
        };
        let item = at.saturating_add(u64::from(list.le32(entry + 16)));
        Ok(Some(window.part(FORMAT, "its metadata", item, bytes)?))
    };
    let parameters = item(FILE_PARAMETERS, 8)?.ok_or(bounds("metadata"))?;
    let has_parent = parameters.le32(4) & 2 != 0;
    if has_parent || item(PARENT, 0)?.is_some() {
        return Err(Unfit::BackingFile.into());
    }
    let virtual_bytes = item(DISK_SIZE, 8)?.ok_or(bounds("metadata"))?.le64(0);
    let sector = u64::from(item(SECTOR_SIZE, 4)?.ok_or(bounds("metadata"))?.le32(0));
    let block_bytes = u64::from(parameters.le32(0));
    if ![512, 4096].contains(&sector) {
        return Err(bounds("sector size").into());
    }
    if !block_bytes.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block_bytes) {
        return Err(bounds("block size").into());
    }
    if virtual_bytes > super::MAX_DISK {
        return Err(bounds("disk size").into());
    }
    let chunk = (sector << 23) / block_bytes;
    let blocks = virtual_bytes.div_ceil(block_bytes);
    let entries = blocks + blocks.saturating_sub(1) / chunk;
    if u64::from(table_bytes) < entries * 8 {
        return Err(bounds("block table").into());
    }
    window.must_hold(FORMAT, "its block table", table_at, u64::from(table_bytes))?;
    Ok(Head {
        virtual_bytes,
        block_bytes,
        chunk,
        table: table_at,
    })
}

fn bounds(what: &'static str) -> Unfit {
    Unfit::OutOfBounds {
        format: FORMAT,
        what,
    }
}

/// Where the entry of that name begins in a table that tells its entries'
/// number at `count` and has them after `first` or 32 bytes. One alone may have
/// the name.
fn entry(table: &Part, count: usize, first: usize, name: &str) -> Result<Option<usize>, Unfit> {
    let entries = table.le16(count);
    if entries > MAX_ENTRIES {
        return Err(bounds("table"));
    }
    let places = (0..usize::from(entries)).map(|index| first + index * 32);
    let mut named = places.filter(|at| guid(table.array(*at)) == name);
    let found = named.next();
    match named.next() {
        Some(_) => Err(bounds("table")),
        None => Ok(found),
    }
}

/// A GUID as it is written: its first three numbers lie little-endian.
fn guid(bytes: [u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (index, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[at]));
    }
    text
}
