//! Leases that end when the link is lost for too long.
//!
//! A lease with the clause `fence(T)` is stopped T after the last sync that the
//! marketplace answered, counted from when that sync was *sent*, on the
//! boot-time clock. The marketplace counts from when it answered and adds a
//! margin, so that the guest is gone here before it is placed elsewhere.
//!
//! What always holds: a lease is fenced whether or not a poll hangs; what is
//! known of clauses and of the last sync outlives the agent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use surplus_protocol::agent::Tombstone;
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{EndReason, LeaseStatus, OnLostLink};
use surplus_stage::Stage;
use tokio::sync::Notify;

use super::Workload;
use crate::clock::since_boot;
use crate::guests::{Desired, Placement};
use crate::stages::Announce;

/// Between looks at most: a machine that was suspended wakes up late.
const LOOK: Duration = Duration::from_secs(2);

/// When the marketplace last answered, and which leases that matters to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fences {
    /// When the last answered sync was sent, in milliseconds since boot.
    answered_millis: Option<u64>,
    clauses: Vec<Clause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Clause {
    lease: LeaseId,
    epoch: Epoch,
    after_seconds: u32,
}

impl Fences {
    /// Takes in an answered sync that was sent at `asked_at`. Clauses of leases
    /// that are neither ordered nor here any more are forgotten.
    pub fn answered(&mut self, asked_at: Duration, desired: &Desired, here: &[LeaseStatus]) {
        self.answered_millis = Some(millis(asked_at));
        let ordered: BTreeMap<_, _> = desired
            .tickets
            .iter()
            .map(|ticket| ((ticket.lease, ticket.epoch), ticket.guest.on_lost_link))
            .collect();
        self.clauses.retain(|clause| {
            let key = (clause.lease, clause.epoch);
            !ordered.contains_key(&key)
                && here
                    .iter()
                    .any(|status| (status.lease, status.epoch) == key)
        });
        self.clauses
            .extend(ordered.iter().filter_map(|(key, clause)| match clause {
                OnLostLink::Keep => None,
                OnLostLink::Fence { after_seconds } => Some(Clause {
                    lease: key.0,
                    epoch: key.1,
                    after_seconds: *after_seconds,
                }),
            }));
    }

    /// How long a sync may be held, in seconds: three fit into the shortest
    /// clause, since its time runs from when the last answered one was sent.
    pub fn longest_wait(&self) -> u32 {
        let clauses = self.clauses.iter().map(|clause| clause.after_seconds / 3);
        clauses.min().unwrap_or(u32::MAX).max(1)
    }

    /// When each clause stops its guest at the latest, in milliseconds since
    /// boot, unless there is another answer.
    pub fn stopped_by(&self) -> BTreeMap<Placement, u64> {
        let clauses = self.clauses.iter().filter_map(|clause| {
            let after = u64::from(clause.after_seconds) * 1000 + millis(LOOK);
            let placement = Placement::new(clause.lease, clause.epoch);
            Some((placement, self.answered_millis?.saturating_add(after)))
        });
        clauses.collect()
    }

