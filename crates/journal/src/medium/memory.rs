//! A disk in memory for simulations: it forgets what was not synced, and fails
//! when it is told to.
//!
//! What the process sees and what is on the platters are kept apart. Bytes are
//! made durable by [`Medium::sync`], names by [`Medium::sync_names`]. A failed
//! sync leaves bytes that can be read but will never be durable, as Linux does:
//! the pages count as clean afterwards. Handles are clones of one disk.

mod disk;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Medium, Source};
use disk::Disk;

/// A handle to a disk in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    disk: Arc<Mutex<Disk>>,
}

/// How operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space: an append writes half; creating and syncing fail, too.
    NoSpace,
    /// An I/O error: an append writes half, a sync loses its bytes, nothing else
    /// is done.
    Io,
    /// An I/O error, though all was done.
    IoThoughDone,
    /// The process dies in the middle of it: an append writes half, and nothing
    /// works until [`Memory::revive`] or [`Memory::power_cut`].
    Death,
}

/// What a power cut can take.
#[derive(Clone, Copy, Debug)]
pub enum Unsynced<'a> {
    /// So many bytes at the end of a file.
    Bytes { name: &'a str, count: usize },
    /// That a file of this name was made, renamed to it, or removed.
    Name(&'a str),
}

/// What a power cut leaves of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    All,
    Nothing,
    /// The first so many bytes.
    Bytes(usize),
    /// The first so many bytes, the last sector of them (512 bytes) spoilt.
    Garbled(usize),
}

impl Memory {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another disk with the same contents and the same faults to come.
    pub fn duplicate(&self) -> Self {
        let disk = Arc::new(Mutex::new(self.disk().clone()));
        Self { disk }
    }

    /// After `after` more changing operations, lets the next `times` fail.
    pub fn fail(&self, after: usize, times: usize, fault: Fault) {
        let mut disk = self.disk();
        let from = disk.operations + after;
        disk.faults = Some((from..from.saturating_add(times), fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.disk().faults = None;
    }

    /// How many changing operations there were, failed ones included.
    pub fn operations(&self) -> usize {
        self.disk().operations
    }

    /// Whether an operation met with [`Fault::Death`].
    pub fn is_dead(&self) -> bool {
        self.disk().dead
    }

    /// The next process begins, on the same kernel: nothing is lost.
    pub fn revive(&self) {
        let mut disk = self.disk();
        disk.dead = false;
        disk.faults = None;
    }

    /// What a power cut would ask about now.
    pub fn at_stake(&self, mut see: impl FnMut(Unsynced<'_>)) {
        let mut copy = self.disk().clone();
        copy.power_cut(&mut |unsynced| {
            see(unsynced);
            Kept::All
        });
    }

    /// The power goes and comes back: of each unsynced thing there is what `keep`
    /// says. Names are asked about in the order in which they changed.
    pub fn power_cut(&self, mut keep: impl FnMut(Unsynced<'_>) -> Kept) {
        self.disk().power_cut(&mut keep);
    }

    /// Puts durable bytes in place of a file, or makes it: a disk that rots.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        self.disk().put(name, bytes);
    }

    /// Takes a file away, durably: a hand that removes it.
    pub fn take(&self, name: &str) {
        self.disk().take(name);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.alive()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        disk.alive()?;
        Ok(disk.file(name)?.seen.clone())
    }
}

impl Medium for Memory {
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.disk().change(|disk| disk.create(name))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let fault = disk.fault()?;
        let whole = matches!(fault, None | Some(Fault::IoThoughDone));
        let count = if whole { bytes.len() } else { bytes.len() / 2 };
        disk.file_mut(name)?.seen.extend_from_slice(&bytes[..count]);
        disk::outcome(fault)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let fault = disk.fault()?;
        let file = disk.file_mut(name)?;
        match fault {
            None | Some(Fault::IoThoughDone) => file.sync(),
            Some(Fault::NoSpace | Fault::Io) => file.forget(),
            Some(Fault::Death) => {}
        }
        disk::outcome(fault)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk().change(|disk| disk.rename(from, to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk().change(|disk| disk.remove(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.disk().change(|disk| {
            disk.sync_names();
            Ok(())
        })
    }
}
