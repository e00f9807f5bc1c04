//! The root image's hash tree, computed again: dm-verity format 1, SHA-256,
//! blocks of 4096 bytes, no salt, no superblock, the tree behind the data.
//!
//! Source: Documentation/admin-guide/device-mapper/verity.rst. The tree lies
//! top level first; each level's last block is filled up with zeros.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};
use surplus_medium::iso9660::Extent;

const BLOCK: usize = 4096;
const BLOCK_SIZE: u64 = 4096;
const HASH: usize = 32;
const PER_BLOCK: u64 = (BLOCK / HASH) as u64;
const ARGUMENT: &[u8] = b"surplus.roothash=";

/// Why a root image is not what its root hash says.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    #[error("reading the root image")]
    Read(#[source] io::Error),
    #[error("the root image has {size} bytes, which is no data with its hash tree")]
    Size { size: u64 },
    #[error("block {block} of the root image is not what its hash tree says")]
    Data { block: u64 },
    #[error("the hash tree of the root image is damaged in its block {block}")]
    Tree { block: u64 },
    #[error("the root image is whole, but its root hash is {found} instead of {expected}")]
    OtherRoot { found: String, expected: String },
    #[error("no kernel command line with a root hash was found")]
    NoRootHash,
    #[error("kernel command lines name different root hashes, {one} and {other}")]
    TwoRootHashes { one: String, other: String },
    #[error(
        "the kernel command line names the root {hash}, which is not the one of the volume {volume}"
    )]
    OtherVolume { hash: String, volume: String },
}

/// Checks every block of a root image against `root_hash` (64 hexadecimal
/// digits) and gives the number of data blocks.
pub fn check_tree(
    image: &mut (impl Read + Seek),
    extent: Extent,
    root_hash: &str,
) -> Result<u64, VerityError> {
    let data_blocks = data_blocks(extent.size).ok_or(VerityError::Size { size: extent.size })?;
    image
        .seek(SeekFrom::Start(extent.offset))
        .map_err(VerityError::Read)?;
    let mut blocks = BufReader::with_capacity(1 << 20, image);
    let leaves = hash_blocks(&mut blocks, data_blocks)?;
    let (computed, root) = tree_over(leaves.clone());
    let mut stored = vec![0; computed.len()];
    blocks.read_exact(&mut stored).map_err(VerityError::Read)?;
    if let Some(block) = first_difference(&computed, &stored) {
        // In the leaf level, which is last, a difference names a data block.
        let leaf_start = stored.len() - leaves.len().next_multiple_of(BLOCK).min(stored.len());
        let of_data = leaves
            .chunks(HASH)
            .zip(stored[leaf_start..].chunks(HASH))
            .position(|(a, b)| a != b);
        return Err(match of_data {
            Some(block) => VerityError::Data {
                block: block as u64,
            },
            None => VerityError::Tree { block },
        });
    }
    let found = hex::encode(root);
    if !found.eq_ignore_ascii_case(root_hash) {
        return Err(VerityError::OtherRoot {
            found,
            expected: root_hash.to_owned(),
        });
    }
    Ok(data_blocks)
}

/// The root hash that the kernel command lines in `bytes` name, as a unified
/// kernel image or a boot loader's script has them.
pub fn root_of_hash(bytes: &[u8]) -> Result<String, VerityError> {
    let mut found: Option<String> = None;
    for start in positions(bytes) {
        let digits = bytes
            .get(start..start + 64)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { continue };
        let hash = String::from_utf8_lossy(digits).to_ascii_lowercase();
        match &found {
            Some(one) if *one != hash => {
                return Err(VerityError::TwoRootHashes {
                    one: one.clone(),
                    other: hash,
                });
            }
            _ => found = Some(hash),
        }
    }
    found.ok_or(VerityError::NoRootHash)
}

/// The root hash named anywhere in a medium but in its root image.
pub(crate) fn find_root_hash(
    medium: &mut (impl Read + Seek),
    size: u64,
    root: Extent,
) -> Result<String, VerityError> {
    let mut around = Vec::new();
    for (start, end) in [(0, root.offset), (root.end(), size)] {
        medium
            .seek(SeekFrom::Start(start))
            .map_err(VerityError::Read)?;
        let length = end.saturating_sub(start);
        (&mut *medium)
            .take(length)
            .read_to_end(&mut around)
            .map_err(VerityError::Read)?;
    }
    root_of_hash(&around)
}

/// Where digits begin behind `surplus.roothash=`.
fn positions(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            // Most bytes are no `s`; this keeps a scan of 30 MB short.
            let next = from
                + bytes
                    .get(from..)?
                    .iter()
                    .position(|&byte| byte == ARGUMENT[0])?;
            from = next + 1;
            if bytes[next..].starts_with(ARGUMENT) {
                return Some(next + ARGUMENT.len());
            }
        }
    })
}

