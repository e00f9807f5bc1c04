//! What the host remembers across the agent's death: its leases, the epochs it
//! has seen, receipts. Kept in the host's ledger, an append-only chain of
//! hashes (`surplus-journal`).
//!
//! ```text
//! ticket ─► stage ─► stage, counters, usage … ─► receipt ◄─► acknowledged
//! ```
//!
//! Each entry states a fact; what is known is what the entries add up to, and
//! of two on the same thing the later one counts. What always holds: a change
//! whose call returned is there after a power cut, where there is a disk.

mod entry;

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use camino::Utf8Path;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use surplus_journal::{
    AppendError, Directory, Journal, JournalId, Medium, OpenError, Recovered, Settings, Source,
    medium::DirectoryError,
};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{EndReceipt, Ticket};

use super::placement::Placement;
use super::record::Record;
use entry::Entry;
pub(super) use entry::note_epoch;

/// The size of a segment of the ledger, and how many older ones stay: what a
/// host that has only memory can spare.
const SEGMENT_BYTES: u64 = 256 << 10;
const OLDER_KEPT: usize = 4;

/// How many acknowledged receipts stay, for a marketplace that loses them.
const KEPT_AT_MOST: usize = 128;

/// How long a ledger line outlives the last moment its tickets mean anything.
const LEDGER_MARGIN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("could not make {path}")]
    Make { path: String, source: io::Error },
    #[error("could not take the host's ledger into use")]
    Directory(#[from] DirectoryError),
    #[error("could not read the host's ledger")]
    Open(#[from] OpenError),
    #[error("could not write to the host's ledger")]
    Append(#[from] AppendError),
    #[error("could not write an entry of the host's ledger as JSON")]
    Encode(#[from] serde_json::Error),
}

/// The highest epoch of a lease that this host has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub epoch: Epoch,
    /// No ticket of the lease can start anything after this time.
    pub forget_after: Timestamp,
}

pub type Ledger = BTreeMap<LeaseId, LedgerEntry>;

/// What the entries add up to.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub records: BTreeMap<Placement, Record>,
    /// Receipts that wait for their acknowledgement.
    pub receipts: BTreeMap<Placement, EndReceipt>,
    /// Receipts that were acknowledged: a marketplace whose store was restored
    /// from an older backup asks for them once more.
    pub kept: BTreeMap<Placement, EndReceipt>,
    pub ledger: Ledger,
    /// What could not be understood and was set aside, with the reason.
    pub set_aside: Vec<String>,
}

/// Where a ledger lies.
pub trait Disk: Medium + fmt::Debug + Send + Sync {}

impl<T: Medium + fmt::Debug + Send + Sync> Disk for T {}

/// A disk of whatever kind.
struct Any(Box<dyn Disk>);

/// The host's ledger, and what it adds up to.
#[derive(Debug)]
pub struct Store {
    journal: Journal<Any>,
    /// As it is written.
    written: Loaded,
}

impl Store {
    /// The ledger under the state directory; makes both where they are missing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it cannot be read or is in use.
    pub fn open(state: &Utf8Path) -> Result<Self, StoreError> {
        super::directories::make_dir(state, 0o755).map_err(|source| StoreError::Make {
            path: state.to_string(),
            source,
        })?;
        let disk = Directory::open(state.join("ledger").as_std_path())?;
        Self::open_on(Box::new(disk), uuid::Uuid::new_v4().into_bytes())
    }

    /// The same on another disk; `id` is a new ledger's name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it cannot be read.
    pub fn open_on(disk: Box<dyn Disk>, id: JournalId) -> Result<Self, StoreError> {
        let settings = Settings {
            id,
            segment_bytes: SEGMENT_BYTES,
            keep: OLDER_KEPT,
        };
        let (journal, recovered) = Journal::open(Any(disk), settings)?;
        let written = add_up(recovered);
        Ok(Self { journal, written })
    }

    /// What is remembered.
    pub fn load(&self) -> Loaded {
        self.written.clone()
    }

    /// Writes what is new in a record.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; the record is then remembered as it was.
    pub fn save(&mut self, record: &Record) -> Result<(), StoreError> {
        let before = self.written.records.get(&record.placement());
        self.append(entry::changes(before, record))
    }

    /// The same for several records, in one go.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; all are then remembered as they were.
    pub fn save_all<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), StoreError> {
        let known = &self.written.records;
        let changes = records.flat_map(|it| entry::changes(known.get(&it.placement()), it));
        self.append(changes.collect())
    }

    /// Writes the lease's ledger line.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it was not written.
    pub fn save_ledger(&mut self, lease: LeaseId, line: LedgerEntry) -> Result<(), StoreError> {
        self.append(vec![Entry::Epoch { lease, line }])
    }

    /// Writes a receipt, which takes its record's place.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it was not written.
    pub fn save_receipt(&mut self, receipt: &EndReceipt) -> Result<(), StoreError> {
        self.append(vec![Entry::Ended {
            receipt: receipt.clone(),
        }])
    }

    /// The receipt was acknowledged: it is kept, and not sent any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it is then sent again, which is harmless.
    pub fn keep_receipt(&mut self, placement: Placement) -> Result<(), StoreError> {
        if !self.written.receipts.contains_key(&placement) {
            return Ok(());
        }
        self.append(vec![Entry::Acknowledged { placement }])
    }

    /// A receipt that was acknowledged is to be sent once more.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where that was not written.
    pub fn recall_receipt(&mut self, placement: Placement) -> Result<(), StoreError> {
        if !self.written.kept.contains_key(&placement) {
            return Ok(());
        }
        self.append(vec![Entry::Recalled { placement }])
    }

    /// Forgets a ledger line that can refuse nothing any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it stays.
    pub fn forget_ledger(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        self.append(vec![Entry::Forgotten { lease }])
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let bodies = encode(&entries)?;
        self.journal.append_all(&bodies)?;
        for entry in entries {
            entry.apply(&mut self.written);
        }
        if self.journal.wants_roll() {
            self.roll();
        }
        Ok(())
    }

    /// Begins a new segment with all that is still of use. What is written is
    /// safe either way, so a failure waits for the next time.
    fn roll(&mut self) {
        let rolled = encode(&entry::all(&self.written)).map(|bodies| self.journal.roll(&bodies));
        match rolled {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = super::engine::chain(&error);
                tracing::warn!(error, "the host's ledger grows on");
            }
            Err(error) => tracing::error!(%error, "the host's ledger grows on"),
        }
    }
}