    /// The stops that are due at `now`. A host that never had an answer in this
    /// boot has no lease either.
    pub fn due(&self, now: Duration) -> Vec<Tombstone> {
        let Some(answered) = self.answered_millis else {
            return Vec::new();
        };
        let silent = millis(now).saturating_sub(answered);
        self.clauses
            .iter()
            .filter(|clause| silent >= u64::from(clause.after_seconds) * 1000)
            .map(|clause| Tombstone {
                lease: clause.lease,
                epoch: clause.epoch,
                reason: EndReason::LinkLost,
            })
            .collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The fences and the last orders, shared by syncing and by the watch.
#[derive(Clone, Debug)]
pub struct FenceBook {
    shared: Arc<Mutex<Shared>>,
    /// Tells the watch of new orders.
    ordered: Arc<Notify>,
}

#[derive(Debug)]
struct Shared {
    fences: Fences,
    desired: Desired,
    fenced: Vec<Tombstone>,
    path: PathBuf,
}

impl FenceBook {
    /// Takes up what an earlier agent of this boot wrote to `path`.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let fences = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "cannot read the fences");
            }
            Fences::default()
        });
        let shared = Shared {
            fences,
            desired: Desired::default(),
            fenced: Vec::new(),
            path,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            ordered: Arc::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands on the orders of a sync that was sent at `asked_at`.
    pub fn order(
        &self,
        asked_at: Duration,
        mut desired: Desired,
        here: &[LeaseStatus],
        workload: &impl Workload,
    ) {
        self.with(|shared| {
            let before = shared.fences.clone();
            shared.fences.answered(asked_at, &desired, here);
            desired.fenced_by = shared.fences.stopped_by();
            shared.fenced.clear();
            shared.desired = desired.clone();
            // Without a clause there is nothing to remember.
            if !(before.clauses.is_empty() && shared.fences.clauses.is_empty())
                && let Err(error) = write(&shared.path, &shared.fences)
            {
                tracing::warn!(%error, path = %shared.path.display(), "cannot write the fences");
            }
            workload.order(desired);
        });
        self.ordered.notify_one();
    }

    /// What an earlier agent of this boot left: nothing is ordered, and fences
    /// hold.
    pub fn known(&self) -> Desired {
        self.with(|shared| Desired {
            fenced_by: shared.fences.stopped_by(),
            ..Desired::default()
        })
    }

    /// How long a sync may be held, in seconds, for all clauses' sake.
    pub fn longest_wait(&self) -> u32 {
        self.with(|shared| shared.fences.longest_wait())
    }

    /// Stops what is due at `now`.
    pub fn enforce(&self, now: Duration, workload: &impl Workload, consoles: &dyn Announce) {
        self.with(|shared| {
            let due = shared.fences.due(now);
            if due.is_empty() || due == shared.fenced {
                return;
            }
            for tombstone in due.iter().filter(|due| !shared.fenced.contains(due)) {
                consoles.say(Stage::new("lease").with("lease", tombstone.lease).failed(
                    "the marketplace was silent for longer than the lease allows; its guest is stopped",
                    "mend the network between this host and the marketplace",
                ));
            }
            let mut desired = shared.desired.clone();
            desired.tombstones.extend(due.iter().cloned());
            shared.fenced = due;
            workload.order(desired);
        });
    }

    /// Looks every moment while there is a clause, for ever.
    pub async fn watch(self, workload: impl Workload, consoles: crate::stages::Announcer) {
        loop {
            // Without a clause there is nothing to look for.
            while self.with(|shared| shared.fences.clauses.is_empty()) {
                self.ordered.notified().await;
            }
            tokio::time::sleep(LOOK).await;
            self.enforce(since_boot(), &workload, &*consoles);
        }
    }
}

