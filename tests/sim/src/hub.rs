//! The marketplace: the real market over a store in memory, and around it what
//! its program does with requests, as a machine of events.

use std::collections::BTreeMap;
use std::future::Future;

use futures_util::FutureExt as _;
use surplus_market::lease::Lease;
use surplus_market::memory::MemoryStore;
use surplus_market::presence::Presence;
use surplus_market::records::LeaseRecord;
use surplus_market::rent::{self, Asker};
use surplus_market::store::{LeaseFilter, Store as _, StoreError, Tx as _};
use surplus_market::suite::{PlainNotary, address};
use surplus_market::sync::{self, Answer, Caller, Moment, Outcome, SyncError};
use surplus_market::{bill, pricing, sweep};
use surplus_protocol::agent::{MAX_WAIT_SECONDS, SyncRequest, SyncResponse};
use surplus_protocol::api::{Bill, CreateLease, QuoteRequest};
use surplus_protocol::ids::{HostId, KeyId, LeaseId};
use surplus_protocol::lease::EndReason;

use crate::clock::{Millis, Now};

/// A request of a host's, as the connection knows it.
pub type RequestId = u64;

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    Answer(Box<SyncResponse>),
    /// Held until this time at the latest.
    Held(Millis),
    Refused(String),
}

#[derive(Debug)]
struct Held {
    host: HostId,
    request: SyncRequest,
}

/// The marketplace and its one process.
#[derive(Debug)]
pub struct Hub {
    now: Now,
    pub store: MemoryStore,
    presence: Presence,
    held: BTreeMap<RequestId, Held>,
    pub up: bool,
    /// When this process began, and when each host last called.
    began: Millis,
    heard: BTreeMap<HostId, Millis>,
}

/// Silence after which a host counts as unreachable, as the market has it.
const SILENT: Millis = 120_000;

/// The store in memory never lets anybody wait.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    #[expect(
        clippy::expect_used,
        reason = "a future that waits is a bug of the test"
    )]
    future
        .now_or_never()
        .expect("futures of the store in memory are ready at once")
}

impl Hub {
    pub fn new(now: &Now) -> Self {
        Self {
            presence: Presence::new(now.timestamp()),
            now: now.clone(),
            store: MemoryStore::default(),
            held: BTreeMap::new(),
            up: true,
            began: now.get(),
            heard: BTreeMap::new(),
        }
    }

    /// The process ends; what was committed stays. Whose requests broke off.
    pub fn stop(&mut self) -> Vec<RequestId> {
        self.up = false;
        let broken = self.held.keys().copied().collect();
        self.held.clear();
        broken
    }

    /// Another process takes up the store.
    pub fn start(&mut self) {
        self.up = true;
        self.began = self.now.get();
        self.presence = Presence::new(self.now.timestamp());
    }

    /// A copy of the store as it is now.
    pub fn backup(&self) -> MemoryStore {
        ready(self.store.backup())
    }

    /// Puts the store of a backup in the place of this one.
    pub fn restore(&mut self, backup: &MemoryStore) {
        self.store = ready(backup.backup());
    }

    fn wait(request: &SyncRequest) -> u32 {
        request.wait_seconds.min(MAX_WAIT_SECONDS)
    }

