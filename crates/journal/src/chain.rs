//! The chain: which hash follows from which.
//!
//! Each use of the hash has a tag of its own, so that none can be taken for
//! another: the beginning of a journal, an entry, a break, a marker.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Sixteen random bytes that tell one journal's segments from another's. They are
/// nobody else's business: see `record`.
pub type JournalId = [u8; 16];

/// What each record of a journal begins with.
pub(crate) type Marker = [u8; 8];

/// A SHA-256 in the chain. Displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

/// How far a journal has come: its last entry's position and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 0 where there is no entry yet.
    pub position: u64,
    /// Stands for the entry at `position` and for all before it.
    pub hash: Hash,
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.position, self.hash)
    }
}

/// The marker of a journal's records.
pub(crate) fn marker(id: &JournalId) -> Marker {
    let [a, b, c, d, e, f, g, h, ..] = digest(b'M', &[id]).0;
    [a, b, c, d, e, f, g, h]
}

/// What the first entry of a journal follows.
pub(crate) fn genesis(id: &JournalId) -> Hash {
    digest(b'J', &[id])
}

/// The hash of an entry, from its predecessor's.
pub(crate) fn link(previous: &Hash, position: u64, flags: u8, body: &[u8]) -> Hash {
    digest(
        b'E',
        &[&previous.0, &position.to_le_bytes(), &[flags], body],
    )
}

/// What the first entry after a break follows: whoever remembers a later head
/// than `proven` sees that this is not its continuation.
pub(crate) fn after_break(id: &JournalId, proven: &Head, first: u64) -> Hash {
    digest(
        b'B',
        &[
            id,
            &proven.position.to_le_bytes(),
            &proven.hash.0,
            &first.to_le_bytes(),
        ],
    )
}

/// The SHA-256 of parts, all but the last of which have a fixed length.
fn digest(tag: u8, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([tag]);
    for part in parts {
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}
