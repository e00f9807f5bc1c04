//! A segment's header.
//!
//! ```text
//!   0  magic, version, the first 4 bytes of their SHA-256
//!  16  journal id, segment number, first position,
//!      entries that it was born with, flags, previous hash
//!  88  SHA-256 of all that
//! 120  the previous hash again, where the first record looks for it
//! ```
//!
//! The first sixteen bytes stay so in every version: they tell a newer version
//! from damage.

use sha2::{Digest as _, Sha256};

use crate::chain::{Hash, JournalId};
use crate::record::{MAX_POSITION, field};

/// The version that this program writes, and the only one it reads.
pub(crate) const VERSION: u32 = 1;

/// Where the first record begins.
pub(crate) const LENGTH: usize = 152;

/// Where the previous hash stands under the checksum.
pub(crate) const PREVIOUS: usize = 56;

const MAGIC: [u8; 8] = *b"surpjrnl";
const SUM: usize = 88;

const SNAPSHOT: u32 = 1;
const AFTER_BREAK: u32 = 2;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: JournalId,
    /// Orders the segments, and is their name.
    pub(crate) number: u64,
    /// The position of its first entry.
    pub(crate) first: u64,
    /// How many entries were synced with it before it got its name.
    pub(crate) born: u32,
    /// Those entries are everything that was live: nothing older is needed.
    pub(crate) snapshot: bool,
    /// What came before was damaged: `previous` is no entry's hash.
    pub(crate) after_break: bool,
    /// The hash of the entry before `first`.
    pub(crate) previous: Hash,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Newer(u32),
    Damaged,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = preamble(VERSION);
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.born.to_le_bytes());
        let snapshot = if self.snapshot { SNAPSHOT } else { 0 };
        let after_break = if self.after_break { AFTER_BREAK } else { 0 };
        out.extend_from_slice(&(snapshot | after_break).to_le_bytes());
        out.extend_from_slice(&self.previous.0);
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum);
        out.extend_from_slice(&self.previous.0);
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        if let Some(version) = field(bytes, 8).map(u32::from_le_bytes)
            && version != VERSION
            && bytes.starts_with(&preamble(version))
        {
            return Err(Unreadable::Newer(version));
        }
        Self::read(bytes).ok_or(Unreadable::Damaged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let summed = bytes.get(..LENGTH)?.get(..SUM)?;
        let sum: [u8; 32] = field(bytes, SUM)?;
        let flags = u32::from_le_bytes(field(bytes, 52)?);
        let header = Self {
            id: field(bytes, 16)?,
            number: u64::from_le_bytes(field(bytes, 32)?),
            first: u64::from_le_bytes(field(bytes, 40)?),
            born: u32::from_le_bytes(field(bytes, 48)?),
            snapshot: flags & SNAPSHOT != 0,
            after_break: flags & AFTER_BREAK != 0,
            previous: Hash(field(bytes, PREVIOUS)?),
        };
        let sane = (1..=MAX_POSITION).contains(&header.first) && header.number <= MAX_POSITION;
        let whole = bytes.starts_with(&preamble(VERSION)) && Sha256::digest(summed)[..] == sum;
        (whole && sane).then_some(header)
    }
}

fn preamble(version: u32) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    let sum = Sha256::digest(&out);
    out.extend_from_slice(&sum[..4]);
    out
}
