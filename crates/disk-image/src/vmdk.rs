//! VMDK in one file: monolithicSparse and streamOptimized.
//!
//! Source: VMware, Virtual Disk Format 5.0; QEMU, block/vmdk.c, for what it
//! reads where.

mod descriptor;

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use super::part::{Part, Window};
use super::{Fault, Unfit};

/// A sparse extent, a descriptor alone, and ESX's older sparse extent.
pub(crate) const MAGICS: [&[u8]; 3] = [SPARSE, b"# Disk DescriptorFile", b"COWD"];
const SPARSE: &[u8] = b"KDMV";

const FORMAT: ImageFormat = ImageFormat::Vmdk;
pub(crate) const SECTOR: u64 = 512;
/// The grain directory's place is in the footer.
const AT_END: u64 = u64::MAX;
const COMPRESSED: u32 = 1 << 16;
/// Entries of one grain table: the format knows no other number.
pub(crate) const TABLE_ENTRIES: u64 = 512;
/// From 4 KiB to 1 MiB, in sectors.
const GRAINS: std::ops::RangeInclusive<u64> = 8..=2048;
/// What QEMU reads of a descriptor, in bytes.
const DESCRIPTOR: usize = 20 * 512;

/// What the header says, once it is judged.
pub(crate) struct Head {
    pub virtual_bytes: u64,
    pub grain_bytes: u64,
    pub compressed: bool,
    /// Where the grain directory lies, and how many tables it names.
    pub directory: u64,
    pub tables: u64,
}

pub(crate) fn judge<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<Head, Fault> {
    let begin = window.read_up_to(0, 32)?;
    if !begin.starts_with(SPARSE) {
        return Err(match MAGICS.iter().position(|it| begin.starts_with(it)) {
            Some(1) => Unfit::OtherFile(": it is only a descriptor".to_owned()),
            Some(_) => Unfit::Kind {
                format: FORMAT,
                found: "vmfsSparse".to_owned(),
                taken: descriptor::TAKEN,
            },
            None => Unfit::Unlike(FORMAT),
        }
        .into());
    }
    let header = window.part(FORMAT, "its header", 0, 512)?;
    let head = read_header(&header)?;
    let descriptor_at = header.le64(28).saturating_mul(SECTOR);
    if descriptor_at == 0 {
        return Err(bounds("descriptor").into());
    }
    let text = window.read_up_to(descriptor_at, DESCRIPTOR)?;
    descriptor::judge(&text)?;
    let directory = match header.le64(56) {
        AT_END => footer(window, &header)?,
        sectors => sectors.saturating_mul(SECTOR),
    };
    window.must_hold(FORMAT, "its grain directory", directory, head.tables * 4)?;
    Ok(Head { directory, ..head })
}

fn bounds(what: &'static str) -> Unfit {
    Unfit::OutOfBounds {
        format: FORMAT,
        what,
    }
}

fn read_header(header: &Part) -> Result<Head, Unfit> {
    let version = header.le32(4);
    if !(1..=3).contains(&version) {
        return Err(Unfit::Version {
            format: FORMAT,
            version,
        });
    }
    let flags = header.le32(8);
    let (capacity, grain) = (header.le64(12), header.le64(20));
    // Without a capacity QEMU takes the descriptor's word for where data lies.
    if capacity == 0 {
        return Err(Unfit::Empty);
    }
    if !GRAINS.contains(&grain) || !grain.is_power_of_two() {
        return Err(bounds("grain size"));
    }
    if u64::from(header.le32(44)) != TABLE_ENTRIES {
        return Err(bounds("number of grain table entries"));
    }
    let virtual_bytes = capacity.saturating_mul(SECTOR);
    if virtual_bytes > super::MAX_DISK {
        return Err(bounds("capacity"));
    }
    let compressed = flags & COMPRESSED != 0;
    if compressed && header.le16(77) != 1 {
        return Err(bounds("way of compression"));
    }
    Ok(Head {
        virtual_bytes,
        grain_bytes: grain * SECTOR,
        compressed,
        directory: 0,
        tables: capacity.div_ceil(grain * TABLE_ENTRIES),
    })
}

/// The second header, at the end: the same but for the directory's place.
fn footer<F: Read + Seek>(window: &mut Window<'_, F>, header: &Part) -> Result<u64, Fault> {
    let at = window.bytes.saturating_sub(2 * SECTOR);
    let footer = window.part(FORMAT, "its footer", at, 512)?;
    if !footer.0.starts_with(SPARSE) {
        return Err(Unfit::CutOff {
            format: FORMAT,
            what: "its footer",
        }
        .into());
    }
    // Version to the number of table entries; but for the directories.
    if footer.0.get(4..48) != header.0.get(4..48) || footer.le16(77) != header.le16(77) {
        return Err(bounds("footer, which is not as its header,").into());
    }
    match footer.le64(56) {
        AT_END => Err(bounds("grain directory").into()),
        sectors => Ok(sectors.saturating_mul(SECTOR)),
    }
}
