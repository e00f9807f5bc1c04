//! Tells the guard until when each guest may run (`surplus-guard`).
//!
//! The agent ends its guests by itself. What it writes here lets another process
//! do so if it is dead, stopped or hung. What always holds: a guest is made only
//! after its deadline was written; the deadline goes only after the guest is
//! gone; in between it is what the record and the fence clause say, in either
//! direction, on the boot-time clock.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use surplus_guard::{Deadline, deadline};

use super::clock::Clock;
use super::placement::Placement;
use super::record::{Record, Stage};

/// A deadline that moved by less, in milliseconds, is not written anew.
const NOTABLE_MILLIS: u64 = 100;

/// Where the guard is told. Every call may be repeated.
pub trait Deadlines: Send + Sync + fmt::Debug {
    /// What the guard knows, in milliseconds since boot; `None` where it cannot
    /// be read.
    ///
    /// # Errors
    ///
    /// [`DeadlineError`] where that is not known.
    fn known(&self) -> Result<BTreeMap<Placement, Option<u64>>, DeadlineError>;

    /// From now on the guest must be gone by this time, and no other.
    ///
    /// # Errors
    ///
    /// [`DeadlineError`] where the guard does not know it.
    fn set(&self, placement: Placement, boot_millis: u64) -> Result<(), DeadlineError>;

    /// The guest is gone.
    ///
    /// # Errors
    ///
    /// [`DeadlineError`] where the guard may still look for it.
    fn clear(&self, placement: Placement) -> Result<(), DeadlineError>;
}

/// The guard was not told.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} in {directory}, which tells the guard until when guests may run")]
pub struct DeadlineError {
    what: String,
    directory: String,
    source: io::Error,
}

/// The directory that the guard reads.
#[derive(Clone, Debug)]
pub struct DeadlineFiles(PathBuf);

impl DeadlineFiles {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    fn failed(&self, what: String) -> impl FnOnce(io::Error) -> DeadlineError {
        let directory = self.0.display().to_string();
        move |source| DeadlineError {
            what,
            directory,
            source,
        }
    }
}

impl Deadlines for DeadlineFiles {
    fn known(&self) -> Result<BTreeMap<Placement, Option<u64>>, DeadlineError> {
        let listed = match deadline::list(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            listed => listed.map_err(self.failed("list the deadlines".into()))?,
        };
        let known = listed.into_iter().filter_map(|(name, read)| {
            let placement: Placement = name.parse().ok()?;
            let read = read.ok();
            let ours = read.filter(|read| read.domain == placement.domain_name());
            Some((placement, ours.map(|read| read.gone_by_boot_millis)))
        });
        Ok(known.collect())
    }

    fn set(&self, placement: Placement, boot_millis: u64) -> Result<(), DeadlineError> {
        let deadline = Deadline {
            domain: placement.domain_name(),
            gone_by_boot_millis: boot_millis,
        };
        deadline::write(&self.0, &placement.to_string(), &deadline)
            .map_err(self.failed(format!("write the deadline of {placement}")))
    }

    fn clear(&self, placement: Placement) -> Result<(), DeadlineError> {
        deadline::remove(&self.0, &placement.to_string())
            .map_err(self.failed(format!("remove the deadline of {placement}")))
    }
}

/// When the record's guest must be gone, in milliseconds since boot. `fenced_by`
/// is when its fence clause stops it at the latest, where it has one; `grace` is
/// what a guest has to power off by itself then.
pub(super) fn of(
    record: &Record,
    fenced_by: Option<u64>,
    grace: std::time::Duration,
    clock: &dyn Clock,
) -> u64 {
    let ends_at = record.ticket.ends_at;
    if let Stage::Stopping { kill_at, .. } = &record.stage {
        return since_boot(clock, ends_at.min(*kill_at));
    }
    let end = since_boot(clock, ends_at);
    let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    fenced_by.map_or(end, |fenced| end.min(fenced.saturating_add(grace)))
}

/// A time of the marketplace on the boot-time clock. What was before the boot is
/// due.
fn since_boot(clock: &dyn Clock, at: Timestamp) -> u64 {
    let left = at.duration_since(clock.now()).as_millis();
    let millis = i128::from(clock.boot_millis()) + left;
    u64::try_from(millis.max(0)).unwrap_or(u64::MAX)
}

/// Whether the guard need not be told anew.
pub(super) fn same(known: Option<u64>, wanted: u64) -> bool {
    known.is_some_and(|known| known.abs_diff(wanted) < NOTABLE_MILLIS)
}
