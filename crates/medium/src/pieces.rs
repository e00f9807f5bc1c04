//! The root image's pieces: what a root that comes over the network is judged by,
//! piece by piece as it arrives. The list lies in the initramfs, at `/root.pieces`.
//!
//! All numbers little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | bytes of the image, its verity tree with them |
//! | 8 | 32 each | SHA-256 of each piece of [`PIECE`] bytes, of which the last may be shorter |
//!
//! The kernel judges every block by the verity tree all the same.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// Bytes of a piece: what is fetched again where one bit of it is wrong.
pub const PIECE: usize = 128 * 1024;

const SIZE: usize = 8;
const HASH: usize = 32;

/// The list for an image.
///
/// # Errors
///
/// The image cannot be read.
pub fn list(image: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut list = vec![0; SIZE];
    let mut size = 0;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        piece.clear();
        let read = image.take(PIECE as u64).read_to_end(&mut piece)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        list.extend(Sha256::digest(&piece));
    }
    list[..SIZE].copy_from_slice(&size.to_le_bytes());
    Ok(list)
}

/// The hashes of an image's pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    size: u64,
    hashes: Vec<[u8; HASH]>,
}

impl Pieces {
    /// Reads a list; none if it is not one of an image with something in it.
    pub fn parse(list: &[u8]) -> Option<Self> {
        let (size, rest) = list.split_first_chunk()?;
        let size = u64::from_le_bytes(*size);
        let (hashes, rest) = rest.as_chunks();
        let expected = usize::try_from(size.div_ceil(PIECE as u64)).ok()?;
        (size > 0 && hashes.len() == expected && rest.is_empty()).then(|| Self {
            size,
            hashes: hashes.to_vec(),
        })
    }

    /// Bytes of the whole image.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether these bytes, all of a piece, are the image's at this position, which
    /// is where a piece begins.
    pub fn holds(&self, position: u64, piece: &[u8]) -> bool {
        let hash = usize::try_from(position / PIECE as u64)
            .ok()
            .and_then(|number| self.hashes.get(number));
        hash.is_some_and(|hash| Sha256::digest(piece)[..] == *hash)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 1000).to_le_bytes()[0]).collect()
    }

    fn pieces(image: &[u8]) -> Pieces {
        Pieces::parse(&list(&mut &*image).unwrap()).unwrap()
    }

    #[test]
    fn every_piece_is_known_and_no_other() {
        for bytes in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 4096] {
            let image = image(bytes);
            let pieces = pieces(&image);
            assert_eq!(pieces.size(), bytes as u64);
            for (piece, position) in image.chunks(PIECE).zip((0..).step_by(PIECE)) {
                assert!(pieces.holds(position, piece));
                assert!(!pieces.holds(position, &piece[1..]));
                assert!(!pieces.holds(position + PIECE as u64, piece));
            }
        }
    }

    #[test]
    fn what_is_no_list_is_not_taken() {
        let good = list(&mut &*image(PIECE + 1)).unwrap();
        assert!(Pieces::parse(&good).is_some());
        for length in [0, 7, 8, 8 + 32, good.len() - 1] {
            assert_eq!(Pieces::parse(&good[..length]), None, "{length}");
        }
        let longer = [&*good, &[0; 32]].concat();
        assert_eq!(Pieces::parse(&longer), None);
        assert_eq!(Pieces::parse(&list(&mut io::empty()).unwrap()), None);
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_seen(at in 0..PIECE + 4096, bit in 0_u32..8) {
            let mut image = image(PIECE + 4096);
            let pieces = pieces(&image);
            image[at] ^= 1_u8 << bit;
            let position = at / PIECE * PIECE;
            let end = image.len().min(position + PIECE);
            prop_assert!(!pieces.holds(position as u64, &image[position..end]));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(pieces) = Pieces::parse(&bytes) {
                let _ = pieces.holds(u64::MAX, &bytes);
            }
        }
    }
}
