//! The root image's hash tree: checked once against the root hash, then the
//! judge over every block.
//!
//! Source: Documentation/admin-guide/device-mapper/verity.rst: format 1,
//! SHA-256, blocks of 4096 bytes, no salt, no superblock; the top level lies
//! first, and each level's last block is filled up with zeros.

use sha2::{Digest as _, Sha256};

use crate::conf::{BLOCK, RootConf};

const BLOCK_BYTES: usize = 4096;
const HASH: usize = 32;
const PER_BLOCK: u64 = (BLOCK_BYTES / HASH) as u64;

/// The hashes of all data blocks, known to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    leaves: Vec<u8>,
}

impl Tree {
    /// Bytes of the tree in the image.
    pub(crate) fn size(conf: &RootConf) -> u64 {
        levels(conf.data_blocks).iter().sum::<u64>() * BLOCK
    }

    /// Takes the tree's bytes if they lead to the root hash.
    pub(crate) fn check(bytes: &[u8], conf: &RootConf) -> Option<Self> {
        let levels = levels(conf.data_blocks);
        let mut expected = from_hexadecimal(&conf.hash)?;
        let mut rest = bytes;
        for blocks in levels.iter().rev() {
            let length = usize::try_from(blocks * BLOCK).ok()?;
            let (level, below) = rest.split_at_checked(length)?;
            rest = below;
            let mut hashes = expected.chunks_exact(HASH);
            let right = level
                .chunks_exact(BLOCK_BYTES)
                .all(|block| hashes.next().is_some_and(|hash| digest(block) == hash));
            if !right {
                return None;
            }
            expected = level.to_vec();
        }
        rest.is_empty().then_some(Self { leaves: expected })
    }

    /// Whether this is the data block of that number.
    pub(crate) fn holds(&self, number: u64, block: &[u8]) -> bool {
        let hash = usize::try_from(number)
            .ok()
            .and_then(|number| self.leaves.chunks_exact(HASH).nth(number));
        hash.is_some_and(|hash| digest(block) == hash)
    }
}

/// Blocks of each level of the tree, from the leaves up.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK);
        levels.push(blocks);
    }
    levels
}

fn digest(block: &[u8]) -> [u8; HASH] {
    Sha256::digest(block).into()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let digits = digits.filter(|digits| digits.len() == 2 * HASH)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An image of so many data blocks, each different, with its tree.
    pub(crate) fn image(data_blocks: usize) -> (Vec<u8>, RootConf) {
        let mut image = Vec::new();
        for number in 0..data_blocks {
            let mut block = vec![u8::try_from(number % 251).unwrap(); BLOCK_BYTES];
            block[..8].copy_from_slice(&number.to_le_bytes());
            image.extend(block);
        }
        let hash_offset = image.len() as u64;
        let mut levels = Vec::new();
        let mut below = image.clone();
        while below.len() > BLOCK_BYTES {
            let mut level: Vec<u8> = below.chunks(BLOCK_BYTES).flat_map(digest).collect();
            level.resize(level.len().next_multiple_of(BLOCK_BYTES), 0);
            levels.push(level.clone());
            below = level;
        }
        let hash = digest(&below)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for level in levels.iter().rev() {
            image.extend(level);
        }
        let conf = RootConf {
            hash,
            data_blocks: data_blocks as u64,
            hash_offset,
        };
        (image, conf)
    }

    #[test]
    fn trees_of_every_height_are_right_and_know_their_blocks() {
        for blocks in [1, 2, 128, 129, 300] {
            let (image, conf) = image(blocks);
            let (data, tree) = image.split_at(blocks * BLOCK_BYTES);
            assert_eq!(tree.len() as u64, Tree::size(&conf));
            let tree = Tree::check(tree, &conf).unwrap();
            for (number, block) in (0..).zip(data.chunks(BLOCK_BYTES)) {
                assert!(tree.holds(number, block));
                assert!(!tree.holds(number + 1, block));
            }
        }
    }

    /// 16384 blocks and one more need a third level.
    #[test]
    fn a_third_level_is_followed() {
        let (image, conf) = image(16_385);
        let (_, tree) = image.split_at(16_385 * BLOCK_BYTES);
        assert_eq!(tree.len(), (1 + 2 + 129) * BLOCK_BYTES);
        assert!(Tree::check(tree, &conf).is_some());
    }

    proptest! {
        #[test]
        fn no_altered_tree_is_taken(at in 0_usize..4 * BLOCK_BYTES, flip in 1_u8..) {
            let (image, conf) = image(300);
            let mut tree = image[300 * BLOCK_BYTES..].to_vec();
            prop_assert_eq!(tree.len(), 4 * BLOCK_BYTES);
            tree[at] ^= flip;
            prop_assert_eq!(Tree::check(&tree, &conf), None);
        }

        #[test]
        fn a_tree_of_another_length_is_not_taken(length in 0_usize..5 * BLOCK_BYTES) {
            let (image, conf) = image(300);
            let mut tree = image[300 * BLOCK_BYTES..].to_vec();
            prop_assume!(length != tree.len());
            tree.resize(length, 0);
            prop_assert_eq!(Tree::check(&tree, &conf), None);
        }
    }
}