    /// A host's sync has arrived.
    pub fn sync(&mut self, id: RequestId, host: HostId, request: SyncRequest) -> Reply {
        self.presence.opened(host);
        self.heard.insert(host, self.now.get());
        let newest = self.presence.is_newest(host, request.boot, request.seq);
        let pass = if newest { Pass::First } else { Pass::Overtaken };
        let answer = match self.work(host, &request, pass) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.presence.closed(host, self.now.timestamp(), false);
                return Reply::Refused(refusal);
            }
        };
        let now = self.now.timestamp();
        self.presence.answered(host, now);
        let wait = Self::wait(&request);
        if answer.urgent || wait == 0 {
            self.presence.closed(host, now, false);
            return Reply::Answer(Box::new(answer.response));
        }
        self.held.insert(id, Held { host, request });
        Reply::Held(self.now.get() + u64::from(wait) * 1000)
    }

    /// Looks at a held request again: it is answered where there is something
    /// to say, or its time is over.
    pub fn look(&mut self, id: RequestId, over: bool) -> Option<Reply> {
        let held = self.held.remove(&id)?;
        let now = self.now.timestamp();
        match self.work(held.host, &held.request, Pass::Later) {
            Ok(answer) if over || answer.urgent => {
                self.presence.let_go(held.host, now);
                self.presence.closed(held.host, now, false);
                Some(Reply::Answer(Box::new(answer.response)))
            }
            Ok(_) => {
                self.held.insert(id, held);
                None
            }
            Err(refusal) => {
                self.presence.closed(held.host, now, false);
                Some(Reply::Refused(refusal))
            }
        }
    }

    /// The host broke the connection off.
    pub fn hung_up(&mut self, id: RequestId) {
        if let Some(held) = self.held.remove(&id) {
            let now = self.now.timestamp();
            self.presence.closed(held.host, now, true);
        }
    }

    /// The held requests of these hosts, or of all.
    pub fn held_of(&self, hosts: &[HostId]) -> Vec<RequestId> {
        let held = self.held.iter();
        held.filter(|(_, held)| hosts.contains(&held.host))
            .map(|(id, _)| *id)
            .collect()
    }

    fn work(&mut self, host: HostId, request: &SyncRequest, pass: Pass) -> Result<Answer, String> {
        let moment = Moment {
            now: self.now.timestamp(),
            since: self.presence.since(),
        };
        let outcome: Result<Outcome, SyncError> = ready(async {
            let mut tx = self.store.begin().await?;
            let caller = Caller {
                id: host,
                from: address(1),
            };
            let outcome = match pass {
                Pass::First => sync::sync(&mut tx, &PlainNotary, moment, caller, request).await?,
                Pass::Overtaken => {
                    sync::overtaken(&mut tx, &PlainNotary, moment, caller, request).await?
                }
                Pass::Later => sync::look(&mut tx, &PlainNotary, moment, host, request).await?,
            };
            tx.commit().await?;
            Ok(outcome)
        });
        match outcome {
            Ok(Outcome::Answer(answer)) => Ok(answer),
            Ok(Outcome::Superseded) => Err("another boot took over".to_owned()),
            Ok(Outcome::Quarantined { detail }) => Err(detail),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the time demands. Hosts to wake, and whether too many are silent.
    pub fn sweep(&mut self) -> (Vec<HostId>, bool) {
        let now = self.now.timestamp();
        let swept: Result<sweep::Swept, StoreError> = ready(async {
            let mut tx = self.store.begin().await?;
            let book = pricing::default_book();
            let swept = sweep::sweep(&mut tx, &self.presence, now, &book).await?;
            tx.commit().await?;
            Ok(swept)
        });
        swept.map_or_else(|_| (Vec::new(), false), |swept| (swept.wake, swept.alarm))
    }

    /// How many of these hosts have been silent for long.
    pub fn silent(&self, hosts: impl Iterator<Item = HostId>) -> usize {
        let quiet = |host: &HostId| {
            let heard = self.heard.get(host).copied().unwrap_or(0);
            self.now.get() - heard.max(self.began) > SILENT
        };
        hosts.filter(quiet).count()
    }

    /// Writes down who was seen.
    pub fn write_seen(&mut self) {
        let seen = self.presence.take_unwritten();
        let written: Result<(), StoreError> = ready(async {
            let mut tx = self.store.begin().await?;
            tx.touch_hosts(&seen).await?;
            tx.commit().await
        });
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// A buyer takes a quote at once. The host to wake, or why there is none.
    pub fn rent(
        &mut self,
        asker: Asker,
        request: &QuoteRequest,
        order: CreateLease,
    ) -> Result<LeaseRecord, String> {
        let now = self.now.timestamp();
        let book = pricing::default_book();
        ready(async {
            let mut tx = self
                .store
                .begin()
                .await
                .map_err(|error| error.to_string())?;
            rent::quote(&mut tx, &self.presence, now, asker, request, &book)
                .await
                .map_err(|error| error.to_string())?;
            let lease = rent::take(&mut tx, now, asker.owner, order)
                .await
                .map_err(|error| error.to_string())?;
            tx.commit().await.map_err(|error| error.to_string())?;
            Ok(lease)
        })
    }

    /// The buyer ends a lease. The host to wake.
    pub fn end(&mut self, id: LeaseId) -> Option<HostId> {
        let now = self.now.timestamp();
        ready(async {
            let mut tx = self.store.begin().await.ok()?;
            let lease = tx.lease(id).await.ok()??;
            let ended = rent::end(&mut tx, now, lease, EndReason::Ended)
                .await
                .ok()?;
            tx.commit().await.ok()?;
            Some(ended.host)
        })
    }

    /// An operator says that the host is off.
    pub fn confirm_off(&mut self, host: HostId) {
        let now = self.now.timestamp();
        let done: Result<(), String> = ready(async {
            let mut tx = self
                .store
                .begin()
                .await
                .map_err(|error| error.to_string())?;
            rent::confirm_off(&mut tx, now, host)
                .await
                .map_err(|error| error.to_string())?;
            tx.commit().await.map_err(|error| error.to_string())
        });
        debug_assert!(done.is_ok(), "{done:?}");
    }

    /// Every lease that was taken, as the store has it.
    pub fn leases(&self) -> Vec<LeaseRecord> {
        let leases = ready(async {
            let mut tx = self.store.read().await.ok()?;
            tx.leases(LeaseFilter::All).await.ok()
        });
        let taken = leases.unwrap_or_default().into_iter();
        taken.filter(|lease| lease.guest.is_some()).collect()
    }

    pub fn lease(&self, id: LeaseId) -> Option<LeaseRecord> {
        ready(async { self.store.read().await.ok()?.lease(id).await.ok()? })
    }

    /// Time of a lease's running that the store has.
    pub fn stored(&self, lease: LeaseId) -> Millis {
        let usage = ready(async { self.store.read().await.ok()?.usage(lease).await.ok() });
        let usage = usage.unwrap_or_default();
        usage.iter().map(|record| record.running_millis).sum()
    }

    pub fn bill(&self, lease: &LeaseRecord) -> Option<Bill> {
        ready(async {
            let mut tx = self.store.read().await.ok()?;
            bill::bill_of(&mut tx, lease).await.ok()
        })
    }
}

/// Whether a lease's guest may run somewhere, as the marketplace sees it.
pub fn is_placed_on(lease: &LeaseRecord, host: HostId, epoch: u64) -> bool {
    let Lease { epoch: placed, .. } = lease.life;
    lease.life.is_placed() && lease.host == host && placed == epoch
}

/// The buyer of every lease.
pub fn buyer() -> KeyId {
    KeyId::from_bytes([250; 16])
}

#[derive(Clone, Copy)]
enum Pass {
    First,
    Overtaken,
    Later,
}
