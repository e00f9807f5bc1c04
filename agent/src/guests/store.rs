//! What the host remembers across the agent's death: records and the ledger of
//! epochs, as small files.
//!
//! Each file is written beside its name, synced, and renamed over it, so that
//! whoever reads it sees the old or the new whole. Layout under the state
//! directory: `leases/<placement>.json`, `receipts/<placement>.json`,
//! `ledger/<lease>.json`, `guests/<placement>/` (disk, seed, console log),
//! `images/`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};

use camino::{Utf8Path, Utf8PathBuf};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{EndReceipt, Ticket};

use super::placement::Placement;
use super::record::Record;

/// Something could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {path}")]
pub struct StoreError {
    what: &'static str,
    path: Utf8PathBuf,
    source: io::Error,
}

/// The highest epoch of a lease that this host has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub epoch: Epoch,
    /// No ticket of the lease can start anything after this time.
    pub forget_after: Timestamp,
}

pub type Ledger = BTreeMap<LeaseId, LedgerEntry>;

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    root: Utf8PathBuf,
    /// Lets changes fail, for tests of a death at any of them and of full disks.
    #[cfg(test)]
    pub fuse: Option<std::sync::Arc<Fuse>>,
}

/// Lets so many more changes succeed, and then none.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Fuse {
    pub left: std::sync::atomic::AtomicUsize,
    pub blown: std::sync::atomic::AtomicBool,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub struct Loaded {
    pub records: BTreeMap<Placement, Record>,
    /// Receipts that wait for their acknowledgement.
    pub receipts: BTreeMap<Placement, EndReceipt>,
    pub ledger: Ledger,
    /// Files that could not be understood and were set aside, with the reason.
    pub set_aside: Vec<String>,
}

impl Store {
    /// Makes the directories where they are missing.
    pub fn open(root: &Utf8Path) -> Result<Self, StoreError> {
        let store = Self {
            root: root.to_owned(),
            #[cfg(test)]
            fuse: None,
        };
        // QEMU, under its own user, must reach images and guests, not list
        // them; nobody else must reach records, which hold user data.
        for (dir, mode) in [
            (root.to_owned(), 0o755),
            (store.leases(), 0o700),
            (store.receipts(), 0o700),
            (store.ledger(), 0o700),
            (store.images(), 0o711),
            (store.guests(), 0o711),
        ] {
            make_dir(&dir, mode)?;
        }
        Ok(store)
    }

    fn leases(&self) -> Utf8PathBuf {
        self.root.join("leases")
    }

    fn receipts(&self) -> Utf8PathBuf {
        self.root.join("receipts")
    }

    fn ledger(&self) -> Utf8PathBuf {
        self.root.join("ledger")
    }

    /// The image cache.
    pub fn images(&self) -> Utf8PathBuf {
        self.root.join("images")
    }

    fn guests(&self) -> Utf8PathBuf {
        self.root.join("guests")
    }

    /// The directory of a guest's own files.
    pub fn guest_dir(&self, placement: Placement) -> Utf8PathBuf {
        self.guests().join(placement.to_string())
    }

    /// Makes a guest's directory anew, empty.
    pub fn make_guest_dir(&self, placement: Placement) -> Result<Utf8PathBuf, StoreError> {
        self.remove_guest_dir(placement)?;
        let dir = self.guest_dir(placement);
        make_dir(&dir, 0o711)?;
        Ok(dir)
    }

    /// Removes a guest's files; whether there were any.
    pub fn remove_guest_dir(&self, placement: Placement) -> Result<bool, StoreError> {
        self.change()?;
        let dir = self.guest_dir(placement);
        match fs::remove_dir_all(&dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(StoreError {
                what: "remove",
                path: dir,
                source,
            }),
        }
    }

