//! qcow2. Source: QEMU, docs/interop/qcow2.rst.

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use super::part::Window;
use super::{Fault, Unfit};

pub(crate) const MAGIC: &[u8] = b"QFI\xfb";

const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;
/// Dirty, corrupt, data file, compression type, extended L2 entries.
const KNOWN_INCOMPATIBLE: u64 = 0b1_1111;

/// QEMU's own limits on what it keeps in memory, in bytes.
const MAX_L1: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 64;

/// What the header says, once it is judged.
pub(crate) struct Head {
    pub virtual_bytes: u64,
    pub cluster_bits: u32,
    pub l1_offset: u64,
    /// Entries of the L1 table that the disk's size asks for.
    pub l1_entries: u64,
    /// Bytes of one entry of an L2 table.
    pub l2_entry: u64,
}

pub(crate) fn judge<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<Head, Fault> {
    let format = ImageFormat::Qcow2;
    let bounds = |what| Unfit::OutOfBounds { format, what };
    let begin = window.read_up_to(0, MAGIC.len())?;
    if begin != MAGIC {
        return Err(Unfit::Unlike(format).into());
    }
    let version = window.part(format, "its header", 4, 4)?.be32(0);
    let (length, has_features) = match version {
        2 => (72, false),
        3 => (104, true),
        version => return Err(Unfit::Version { format, version }.into()),
    };
    let head = window.part(format, "its header", 0, length)?;
    let incompatible = if has_features { head.be64(72) } else { 0 };
    if head.be64(8) != 0 {
        return Err(Unfit::BackingFile.into());
    }
    if incompatible & EXTERNAL_DATA_FILE != 0 {
        return Err(Unfit::OtherFile(String::new()).into());
    }
    if head.be32(32) != 0 {
        return Err(Unfit::Encrypted.into());
    }
    if incompatible & CORRUPT != 0 {
        return Err(Unfit::Corrupt.into());
    }
    let bits = incompatible & !KNOWN_INCOMPATIBLE;
    if bits != 0 {
        return Err(Unfit::UnknownFeatures { format, bits }.into());
    }
    let cluster_bits = head.be32(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(bounds("cluster size").into());
    }
    let virtual_bytes = head.be64(24);
    let l2_entry = if incompatible & EXTENDED_L2 == 0 {
        8
    } else {
        16
    };
    let clusters = virtual_bytes.div_ceil(1 << cluster_bits);
    let l1_entries = clusters.div_ceil((1 << cluster_bits) / l2_entry);
    let (l1_said, l1_offset) = (u64::from(head.be32(36)), head.be64(40));
    if l1_said * 8 > MAX_L1 || l1_said < l1_entries {
        return Err(bounds("L1 table").into());
    }
    window.must_hold(format, "its L1 table", l1_offset, l1_said * 8)?;
    let refcount_table = u64::from(head.be32(56)) << cluster_bits;
    if refcount_table > MAX_REFCOUNT_TABLE {
        return Err(bounds("reference count table").into());
    }
    window.must_hold(
        format,
        "its reference count table",
        head.be64(48),
        refcount_table,
    )?;
    if head.be32(60) > MAX_SNAPSHOTS {
        return Err(bounds("number of snapshots").into());
    }
    Ok(Head {
        virtual_bytes,
        cluster_bits,
        l1_offset,
        l1_entries,
        l2_entry,
    })
}
