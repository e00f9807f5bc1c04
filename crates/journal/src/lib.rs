//! The host's ledger file: what a host must not forget, as a chain of hashes.
//!
//! A [`Journal`] takes entries, opaque bytes of bounded length, and gives each a
//! position, counted from 1 over its whole life. It lies on a [`Medium`] as a
//! row of segments:
//!
//! ```text
//! 0000000000000001.segment            0000000000000002.segment
//! ┌────────┬───┬───┬───┬─ ─           ┌────────┬──────────┬───┬─ ─
//! │ header │ 1 │ 2 │ 3 │              │ header │ snapshot │ 7 │
//! └────────┴───┴───┴───┴─ ─           └────────┴──────────┴───┴─ ─
//!           └──►└──►└──►  the hash of 3 stands in here └──►└──►
//! ```
//!
//! Each entry ends with the SHA-256 of its predecessor's hash, its position and
//! its body: checksum and chain in one. The last position with its hash is the
//! [`Head`]; two journals with the same head have the same past.
//!
//! What always holds:
//!
//! - An entry whose append returned is there after a power cut, a full disk, a
//!   failed sync, and a death at any instruction. One whose append failed may be
//!   there or not; if another followed it, it is not.
//! - Nothing half-written is read as an entry.
//! - A segment gets its name only when all it begins with is synced; what is
//!   older is removed only after that name is synced, too.
//! - A file is only ever appended to. After a failed write or sync nobody writes
//!   behind the doubtful bytes: a new segment goes on after the last good entry
//!   and thereby supersedes them.
//! - Damage is never deleted, and never passed over in silence: the chain that
//!   goes on after it has another hash.
//!
//! What a chain cannot show is a past that was cut off whole, with its last
//! segment removed: for that somebody else has to remember heads.
//!
//! No clock, no randomness, no runtime: time is in the bodies, the journal's id
//! comes from the caller.

mod chain;
mod header;
mod journal;
pub mod medium;
mod name;
mod record;
mod segment;
mod survey;
mod verify;

pub use chain::{Hash, Head, JournalId};
pub use journal::{
    AppendError, Entry, Journal, OpenError, Recovered, RollError, SegmentError, Settings,
};
pub use medium::{Directory, Medium, Memory, Source};
pub use record::MAX_BODY;
pub use survey::ReadError;
pub use verify::{Report, SegmentReport, verify};