fn read(path: &Path) -> io::Result<Fences> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, fences: &Fences) -> io::Result<()> {
    let next = path.with_extension("new");
    fs::write(&next, serde_json::to_vec(fences)?)?;
    fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use newtype_uuid::GenericUuid as _;
    use surplus_protocol::lease::Ticket;

    use super::*;
    use crate::guests::Placement;
    use crate::stages::Recorded;
    use crate::sync::fixture::{FakeGuests, ticket};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fenced(after_seconds: u32) -> Ticket {
        let mut ticket = ticket();
        ticket.guest.on_lost_link = OnLostLink::Fence { after_seconds };
        ticket
    }

    fn tombstones(guests: &FakeGuests) -> Vec<Placement> {
        let orders = guests.orders.lock().unwrap();
        let last = orders
            .last()
            .map(|desired| desired.tombstones.clone())
            .unwrap_or_default();
        last.iter()
            .map(|tombstone| Placement::new(tombstone.lease, tombstone.epoch))
            .collect()
    }

    #[test]
    fn a_fenced_lease_stops_when_its_time_since_the_last_answer_is_over_and_others_run_on() {
        let directory = tempfile::tempdir().unwrap();
        let (guests, recorded) = (FakeGuests::default(), Recorded::default());
        let book = FenceBook::open(directory.path().join("fences.json"));
        let (short, keep) = (fenced(60), ticket());
        let desired = Desired {
            tickets: vec![short.clone(), keep],
            tombstones: Vec::new(),
            ..Desired::default()
        };
        book.order(at(100), desired.clone(), &[], &guests);
        book.enforce(at(159), &guests, &recorded);
        assert!(tombstones(&guests).is_empty());
        // An answer starts the time anew.
        book.order(at(150), desired, &[], &guests);
        book.enforce(at(209), &guests, &recorded);
        assert!(tombstones(&guests).is_empty());
        book.enforce(at(210), &guests, &recorded);
        book.enforce(at(212), &guests, &recorded);
        assert_eq!(tombstones(&guests), [Placement::of(&short)]);
        assert_eq!(guests.orders.lock().unwrap().len(), 3);
        assert_eq!(recorded.lines().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clause_is_watched_from_its_order_on() {
        let directory = tempfile::tempdir().unwrap();
        let (guests, recorded) = (FakeGuests::default(), Arc::new(Recorded::default()));
        let book = FenceBook::open(directory.path().join("fences.json"));
        let watching = tokio::spawn(book.clone().watch(guests.clone(), recorded));
        // It has found nothing to watch.
        tokio::time::sleep(10 * LOOK).await;
        let short = fenced(1);
        let desired = Desired {
            tickets: vec![short.clone()],
            ..Desired::default()
        };
        // Since the boot of the computer there was no answer.
        book.order(Duration::ZERO, desired, &[], &guests);
        tokio::time::sleep(2 * LOOK).await;
        assert_eq!(tombstones(&guests), [Placement::of(&short)]);
        watching.abort();
    }

    #[test]
    fn a_held_sync_leaves_time_for_another_before_any_fence_falls() {
        let directory = tempfile::tempdir().unwrap();
        let guests = FakeGuests::default();
        let book = FenceBook::open(directory.path().join("fences.json"));
        assert_eq!(book.longest_wait(), u32::MAX);
        let desired = Desired {
            tickets: vec![fenced(60)],
            tombstones: Vec::new(),
            ..Desired::default()
        };
        book.order(at(100), desired, &[], &guests);
        assert_eq!(book.longest_wait(), 20);
    }

    #[test]
    fn an_agent_that_was_killed_still_fences_without_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fences.json");
        let short = fenced(60);
        let desired = Desired {
            tickets: vec![short.clone()],
            tombstones: Vec::new(),
            ..Desired::default()
        };
        FenceBook::open(&path).order(at(100), desired, &[], &FakeGuests::default());
        let (guests, recorded) = (FakeGuests::default(), Recorded::default());
        FenceBook::open(&path).enforce(at(160), &guests, &recorded);
        assert_eq!(tombstones(&guests), [Placement::of(&short)]);
    }

    #[test]
    fn a_lease_missing_from_an_answer_keeps_its_clause_while_its_guest_is_here() {
        let directory = tempfile::tempdir().unwrap();
        let (guests, recorded) = (FakeGuests::default(), Recorded::default());
        let book = FenceBook::open(directory.path().join("fences.json"));
        let short = fenced(60);
        let here = LeaseStatus {
            lease: short.lease,
            epoch: short.epoch,
            phase: surplus_protocol::lease::GuestPhase::Running,
            detail: String::new(),
            addresses: Vec::new(),
            forwards: Vec::new(),
        };
        let desired = Desired {
            tickets: vec![short.clone()],
            tombstones: Vec::new(),
            ..Desired::default()
        };
        book.order(at(1), desired, &[], &guests);
        book.order(at(2), Desired::default(), &[here], &guests);
        book.enforce(at(62), &guests, &recorded);
        assert_eq!(tombstones(&guests), [Placement::of(&short)]);
        book.order(at(63), Desired::default(), &[], &guests);
        book.enforce(at(500), &guests, &recorded);
        assert!(tombstones(&guests).is_empty());
        assert!(book.with(|shared| shared.fences.clauses.is_empty()));
    }

    #[test]
    fn a_host_without_an_answer_fences_nothing() {
        let none = Fences {
            answered_millis: None,
            clauses: vec![Clause {
                lease: LeaseId::from_untyped_uuid(uuid::Uuid::nil()),
                epoch: 1,
                after_seconds: 60,
            }],
        };
        assert!(none.due(at(1_000_000)).is_empty());
    }
}
