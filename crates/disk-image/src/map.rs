//! Whether all that an image's tables refer to is in the file.
//!
//! A reader of a file that was cut off sees zeros where data was: the guest
//! would find a broken disk, and nobody would know why.

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use crate::part::{Part, Window};
use crate::{Content, Fault, Unfit, qcow2, vhdx, vmdk};

/// Bytes of tables that are read at most: for a disk of [`super::MAX_DISK`] half
/// as many would do in the usual clusters.
const MAX_TABLES: u64 = 4 << 30;

/// Follows the tables of an image that was judged. Reads an eight-thousandth of
/// the disk's size in the usual clusters.
///
/// # Errors
///
/// [`Unfit::CutOff`] where something is not there.
pub fn check(
    file: &mut (impl Read + Seek),
    format: ImageFormat,
    content: &Content,
) -> Result<(), Fault> {
    let mut window = Window::of(file, content.offset, content.bytes);
    match format {
        // A VHD ends with its footer, so that a cut is seen at once.
        ImageFormat::Raw | ImageFormat::Vhd => Ok(()),
        ImageFormat::Qcow2 => check_qcow2(&mut window),
        ImageFormat::Vmdk | ImageFormat::Ova => check_vmdk(&mut window),
        ImageFormat::Vhdx => check_vhdx(&mut window),
    }
}

fn check_qcow2<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<(), Fault> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    const COMPRESSED: u64 = 1 << 62;
    let format = ImageFormat::Qcow2;
    let head = qcow2::judge(window)?;
    let cluster = 1_u64 << head.cluster_bits;
    within(format, head.l1_entries, cluster)?;
    let l1 = window.part(
        format,
        "its L1 table",
        head.l1_offset,
        size(head.l1_entries * 8),
    )?;
    for at in (0..l1.0.len()).step_by(8) {
        let l2_offset = l1.be64(at) & OFFSET;
        if l2_offset == 0 {
            continue;
        }
        let l2 = window.part(format, "an L2 table", l2_offset, size(cluster))?;
        for at in (0..l2.0.len()).step_by(size(head.l2_entry)) {
            let entry = l2.be64(at);
            if entry & COMPRESSED != 0 {
                // Offset below, number of further sectors above.
                let split = 62 - (head.cluster_bits - 8);
                let offset = entry & ((1 << split) - 1);
                window.must_hold(format, "its data", offset, 1)?;
            } else if entry & OFFSET != 0 {
                // The disk may end within its last cluster.
                window.must_hold(format, "its data", entry & OFFSET, 512)?;
            }
        }
    }
    Ok(())
}

fn check_vmdk<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<(), Fault> {
    let format = ImageFormat::Vmdk;
    let head = vmdk::judge(window)?;
    let table_bytes = vmdk::TABLE_ENTRIES * 4;
    within(format, head.tables, table_bytes)?;
    let directory = window.part(
        format,
        "its grain directory",
        head.directory,
        size(head.tables * 4),
    )?;
    let mut last = 0;
    for at in (0..directory.0.len()).step_by(4) {
        let table = u64::from(directory.le32(at)) * vmdk::SECTOR;
        if table == 0 {
            continue;
        }
        let table = window.part(format, "a grain table", table, size(table_bytes))?;
        let grains = (0..table.0.len()).step_by(4).map(|at| table.le32(at));
        last = last.max(grains.max().unwrap_or(0));
    }
    // 0 and 1 say that a grain is not there, or all zeros.
    if last < 2 {
        return Ok(());
    }
    let last = u64::from(last) * vmdk::SECTOR;
    let bytes = if head.compressed {
        let marker = window.part(format, "its data", last, 12)?;
        12 + u64::from(marker.le32(8))
    } else {
        // The disk may end within its last grain.
        head.grain_bytes.min(vmdk::SECTOR)
    };
    Ok(window.must_hold(format, "its data", last, bytes)?)
}

fn check_vhdx<F: Read + Seek>(window: &mut Window<'_, F>) -> Result<(), Fault> {
    const FULL: u64 = 6;
    const BATCH: u64 = 8192;
    let format = ImageFormat::Vhdx;
    let head = vhdx::judge(window)?;
    let blocks = head.virtual_bytes.div_ceil(head.block_bytes);
    let entries = blocks + blocks.saturating_sub(1) / head.chunk;
    within(format, entries, 8)?;
    for first in (0..entries).step_by(size(BATCH)) {
        let count = BATCH.min(entries - first);
        let at = head.table.saturating_add(first * 8);
        let table: Part = window.part(format, "its block table", at, size(count * 8))?;
        for index in 0..count {
            let entry = table.le64(size(index * 8));
            let is_bitmap = (first + index) % (head.chunk + 1) == head.chunk;
            if !is_bitmap && entry & 7 == FULL {
                let offset = (entry >> 20) << 20;
                window.must_hold(format, "its data", offset, head.block_bytes)?;
            }
        }
    }
    Ok(())
}

fn within(format: ImageFormat, tables: u64, bytes: u64) -> Result<(), Unfit> {
    match tables.checked_mul(bytes) {
        Some(all) if all <= MAX_TABLES => Ok(()),
        _ => Err(Unfit::OutOfBounds {
            format,
            what: "number of tables",
        }),
    }
}

/// Bounded by the judges, far below what a machine word holds.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
