//! What every request handler has at hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use surplus_https::Clock;
use surplus_market::presence::Presence;
use surplus_pki::Authority;
use surplus_protocol::api::PriceBook;
use surplus_protocol::ids::{HostId, LeaseId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::consoles::Consoles;
use crate::images::Images;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::SqliteStore;
use crate::wakers::Wakers;

/// How many syncs are worked on at once; further ones wait in line.
const SYNCS_AT_ONCE: usize = 32;

/// The marketplace as its handlers see it. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Parts>);

/// What an [`App`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub store: SqliteStore,
    pub authority: Authority,
    pub certificates: Certificates,
    pub clock: Clock,
    pub prices: PriceBook,
    /// Where agents reach the marketplace.
    pub urls: Vec<String>,
    pub limits: Limits,
    pub images: Images,
    pub consoles: Consoles,
    pub metrics: Metrics,
    pub presence: Mutex<Presence>,
    /// Ends the long polls of hosts whose desired state changed.
    pub hosts: Wakers<HostId>,
    /// Ends the long polls of those who read a console.
    pub console_readers: Wakers<LeaseId>,
    /// The storm brake.
    pub syncs: Semaphore,
    /// The process is about to end: long polls answer at once.
    pub closing: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The time, to the microsecond: what the store can hold.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Who was answered when. Do not hold it across an `await`.
    pub(crate) fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy to compute with.
    pub(crate) fn presence_now(&self) -> Presence {
        self.presence().clone()
    }
}

/// Room for [`SYNCS_AT_ONCE`] syncs.
pub(crate) fn storm_brake() -> Semaphore {
    Semaphore::new(SYNCS_AT_ONCE)
}
