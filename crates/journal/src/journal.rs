//! The journal that is written to.
//!
//! ```text
//!            append, roll
//!           ┌────────────┐
//!           ▼            │
//!  open ► certain ───────┘
//!           ▲   │ a write, a sync, a rename or its sync failed
//!           │   ▼
//!           └─ in doubt      the next append or roll first begins a new segment
//! ```
//!
//! What always holds: `head` is the last acknowledged entry. In doubt nothing is
//! written to the current segment any more: what reached the disk of a failed
//! write is not known, and a sync that succeeds after one that failed says
//! nothing of the bytes in between (Linux holds them for clean). The new segment
//! begins after `head`, and so supersedes what may lie behind it in the old one.

mod begin;
mod open;

use std::io;

use crate::chain::{Head, JournalId, marker};
use crate::medium::Medium;
use crate::name::{Kind, Name};
use crate::record::{self, JOINED, MAX_BODY, OVERHEAD};
use begin::Start;

pub use begin::SegmentError;
pub use open::{Entry, OpenError, Recovered};

/// How a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sixteen random bytes, used where there is no journal yet, or none of it
    /// is readable.
    pub id: JournalId,
    /// The size of the live part, in bytes, from which on it is to be rolled.
    pub segment_bytes: u64,
    /// How many older snapshots are kept, each with what followed it.
    pub keep: usize,
}

/// An append-only chain of entries.
#[derive(Debug)]
pub struct Journal<M> {
    medium: M,
    id: JournalId,
    settings: Settings,
    head: Head,
    /// The number of the segment that is written to.
    current: u64,
    next_number: u64,
    in_doubt: bool,
    /// Bytes of the live part, and of the snapshot that it begins with.
    live_bytes: u64,
    snapshot_bytes: u64,
    /// Numbers of the segments that begin with a whole snapshot, oldest first.
    bases: Vec<u64>,
}

/// Why entries were not appended. What failed in the middle may turn up after a
/// restart, unless another append succeeded before.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("an entry of {length} bytes is too long for the journal, which takes {MAX_BODY}")]
    TooLong { length: usize },
    #[error(
        "could not write to the journal's segment {name}; the entries do not count, \
         and the next attempt goes to a new segment"
    )]
    Write { name: String, source: io::Error },
    #[error(
        "could not sync the journal's segment {name}; the entries do not count, \
         and the next attempt goes to a new segment"
    )]
    Sync { name: String, source: io::Error },
    #[error(
        "the end of the journal is in doubt after an earlier failure, and a new segment \
         could not be begun; nothing was appended: look after the disk, then try again"
    )]
    InDoubt { source: SegmentError },
}

/// Why a journal was not rolled. Nothing is lost, and it can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    #[error(
        "a snapshot entry of {length} bytes is too long for the journal, which takes {MAX_BODY}"
    )]
    TooLong { length: usize },
    #[error("could not begin the journal's next segment; the present one goes on")]
    Begin { source: SegmentError },
}

impl<M: Medium> Journal<M> {
    /// The last acknowledged entry.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The journal's id.
    pub fn id(&self) -> JournalId {
        self.id
    }

    /// Whether the live part has outgrown the size that was set, and twice that
    /// of its own snapshot.
    pub fn wants_roll(&self) -> bool {
        let limit = self.snapshot_bytes.saturating_mul(2);
        self.live_bytes > limit.max(self.settings.segment_bytes)
    }

    /// Gives the medium back. Nothing needs to be done at the end.
    pub fn into_medium(self) -> M {
        self.medium
    }

    /// Appends an entry; it is durable when this returns.
    pub fn append(&mut self, body: &[u8]) -> Result<Head, AppendError> {
        self.append_all(&[body])
    }

    /// Appends entries with one sync; they are durable when this returns. A power
    /// cut before that may leave the first few of them.
    pub fn append_all<B: AsRef<[u8]>>(&mut self, bodies: &[B]) -> Result<Head, AppendError> {
        if let Some(length) = too_long(bodies) {
            return Err(AppendError::TooLong { length });
        }
        if bodies.is_empty() {
            return Ok(self.head);
        }
        if self.in_doubt {
            let start = Start::after(self.head);
            self.begin(start)
                .map_err(|source| AppendError::InDoubt { source })?;
        }
        let (bytes, head) = self.encode(bodies);
        let name = Name::segment(self.current);
        if let Err(source) = self.medium.append(&name, &bytes) {
            self.in_doubt = true;
            return Err(AppendError::Write { name, source });
        }
        if let Err(source) = self.medium.sync(&name) {
            self.in_doubt = true;
            return Err(AppendError::Sync { name, source });
        }
        self.head = head;
        self.live_bytes = self.live_bytes.saturating_add(length(&bytes));
        Ok(head)
    }

    /// Begins a new segment with `snapshot`, everything that is live, and removes
    /// older ones than are to be kept. The snapshot's entries have positions like
    /// all others. It counts as a whole or not at all.
    pub fn roll<B: AsRef<[u8]>>(&mut self, snapshot: &[B]) -> Result<Head, RollError> {
        if let Some(length) = too_long(snapshot) {
            return Err(RollError::TooLong { length });
        }
        let (records, head) = self.encode(snapshot);
        let snapshot_bytes = length(&records);
        let start = Start {
            born: snapshot.len(),
            snapshot: true,
            records,
            ..Start::after(self.head)
        };
        self.begin(start)
            .map_err(|source| RollError::Begin { source })?;
        self.head = head;
        self.live_bytes = snapshot_bytes;
        self.snapshot_bytes = snapshot_bytes;
        self.bases.push(self.current);
        self.prune();
        Ok(head)
    }

    /// The records of `bodies` after the head, and the head after them.
    fn encode<B: AsRef<[u8]>>(&self, bodies: &[B]) -> (Vec<u8>, Head) {
        let marker = marker(&self.id);
        let mut head = self.head;
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            let flags = if index == 0 { 0 } else { JOINED };
            head.position += 1;
            let (previous, body) = (head.hash, body.as_ref());
            let position = head.position;
            head.hash = record::encode(&mut bytes, marker, &previous, position, flags, body);
        }
        (bytes, head)
    }

    /// Removes what is older than the snapshots to be kept. Whatever fails is
    /// tried again at the next roll.
    fn prune(&mut self) {
        let last = self.bases.len().saturating_sub(1);
        let Some(oldest) = last
            .checked_sub(self.settings.keep)
            .map(|it| self.bases[it])
        else {
            return;
        };
        let Ok(names) = self.medium.list() else {
            return;
        };
        let mut old: Vec<_> = names
            .iter()
            .filter_map(|name| Name::parse(name))
            .filter(|name| name.kind == Kind::Segment && name.number < oldest)
            .map(|name| name.number)
            .collect();
        old.sort_unstable();
        for number in old {
            // Oldest first and each for good: a power cut leaves no gap.
            let removed = self.medium.remove(&Name::segment(number));
            if removed.and_then(|()| self.medium.sync_names()).is_err() {
                return;
            }
        }
        self.bases.retain(|base| *base >= oldest);
    }
}

/// The length of a body that is too long, if one is.
fn too_long<B: AsRef<[u8]>>(bodies: &[B]) -> Option<usize> {
    let mut lengths = bodies.iter().map(|body| body.as_ref().len());
    lengths.find(|length| *length > MAX_BODY)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// What an entry takes in a segment.
fn record_bytes(body: &[u8]) -> u64 {
    length(body).saturating_add(u64::try_from(OVERHEAD).unwrap_or_default())
}
