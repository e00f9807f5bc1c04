//! VHD, fixed and dynamic.
//!
//! Source: Microsoft, Virtual Hard Disk Image Format Specification.

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use super::part::{Part, Window};
use super::{Fault, Unfit};

pub(crate) const MAGIC: &[u8] = b"conectix";

const FORMAT: ImageFormat = ImageFormat::Vhd;
const FOOTER: u64 = 512;

pub(crate) fn judge<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<u64, Fault> {
    let at = window.bytes.saturating_sub(FOOTER);
    let begins = window.read_up_to(0, MAGIC.len())? == MAGIC;
    let footer = window.part(FORMAT, "its footer", at, 512)?;
    if !footer.0.starts_with(MAGIC) {
        return Err(if begins {
            Unfit::CutOff {
                format: FORMAT,
                what: "its footer",
            }
        } else {
            Unfit::Unlike(FORMAT)
        }
        .into());
    }
    if checksum(&footer, 64) != footer.be32(64) {
        return Err(bounds("footer's checksum").into());
    }
    let virtual_bytes = size(&footer);
    match footer.be32(60) {
        2 => fixed(window, &footer)?,
        3 => dynamic(window, &footer, begins)?,
        4 => return Err(Unfit::BackingFile.into()),
        kind => {
            return Err(Unfit::Kind {
                format: FORMAT,
                found: kind.to_string(),
                taken: "fixed and dynamic ones",
            }
            .into());
        }
    }
    Ok(virtual_bytes)
}

fn bounds(what: &'static str) -> Unfit {
    Unfit::OutOfBounds {
        format: FORMAT,
        what,
    }
}

/// The disk's size. Some makers' disks are as large as their geometry says, which
/// rounds up; QEMU knows those whose are not.
fn size(footer: &Part) -> u64 {
    const BY_SIZE: [&[u8; 4]; 5] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"];
    let maker: [u8; 4] = footer.array(28);
    let said = footer.be64(48);
    if BY_SIZE.contains(&&maker) {
        said
    } else {
        said.max(geometry(footer))
    }
}

/// Cylinders, heads and sectors, in bytes.
fn geometry(footer: &Part) -> u64 {
    let [high, low, heads, sectors] = footer.array(56);
    let cylinders = u64::from(u16::from_be_bytes([high, low]));
    cylinders * u64::from(heads) * u64::from(sectors) * 512
}

fn fixed<F: Read + Seek>(window: &Window<'_, F>, footer: &Part) -> Result<(), Unfit> {
    let data = window.bytes - FOOTER;
    if footer.be64(48) > data {
        return Err(Unfit::CutOff {
            format: FORMAT,
            what: "its data",
        });
    }
    Ok(())
}

fn dynamic<F: Read + Seek>(
    window: &mut Window<'_, F>,
    footer: &Part,
    begins: bool,
) -> Result<(), Fault> {
    let copy = window.part(FORMAT, "its header", 0, 512)?;
    if !begins || copy.0 != footer.0 {
        return Err(bounds("footer, which is not as its copy at the beginning,").into());
    }
    let at = footer.be64(16);
    let header = window.part(FORMAT, "its dynamic header", at, 1024)?;
    if !header.0.starts_with(b"cxsparse") || checksum(&header, 36) != header.be32(36) {
        return Err(bounds("dynamic header").into());
    }
    let block = u64::from(header.be32(32));
    if !block.is_power_of_two() || !(4096..=256 << 20).contains(&block) {
        return Err(bounds("block size").into());
    }
    let entries = u64::from(header.be32(28));
    if entries < footer.be64(48).div_ceil(block) || entries > super::MAX_DISK / block {
        return Err(bounds("block table").into());
    }
    window.must_hold(FORMAT, "its block table", header.be64(16), entries * 4)?;
    Ok(())
}

/// The sum of all bytes but the checksum's own, inverted.
fn checksum(part: &Part, at: usize) -> u32 {
    let outside = part.0.iter().enumerate();
    let outside = outside.filter(|(index, _)| !(at..at + 4).contains(index));
    !outside.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}