/// The data blocks of an image of `size` bytes that ends with its tree.
fn data_blocks(size: u64) -> Option<u64> {
    let total = size / BLOCK_SIZE;
    if !size.is_multiple_of(BLOCK_SIZE) {
        return None;
    }
    // Data and tree grow together, so the one split is found by halving.
    let (mut low, mut high) = (1, total);
    while low < high {
        let middle = low + (high - low) / 2;
        if middle + tree_blocks(middle) < total {
            low = middle + 1
        } else {
            high = middle
        }
    }
    (total > 0 && low + tree_blocks(low) == total).then_some(low)
}

fn tree_blocks(data_blocks: u64) -> u64 {
    let (mut level, mut sum) = (data_blocks, 0);
    while level > 1 {
        level = level.div_ceil(PER_BLOCK);
        sum += level;
    }
    sum
}

fn hash_blocks(source: &mut impl Read, count: u64) -> Result<Vec<u8>, VerityError> {
    let mut hashes = Vec::new();
    let mut block = [0; BLOCK];
    for _ in 0..count {
        source.read_exact(&mut block).map_err(VerityError::Read)?;
        hashes.extend(Sha256::digest(block));
    }
    Ok(hashes)
}

/// All levels over the leaf hashes, top first, and the root hash.
fn tree_over(leaves: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut hashes = leaves;
    while hashes.len() > HASH {
        hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
        let above = hashes.chunks(BLOCK).flat_map(Sha256::digest).collect();
        levels.push(std::mem::replace(&mut hashes, above));
    }
    levels.reverse();
    (levels.concat(), hashes)
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<u64> {
    let block = one
        .chunks(BLOCK)
        .zip(other.chunks(BLOCK))
        .position(|(a, b)| a != b)?;
    Some(block as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// An image with its tree, and the root hash.
    pub(crate) fn image(data_blocks: usize) -> (Vec<u8>, String) {
        let mut bytes: Vec<u8> = (0..data_blocks * BLOCK)
            .map(|i| u8::try_from(i / 7 % 251).unwrap())
            .collect();
        let leaves = hash_blocks(&mut &bytes[..], data_blocks as u64).unwrap();
        let (tree, root) = tree_over(leaves);
        bytes.extend(tree);
        (bytes, hex::encode(root))
    }

    fn check(bytes: &[u8], hash: &str) -> Result<u64, VerityError> {
        check_tree(
            &mut Cursor::new(bytes),
            Extent {
                offset: 0,
                size: bytes.len() as u64,
            },
            hash,
        )
    }

    #[test]
    fn veritysetup_makes_the_same_tree() {
        for blocks in [2, 128, 129, 300] {
            let (bytes, hash) = image(blocks);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("root.img");
            std::fs::write(&path, &bytes[..blocks * BLOCK]).unwrap();
            let made = std::process::Command::new("veritysetup")
                .args(["format", "--no-superblock", "--salt=-"])
                .arg(format!("--data-blocks={blocks}"))
                .arg(format!("--hash-offset={}", blocks * BLOCK))
                .args([&path, &path])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .output()
                .expect("needs `apt install cryptsetup-bin`");
            assert!(
                String::from_utf8_lossy(&made.stdout).contains(&hash),
                "{blocks} blocks"
            );
            assert!(std::fs::read(&path).unwrap() == bytes, "{blocks} blocks");
        }
    }

    #[test]
    fn a_flipped_byte_is_found_and_its_block_named() {
        let (good, hash) = image(300);
        assert_eq!(check(&good, &hash).unwrap(), 300);
        let mut bad = good.clone();
        bad[200 * BLOCK + 5] ^= 1;
        assert!(matches!(
            check(&bad, &hash),
            Err(VerityError::Data { block: 200 })
        ));
        let mut bad = good.clone();
        bad[300 * BLOCK + 5] ^= 1;
        assert!(matches!(
            check(&bad, &hash),
            Err(VerityError::Tree { block: 0 })
        ));
        let other = "ab".repeat(32);
        assert!(matches!(
            check(&good, &other),
            Err(VerityError::OtherRoot { .. })
        ));
        assert!(check(&good[..299 * BLOCK], &hash).is_err());
    }

    #[test]
    fn the_root_hash_is_found_in_command_lines_and_two_must_agree() {
        let one = "0a".repeat(32);
        let text = format!("xx surplus.roothash={one}\0 surplus.roothash= surplus.roothash={one} ");
        assert_eq!(root_of_hash(text.as_bytes()).unwrap(), one);
        let two = text + "surplus.roothash=" + &"0b".repeat(32);
        assert!(matches!(
            root_of_hash(two.as_bytes()),
            Err(VerityError::TwoRootHashes { .. })
        ));
        assert!(matches!(
            root_of_hash(b"surplus.roothash=0a"),
            Err(VerityError::NoRootHash)
        ));
    }

    proptest! {
        #[test]
        fn the_size_alone_tells_data_from_tree(blocks in 1..10_000_000_u64) {
            let size = (blocks + tree_blocks(blocks)) * BLOCK_SIZE;
            prop_assert_eq!(data_blocks(size), Some(blocks));
        }
    }
}
