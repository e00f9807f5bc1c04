//! Finds the sections of a unified kernel image, so that GRUB can read kernel
//! and initramfs out of it on BIOS machines and the ISO holds them once.
//!
//! Format: "PE Format", Microsoft Learn; headers in little endian.

use std::ops::Range;

use anyhow::{Context as _, bail};

/// Where the section of this name lies in the file, without the padding that
/// aligns it.
pub(crate) fn section(image: &[u8], name: &str) -> anyhow::Result<Range<usize>> {
    let header = number(image, 0x3c, 4)?;
    if image.get(header..header + 4) != Some(b"PE\0\0") {
        bail!("no PE header at byte {header}");
    }
    let count = number(image, header + 6, 2)?;
    let optional = number(image, header + 20, 2)?;
    for index in 0..count {
        let entry = header + 24 + optional + index * 40;
        let label = image
            .get(entry..entry + 8)
            .context("the section table is cut off")?;
        if label.split(|byte| *byte == 0).next() != Some(name.as_bytes()) {
            continue;
        }
        // The size in memory is the exact one; the size on disk is rounded up.
        let size = number(image, entry + 8, 4)?;
        let offset = number(image, entry + 20, 4)?;
        return Ok(offset..offset + size);
    }
    bail!("it has no section {name}")
}

fn number(image: &[u8], at: usize, bytes: usize) -> anyhow::Result<usize> {
    let field = image
        .get(at..at + bytes)
        .with_context(|| format!("it ends before byte {at}"))?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x200];
        image[0x3c] = 0x40;
        image[0x40..0x44].copy_from_slice(b"PE\0\0");
        image[0x46] = 2;
        for (entry, name, size, offset) in [(0x58, ".osrel", 7u8, 1u8), (0x80, ".linux", 9, 3)] {
            image[entry..entry + name.len()].copy_from_slice(name.as_bytes());
            image[entry + 8] = size;
            image[entry + 21] = offset;
        }
        image
    }

    #[test]
    fn a_section_is_found_by_its_whole_name_with_its_exact_size() {
        assert_eq!(section(&image(), ".linux").unwrap(), 0x300..0x309);
        assert!(section(&image(), ".lin").is_err());
    }

    #[test]
    fn a_file_that_is_cut_off_or_no_image_is_refused() {
        assert!(section(&image()[..0x60], ".linux").is_err());
        assert!(section(b"#!/bin/sh", ".linux").is_err());
    }
}