fn encode(entries: &[Entry]) -> Result<Vec<Vec<u8>>, serde_json::Error> {
    entries.iter().map(serde_json::to_vec).collect()
}

/// What the entries of a ledger add up to.
fn add_up(recovered: Recovered) -> Loaded {
    let mut loaded = Loaded::default();
    if let Some(repaired) = recovered.repaired {
        tracing::warn!(repaired, "the host's ledger was mended");
    }
    let mut unread = Vec::new();
    for written in recovered.entries {
        match serde_json::from_slice::<Entry>(&written.body) {
            Ok(entry) => entry.apply(&mut loaded),
            Err(error) => unread.push(format!(
                "entry {} of the host's ledger could not be understood: {error}",
                written.position
            )),
        }
    }
    loaded.set_aside = recovered.set_aside;
    loaded.set_aside.extend(unread);
    loaded
}

impl LedgerEntry {
    /// The line for an epoch whose tickets mean nothing after `last`.
    pub fn until(epoch: Epoch, last: Timestamp) -> Self {
        let forget_after = last.checked_add(LEDGER_MARGIN).unwrap_or(Timestamp::MAX);
        Self {
            epoch,
            forget_after,
        }
    }
}

/// The ledger line that a ticket stands for.
pub fn ledger_entry(ticket: &Ticket) -> LedgerEntry {
    LedgerEntry::until(ticket.epoch, ticket.not_after.max(ticket.ends_at))
}

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Source for Any {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }
}

impl Medium for Any {
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.0.create(name)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.append(name, bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.0.sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.0.sync_names()
    }
}

#[cfg(test)]
mod tests;
