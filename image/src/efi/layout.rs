//! Where things lie in a PE file: sections, checksum, certificate table.
//!
//! Format: "PE Format", Microsoft Learn; PE32+ for x86-64, in little endian.

use std::ops::Range;

use super::EfiError;

const X86_64: usize = 0x8664;
const PE32_PLUS: usize = 0x20b;
/// Offsets in the optional header of PE32+.
const CHECKSUM: usize = 64;
const DIRECTORY_COUNT: usize = 108;
const CERTIFICATES: usize = 112 + 4 * 8;
/// A section's entry in the table.
const ENTRY: usize = 40;

/// The places in one image; each lies within it.
#[derive(Debug)]
pub(super) struct Layout {
    sections: Vec<(Vec<u8>, Range<usize>)>,
    checksum: Range<usize>,
    /// The entry that says where the certificate table lies.
    directory: Range<usize>,
    /// The certificate table, at the image's end.
    pub(super) certificates: Option<Range<usize>>,
}

impl Layout {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, EfiError> {
        let not_efi = |what| EfiError::NotEfi { what };
        if !bytes.starts_with(b"MZ") {
            return Err(not_efi("it does not begin with MZ"));
        }
        let header = number(bytes, 0x3c, 4)?;
        if bytes
            .get(header..)
            .is_none_or(|rest| !rest.starts_with(b"PE\0\0"))
        {
            return Err(not_efi("it has no PE header"));
        }
        let optional = header + 24;
        if number(bytes, header + 4, 2)? != X86_64 || number(bytes, optional, 2)? != PE32_PLUS {
            return Err(not_efi("it is for another machine"));
        }
        let size = number(bytes, header + 20, 2)?;
        if size < CERTIFICATES + 8 || number(bytes, optional + DIRECTORY_COUNT, 4)? < 5 {
            return Err(EfiError::Damaged {
                what: "its header is too short",
            });
        }
        let directory = optional + CERTIFICATES;
        let count = number(bytes, header + 6, 2)?;
        Ok(Self {
            sections: (0..count)
                .map(|index| section(bytes, optional + size + index * ENTRY))
                .collect::<Result<_, _>>()?,
            checksum: optional + CHECKSUM..optional + CHECKSUM + 4,
            directory: directory..directory + 8,
            certificates: certificates(bytes, directory)?,
        })
    }

    pub(super) fn section(&self, name: &str) -> Result<Range<usize>, EfiError> {
        let mut named = self.sections.iter().filter(|(n, _)| n == name.as_bytes());
        match (named.next(), named.next()) {
            (Some((_, range)), None) => Ok(range.clone()),
            (None, _) => Err(EfiError::NoSection {
                name: name.to_owned(),
            }),
            (Some(_), Some(_)) => Err(EfiError::Damaged {
                what: "two of its sections have one name",
            }),
        }
    }

    /// Forgets where the certificate table was; its bytes are the caller's.
    pub(super) fn forget_certificates(&self, bytes: &mut [u8]) {
        bytes[self.directory.clone()].fill(0);
    }

    /// Writes the checksum, where the image has one: the sum of all 16-bit
    /// words with the carry added, the field itself left out, plus the length.
    pub(super) fn write_checksum(&self, bytes: &mut [u8]) {
        let field = self.checksum.clone();
        if bytes[field.clone()].iter().all(|byte| *byte == 0) {
            return;
        }
        bytes[field.clone()].fill(0);
        let sum = bytes.chunks(2).fold(0_u32, |sum, pair| {
            let word = u32::from(pair[0]) | u32::from(*pair.get(1).unwrap_or(&0)) << 8;
            fold(sum + word)
        });
        let sum = fold(sum);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[field].copy_from_slice(&sum.wrapping_add(length).to_le_bytes());
    }
}

/// Adds the carry out of 16 bits.
fn fold(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}

fn section(bytes: &[u8], entry: usize) -> Result<(Vec<u8>, Range<usize>), EfiError> {
    let name = bytes.get(entry..entry + 8).ok_or(CUT_OFF)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
    // The size in memory is the exact one; the size on disk is rounded up, or
    // smaller where zeros follow.
    let size = number(bytes, entry + 8, 4)?.min(number(bytes, entry + 16, 4)?);
    let start = number(bytes, entry + 20, 4)?;
    if start + size > bytes.len() {
        return Err(CUT_OFF);
    }
    Ok((name.to_vec(), start..start + size))
}

/// The certificate table, which a signing program puts at the end.
fn certificates(bytes: &[u8], directory: usize) -> Result<Option<Range<usize>>, EfiError> {
    let start = number(bytes, directory, 4)?;
    let size = number(bytes, directory + 4, 4)?;
    if (start, size) == (0, 0) {
        return Ok(None);
    }
    if start < directory + 8 || start + size != bytes.len() {
        return Err(EfiError::Damaged {
            what: "its signatures are not at its end",
        });
    }
    Ok(Some(start..start + size))
}

const CUT_OFF: EfiError = EfiError::Damaged {
    what: "it is cut off",
};

/// A number of at most four bytes, so that sums of a few do not overflow.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<usize, EfiError> {
    let field = bytes.get(at..at + size).ok_or(CUT_OFF)?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte)))
}
