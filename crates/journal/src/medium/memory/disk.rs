//! What lies on the platters, and what the process sees.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::{Fault, Kept, Unsynced};

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: Vec<File>,
    /// As the process sees them.
    pub(super) names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<Change>,
    pub(super) operations: usize,
    pub(super) faults: Option<(Range<usize>, Fault)>,
    pub(super) dead: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) seen: Vec<u8>,
    durable: Vec<u8>,
    /// Where the bytes begin that a sync would still write.
    dirty: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Made(String, usize),
    Renamed(String, String, usize),
    Removed(String),
}

impl File {
    pub(super) fn sync(&mut self) {
        self.keep(self.seen.len());
        self.dirty = self.seen.len();
    }

    /// A failed sync: the kernel holds the bytes for clean.
    pub(super) fn forget(&mut self) {
        self.dirty = self.seen.len();
    }

    /// Writes to the platters up to `end`. What was forgotten before is a hole.
    fn keep(&mut self, end: usize) {
        if end > self.dirty {
            self.durable.resize(self.dirty, 0);
            self.durable.extend_from_slice(&self.seen[self.dirty..end]);
        }
    }

    fn power_cut(&mut self, kept: Kept) {
        let unsynced = self.seen.len() - self.dirty;
        let (count, garbled) = match kept {
            Kept::All => (unsynced, false),
            Kept::Nothing => (0, false),
            Kept::Bytes(count) => (count.min(unsynced), false),
            Kept::Garbled(count) => (count.min(unsynced), true),
        };
        let end = self.dirty + count;
        self.keep(end);
        if garbled && count > 0 {
            let sector = (end - 1) / SECTOR * SECTOR;
            for byte in &mut self.durable[sector.max(self.dirty)..end] {
                *byte ^= 0xa5;
            }
        }
        self.seen.clone_from(&self.durable);
        self.dirty = self.seen.len();
    }
}

impl Disk {
    pub(super) fn alive(&self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the process is dead"));
        }
        Ok(())
    }

    /// Counts an operation; how it is to fail, if it is.
    pub(super) fn fault(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        let now = self.operations;
        self.operations += 1;
        let due = self
            .faults
            .as_ref()
            .filter(|(range, _)| range.contains(&now));
        let fault = due.map(|(_, fault)| *fault);
        self.dead = fault == Some(Fault::Death);
        Ok(fault)
    }

    /// A change of names, with the fault that is due.
    pub(super) fn change(
        &mut self,
        work: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        let fault = self.fault()?;
        if matches!(fault, None | Some(Fault::IoThoughDone)) {
            work(self)?;
        }
        outcome(fault)
    }

    fn id(&self, name: &str) -> io::Result<usize> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.names.get(name).copied().ok_or_else(missing)
    }

    pub(super) fn file(&self, name: &str) -> io::Result<&File> {
        Ok(&self.files[self.id(name)?])
    }

    pub(super) fn file_mut(&mut self, name: &str) -> io::Result<&mut File> {
        let id = self.id(name)?;
        Ok(&mut self.files[id])
    }

    pub(super) fn create(&mut self, name: &str) -> io::Result<()> {
        if self.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.files.len();
        self.files.push(File::default());
        self.make(Change::Made(name.to_owned(), id));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let id = self.id(from)?;
        self.make(Change::Renamed(from.to_owned(), to.to_owned(), id));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.id(name)?;
        self.make(Change::Removed(name.to_owned()));
        Ok(())
    }

    fn make(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    pub(super) fn sync_names(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.unsynced_names.clear();
    }

    pub(super) fn power_cut(&mut self, keep: &mut dyn FnMut(Unsynced<'_>) -> Kept) {
        for (name, id) in &self.names {
            let file = &mut self.files[*id];
            let count = file.seen.len() - file.dirty;
            if count > 0 {
                let kept = keep(Unsynced::Bytes { name, count });
                file.power_cut(kept);
            }
        }
        // Files that nobody could name any more, or that were wholly synced.
        for file in &mut self.files {
            file.power_cut(Kept::Nothing);
        }
        for change in std::mem::take(&mut self.unsynced_names) {
            if keep(Unsynced::Name(change.name())) != Kept::Nothing {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
        self.dead = false;
        self.faults = None;
    }

    pub(super) fn put(&mut self, name: &str, bytes: Vec<u8>) {
        let id = self.files.len();
        self.files.push(File {
            dirty: bytes.len(),
            durable: bytes.clone(),
            seen: bytes,
        });
        self.names.insert(name.to_owned(), id);
        self.durable_names.insert(name.to_owned(), id);
    }

    pub(super) fn take(&mut self, name: &str) {
        self.names.remove(name);
        self.durable_names.remove(name);
    }
}

impl Change {
    fn name(&self) -> &str {
        match self {
            Self::Made(name, _) | Self::Renamed(_, name, _) | Self::Removed(name) => name,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Renamed(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
            Self::Removed(name) => {
                names.remove(name);
            }
        }
    }
}

/// What the process is told.
pub(super) fn outcome(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::Io | Fault::IoThoughDone) => Err(io::Error::other("input/output error")),
        Some(Fault::Death) => Err(io::Error::other("the process is dead")),
    }
}
