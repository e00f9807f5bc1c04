//! One entry's bytes in a segment.
//!
//! ```text
//! marker 8 │ length u32 │ position u64 │ flags u8 │ body │ hash 32
//! ```
//!
//! Numbers are little-endian. The marker comes from the journal's random id: who
//! writes bodies, and that may be a stranger, does not know it, and so cannot
//! put into a body what would be taken for a record behind damage.
//!
//! The hash of its predecessor always stands in the 32 bytes before a record, be
//! it a record or the header. So a record can be checked by itself wherever it
//! is found, also behind damage.

use crate::chain::{self, Hash, Marker};

/// The longest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// Written with the record before it, under one sync.
pub(crate) const JOINED: u8 = 1;
/// Taken over from behind damage: no chain led to it then.
pub(crate) const UNCHAINED: u8 = 2;

const HEAD: usize = 8 + 4 + 8 + 1;
const HASH: usize = 32;

/// What a record is longer than its body; the shortest record.
pub(crate) const OVERHEAD: usize = HEAD + HASH;

/// No journal comes so far: what claims to is damage, and sums cannot overflow.
pub(crate) const MAX_POSITION: u64 = 1 << 62;

/// Bytes that have a record's form; whether they are one, [`Frame::follows`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) position: u64,
    pub(crate) flags: u8,
    pub(crate) body: &'a [u8],
    pub(crate) hash: Hash,
    /// Where the next one begins.
    pub(crate) end: usize,
}

impl<'a> Frame<'a> {
    pub(crate) fn at(bytes: &'a [u8], offset: usize, marker: Marker) -> Option<Self> {
        field(bytes, offset).filter(|it| *it == marker)?;
        let length = u32::from_le_bytes(field(bytes, offset + 8)?);
        let length = usize::try_from(length).ok().filter(|it| *it <= MAX_BODY)?;
        let position = u64::from_le_bytes(field(bytes, offset + 12)?);
        let [flags] = field(bytes, offset + 20)?;
        let sane = (1..=MAX_POSITION).contains(&position) && flags <= JOINED | UNCHAINED;
        let start = offset + HEAD;
        let body = bytes.get(start..start + length).filter(|_| sane)?;
        let hash = Hash(field(bytes, start + length)?);
        Some(Self {
            position,
            flags,
            body,
            hash,
            end: start + length + HASH,
        })
    }

    /// The hash it ought to end with after `previous`.
    pub(crate) fn link(&self, previous: &Hash) -> Hash {
        chain::link(previous, self.position, self.flags, self.body)
    }

    pub(crate) fn follows(&self, previous: &Hash) -> bool {
        self.link(previous) == self.hash
    }
}

/// Appends a record to `out`; `body` is no longer than [`MAX_BODY`].
pub(crate) fn encode(
    out: &mut Vec<u8>,
    marker: Marker,
    previous: &Hash,
    position: u64,
    flags: u8,
    body: &[u8],
) -> Hash {
    let hash = chain::link(previous, position, flags, body);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&marker);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.push(flags);
    out.extend_from_slice(body);
    out.extend_from_slice(&hash.0);
    hash
}

/// The hash that a record at `offset` is chained to.
pub(crate) fn hash_before(bytes: &[u8], offset: usize) -> Option<Hash> {
    field(bytes, offset.checked_sub(HASH)?).map(Hash)
}

/// A field of fixed length, where the bytes reach so far.
pub(crate) fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
