//! The reserved area: 64 KiB of a medium that hold the site file.
//!
//! It is written in place, so it has one size for ever, and it lies outside
//! what verity protects: whoever reads it reads untrusted bytes. Layout, all
//! numbers little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 16 | signature |
//! | 16 | 4 | version, 1 |
//! | 20 | 4 | length of the payload |
//! | 24 | 32 | SHA-256 of bytes 0..24 and the payload |
//! | 56 | 8 | zero |
//! | 64 | … | payload, then zeros up to [`SIZE`] |
//!
//! An area of length 0 is valid and means that no site file was written.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// Bytes of an area.
pub const SIZE: usize = 64 * 1024;
/// Bytes of payload that fit.
pub const CAPACITY: usize = SIZE - HEADER;
/// An area begins at a multiple of this many bytes: a sector of a CD.
pub const ALIGNMENT: usize = 2048;

const HEADER: usize = 64;
const SIGNATURE: [u8; 16] = *b"\x89SURPLUS-SITE\r\n\x1a";
const VERSION: u32 = 1;

/// Why bytes are not an area, or a payload does not become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AreaError {
    #[error("the site file has {size} bytes, and the area holds at most {CAPACITY}")]
    TooLarge { size: usize },
    #[error("the area has {size} bytes instead of {SIZE}")]
    Truncated { size: usize },
    #[error("no site area: its signature is missing")]
    NoSignature,
    #[error("the site area has version {version}, and this program knows version {VERSION} only")]
    UnknownVersion { version: u32 },
    #[error("the site area gives a length of {length} bytes, and it holds at most {CAPACITY}")]
    WrongLength { length: u32 },
    #[error("the site area's checksum is wrong: its content was damaged or half written")]
    ChecksumWrong,
}

/// An area with no site file in it, as a fresh medium has it.
pub fn empty() -> Vec<u8> {
    build(&[])
}

/// The area that holds `payload`.
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, AreaError> {
    if payload.len() > CAPACITY {
        return Err(AreaError::TooLarge {
            size: payload.len(),
        });
    }
    Ok(build(payload))
}

/// The payload of an area, `None` where it is empty.
///
/// Bytes behind the first [`SIZE`] are not looked at.
pub fn decode(bytes: &[u8]) -> Result<Option<&[u8]>, AreaError> {
    if !is_signed(bytes) {
        return Err(AreaError::NoSignature);
    }
    let area = bytes
        .get(..SIZE)
        .ok_or(AreaError::Truncated { size: bytes.len() })?;
    let version = number(area, 16);
    if version != VERSION {
        return Err(AreaError::UnknownVersion { version });
    }
    let length = number(area, 20);
    let payload = usize::try_from(length)
        .ok()
        .and_then(|length| area.get(HEADER..HEADER.checked_add(length)?))
        .ok_or(AreaError::WrongLength { length })?;
    if area[24..56] != checksum(&area[..24], payload) {
        return Err(AreaError::ChecksumWrong);
    }
    Ok((!payload.is_empty()).then_some(payload))
}

/// Whether an area seems to begin here; says nothing of its content.
pub fn is_signed(bytes: &[u8]) -> bool {
    bytes.starts_with(&SIGNATURE)
}

/// Offsets in bytes at which an area seems to begin, by a scan of the whole
/// source for the signature at multiples of [`ALIGNMENT`].
pub fn find(mut source: impl Read) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut chunk = vec![0; 512 * ALIGNMENT];
    let mut offset = 0;
    loop {
        let filled = fill(&mut source, &mut chunk)?;
        for sector in chunk[..filled].chunks(ALIGNMENT) {
            if is_signed(sector) {
                found.push(offset);
            }
            offset += sector.len() as u64;
        }
        if filled < chunk.len() {
            return Ok(found);
        }
    }
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn build(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut area = Vec::with_capacity(SIZE);
    area.extend(SIGNATURE);
    area.extend(VERSION.to_le_bytes());
    area.extend(length.to_le_bytes());
    area.extend(checksum(&area, payload));
    area.resize(HEADER, 0);
    area.extend(payload);
    area.resize(SIZE, 0);
    area
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(head)
        .chain_update(payload)
        .finalize()
        .into()
}

fn number(area: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([area[at], area[at + 1], area[at + 2], area[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fresh_area_is_valid_and_empty() {
        assert_eq!(empty().len(), SIZE);
        assert_eq!(decode(&empty()), Ok(None));
    }

    #[test]
    fn a_payload_that_fits_exactly_comes_back_and_one_byte_more_is_refused() {
        let full = vec![b'x'; CAPACITY];
        let area = encode(&full).unwrap();
        assert_eq!(area.len(), SIZE);
        assert_eq!(decode(&area), Ok(Some(&full[..])));
        let size = CAPACITY + 1;
        assert_eq!(encode(&vec![b'x'; size]), Err(AreaError::TooLarge { size }));
    }

    #[test]
    fn damage_is_named_for_what_it_is() {
        let good = encode(b"version = 1").unwrap();
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            decode(&bad).unwrap_err()
        };
        assert_eq!(with(0, 0), AreaError::NoSignature);
        assert_eq!(with(16, 9), AreaError::UnknownVersion { version: 9 });
        assert_eq!(with(22, 0xff), AreaError::WrongLength { length: 0xff_000b });
        assert_eq!(with(HEADER, b'V'), AreaError::ChecksumWrong);
        assert_eq!(with(20, 10), AreaError::ChecksumWrong);
        assert_eq!(
            decode(&good[..100]),
            Err(AreaError::Truncated { size: 100 })
        );
        assert_eq!(decode(&[]), Err(AreaError::NoSignature));
    }

    #[test]
    fn areas_are_found_at_sector_boundaries_only() {
        let mut disc = vec![0; 1024 * ALIGNMENT + 7];
        for at in [
            3 * ALIGNMENT,
            100 * ALIGNMENT + 1,
            600 * ALIGNMENT,
            1024 * ALIGNMENT,
        ] {
            let end = disc.len().min(at + 16);
            disc[at..end].copy_from_slice(&SIGNATURE[..end - at]);
        }
        let found = find(&disc[..]).unwrap();
        assert_eq!(found, [3 * ALIGNMENT as u64, 600 * ALIGNMENT as u64]);
    }

    proptest! {
        #[test]
        fn every_payload_survives_the_round_trip(payload in prop::collection::vec(any::<u8>(), 1..4096)) {
            let area = encode(&payload).unwrap();
            prop_assert_eq!(decode(&area), Ok(Some(&payload[..])));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            pad in any::<bool>(),
            signed in any::<bool>(),
        ) {
            if signed {
                bytes.splice(0..bytes.len().min(16), SIGNATURE);
            }
            if pad {
                bytes.resize(SIZE, 0);
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_a_site_file(bit in 0..(HEADER - 8 + 100) * 8) {
            let at = if bit / 8 < 56 { bit / 8 } else { bit / 8 + 8 };
            let payload = [b'x'; 100];
            let mut area = encode(&payload).unwrap();
            area[at] ^= 1 << (bit % 8);
            prop_assert!(decode(&area).is_err());
        }
    }
}
