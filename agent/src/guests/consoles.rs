//! The consoles that are being followed, one task each.
//!
//! What always holds: a console is followed once; its task ends with this
//! owner, or once the ended guest's last words were handed over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::Utf8Path;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::changes::Changes;
use super::console::{self, Follower, LogFiles, OpenFile};
use super::placement::Placement;
use super::uplink::Uplink;

/// All consoles of this host's guests.
#[derive(Debug)]
pub(super) struct Consoles {
    followed: Mutex<Followed>,
    changes: Option<Arc<Changes>>,
}

#[derive(Debug, Default)]
struct Followed {
    live: BTreeMap<Placement, Console>,
    /// Consoles of ended guests, on their way out.
    draining: Vec<Task>,
}

#[derive(Debug)]
struct Console {
    ended: oneshot::Sender<LogFiles>,
    open: OpenFile,
    task: Task,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Consoles {
    /// None yet. Call within a tokio runtime.
    pub(super) fn new() -> Self {
        let changes = Changes::new()
            .inspect_err(|error| tracing::warn!(%error, "consoles are looked at by the clock"));
        Self {
            followed: Mutex::default(),
            changes: changes.ok().map(Arc::new),
        }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the console that is logged at `log`, if nobody does yet.
    pub(super) fn follow(&self, placement: Placement, log: &Utf8Path, uplink: &Arc<dyn Uplink>) {
        let mut followed = self.followed();
        followed.draining.retain(|task| !task.0.is_finished());
        followed.live.entry(placement).or_insert_with(|| {
            let (ended, end) = oneshot::channel();
            let follower = Follower::new(placement, log, Arc::clone(uplink));
            let follower = follower.hearing(self.changes.clone());
            let open = follower.open();
            let task = Task(tokio::spawn(follower.run(end)));
            Console { ended, open, task }
        });
    }

    /// Holds what is left of the log, so that it and its key may go, and has it
    /// handed over.
    pub(super) fn end(&self, placement: Placement, log: &Utf8Path) {
        let mut followed = self.followed();
        if let Some(console) = followed.live.remove(&placement) {
            // A follower that has gone has nothing left to say.
            let _ = console.ended.send(console::hold(log));
            console::close(&console.open);
            followed.draining.push(console.task);
        }
    }
}