    /// Placements that have files on this host.
    pub fn guest_dirs(&self) -> Vec<Placement> {
        let Ok(entries) = self.guests().read_dir_utf8() else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().parse().ok())
            .collect()
    }

    /// Reads everything. What cannot be understood is set aside, not deleted.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded::default();
        for record in read_all::<Record>(&self.leases(), &mut loaded.set_aside)? {
            loaded.records.insert(record.placement(), record);
        }
        for receipt in read_all::<EndReceipt>(&self.receipts(), &mut loaded.set_aside)? {
            let placement = Placement::new(receipt.lease, receipt.epoch);
            // The agent died between writing the receipt and removing the record.
            if loaded.records.remove(&placement).is_some() {
                self.forget(placement)?;
            }
            loaded.receipts.insert(placement, receipt);
        }
        #[derive(Deserialize)]
        struct Line {
            lease: LeaseId,
            #[serde(flatten)]
            entry: LedgerEntry,
        }
        for line in read_all::<Line>(&self.ledger(), &mut loaded.set_aside)? {
            loaded.ledger.insert(line.lease, line.entry);
        }
        // Records and receipts are written before their ledger line: the agent
        // may have died in between.
        let records = loaded
            .records
            .values()
            .map(|record| (record.ticket.lease, ledger_entry(&record.ticket)));
        let receipts = loaded.receipts.values().map(|receipt| {
            (
                receipt.lease,
                LedgerEntry::until(receipt.epoch, receipt.ended_at),
            )
        });
        for (lease, entry) in records.chain(receipts) {
            let known = loaded.ledger.entry(lease).or_insert(entry);
            if known.epoch < entry.epoch {
                *known = entry;
            }
        }
        Ok(loaded)
    }

    /// Stands before every change: nothing but in tests.
    fn change(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(fuse) = &self.fuse {
            use std::sync::atomic::Ordering::Relaxed;
            let count = |left: usize| left.checked_sub(1);
            if fuse.left.fetch_update(Relaxed, Relaxed, count).is_err() {
                fuse.blown.store(true, Relaxed);
                let source = io::Error::other("the fuse has blown");
                return Err(StoreError {
                    what: "change",
                    path: self.root.clone(),
                    source,
                });
            }
        }
        Ok(())
    }

    /// Writes a record.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        self.change()?;
        let path = self.leases().join(format!("{}.json", record.placement()));
        write_json(&path, record)
    }

    /// Writes the lease's ledger line.
    pub fn save_ledger(&self, lease: LeaseId, entry: LedgerEntry) -> Result<(), StoreError> {
        self.change()?;
        #[derive(Serialize)]
        struct Line {
            lease: LeaseId,
            #[serde(flatten)]
            entry: LedgerEntry,
        }
        write_json(
            &self.ledger().join(format!("{lease}.json")),
            &Line { lease, entry },
        )
    }

    /// Writes a receipt.
    pub fn save_receipt(&self, receipt: &EndReceipt) -> Result<(), StoreError> {
        self.change()?;
        let placement = Placement::new(receipt.lease, receipt.epoch);
        write_json(&self.receipts().join(format!("{placement}.json")), receipt)
    }

    /// Forgets a receipt that was acknowledged.
    pub fn forget_receipt(&self, placement: Placement) -> Result<(), StoreError> {
        self.change()?;
        remove_file(self.receipts().join(format!("{placement}.json")))
    }

    /// Forgets a record whose receipt was written.
    pub fn forget(&self, placement: Placement) -> Result<(), StoreError> {
        self.change()?;
        remove_file(self.leases().join(format!("{placement}.json")))
    }

    /// Forgets a ledger line that can refuse nothing any more.
    pub fn forget_ledger(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change()?;
        remove_file(self.ledger().join(format!("{lease}.json")))
    }
}

/// How long a ledger line outlives the last moment its tickets mean anything.
const LEDGER_MARGIN: SignedDuration = SignedDuration::from_hours(30 * 24);

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

fn remove_file(path: Utf8PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError {
            what: "remove",
            path,
            source,
        }),
        _ => Ok(()),
    }
}

fn make_dir(dir: &Utf8Path, mode: u32) -> Result<(), StoreError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        // The umask masks what is made, and the agent's is 0077.
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode)))
        .map_err(|source| StoreError {
            what: "make",
            path: dir.to_owned(),
            source,
        })
}

fn read_all<T: DeserializeOwned>(
    dir: &Utf8Path,
    set_aside: &mut Vec<String>,
) -> Result<Vec<T>, StoreError> {
    let failed = |source| StoreError {
        what: "read",
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in dir.read_dir_utf8().map_err(failed)? {
        let path = entry.map_err(failed)?.path().to_owned();
        match path.extension() {
            Some("json") => {}
            // Half-written by an agent that died.
            Some("new") => {
                remove_file(path)?;
                continue;
            }
            _ => continue,
        }
        let read = fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()));
        match read {
            Ok(value) => found.push(value),
            Err(error) => {
                let aside = path.with_extension("unreadable");
                let renamed = fs::rename(&path, &aside);
                renamed.map_err(|source| StoreError {
                    what: "set aside",
                    path,
                    source,
                })?;
                set_aside.push(format!("{aside} could not be understood: {error}"));
            }
        }
    }
    Ok(found)
}

fn write_json(path: &Utf8Path, value: &impl Serialize) -> Result<(), StoreError> {
    let failed = |source| StoreError {
        what: "write",
        path: path.to_owned(),
        source,
    };
    let json = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    write_atomically(path, &json, true).map_err(failed)
}

/// Replaces a file's contents in one step. `durable`: also across a power cut.
pub fn write_atomically(path: &Utf8Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&new, path)?;
    if durable && let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::test_ticket;
    use super::*;

    #[test]
    fn qemu_reaches_images_and_guests_but_no_records_whatever_the_umask() {
        // The umask is the whole process's: this test needs one of its own, as
        // nextest gives it.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap().join("surplus");
        let store = Store::open(&root).unwrap();
        let guest = Placement::of(&test_ticket(1, 3));
        store.make_guest_dir(guest).unwrap();
        let guest = format!("guests/{guest}");
        for (path, mode) in [
            ("", 0o755),
            ("images", 0o711),
            ("guests", 0o711),
            (guest.as_str(), 0o711),
            ("leases", 0o700),
            ("receipts", 0o700),
            ("ledger", 0o700),
        ] {
            let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode, "{path}: {found:o}");
        }
    }

    #[test]
    fn an_unreadable_record_is_set_aside_and_a_half_written_one_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(dir.path()).unwrap();
        let store = Store::open(root).unwrap();
        let record = Record::new(test_ticket(1, 3));
        store.save(&record).unwrap();
        fs::write(root.join("leases/broken.json"), b"{").unwrap();
        fs::write(root.join("leases/half.new"), b"{").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.records.len(), 1);
        assert_eq!(loaded.set_aside.len(), 1);
        assert!(root.join("leases/broken.unreadable").exists());
        assert!(!root.join("leases/half.new").exists());
        // The ledger line was never written, and is made up for.
        assert_eq!(loaded.ledger[&record.ticket.lease].epoch, 3);
    }
}
