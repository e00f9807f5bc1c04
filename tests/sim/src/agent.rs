//! One agent process: the real engine, fences and sync session of
//! `surplus-agent`, turned by events instead of by its tasks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use surplus_agent::guests::clock::Clock as _;
use surplus_agent::guests::engine::Engine;
use surplus_agent::guests::forwards::{ForwardError, Forwards, PortMap};
use surplus_agent::guests::store::Store;
use surplus_agent::guests::{Desired, GuestsConfig, GuestsReport};
use surplus_agent::sync::fence::Fences;
use surplus_agent::sync::session::{News, Receipt, Sent, Session};
use surplus_protocol::agent::{SyncRequest, SyncResponse, Tombstone};
use surplus_protocol::ids::HostId;
use surplus_protocol::inventory::{Capacity, Inventory};
use surplus_protocol::lease::{EndReason, EndReceipt, SignedReceipt, SignedTicket, Ticket};
use surplus_safeguard::{Safeguard, stands};
use surplus_seat::{Seat, floating};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use crate::clock::{HostClock, Millis};
use crate::host::Boot;
use crate::hub::RequestId;

/// Which process: events of a dead one mean nothing.
pub type ProcessId = u64;

/// How often guests are looked at, and how often a usage record is made.
pub const SAMPLE: Duration = Duration::from_secs(60);
pub const RECORD: Duration = Duration::from_secs(300);

/// So many guests of a host may have an address of their own.
pub const OWN_ADDRESSES: u16 = 1;

/// A network where each of those seats has its address all the time.
#[derive(Debug)]
struct FirstSeats;

impl Forwards for FirstSeats {
    fn set<'a>(&'a self, _map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(async { Ok(()) })
    }

    fn forget(&self, _seat: Seat) -> BoxFuture<'_, Result<(), ForwardError>> {
        Box::pin(async { Ok(()) })
    }

    fn address(&self) -> Option<Ipv4Addr> {
        None
    }

    fn own_addresses(&self) -> BTreeMap<Seat, Vec<IpAddr>> {
        let own = |seat: Seat| (seat, vec![seat.ipv4().into()]);
        floating::seats(OWN_ADDRESSES).map(own).collect()
    }
}

/// A request on its way, with what it says.
#[derive(Debug)]
pub struct Flight {
    pub id: RequestId,
    sent: Sent,
    asked_at: Duration,
}

impl Flight {
    /// It may be dropped when there is news.
    pub fn is_poll(&self) -> bool {
        self.sent.request.wait_seconds > 0
    }

    pub fn wait_millis(&self) -> Millis {
        u64::from(self.sent.request.wait_seconds) * 1000
    }
}

/// A process of `surplus-agent`.
#[derive(Debug)]
pub struct Agent {
    pub id: ProcessId,
    /// Stopped by a signal: it lives and does nothing.
    pub frozen: bool,
    pub flight: Option<Flight>,
    engine: Engine,
    clock: Arc<HostClock>,
    session: Session,
    desired: Desired,
    fenced: Vec<Tombstone>,
    offer: (Inventory, Capacity),
    report: GuestsReport,
}

impl Agent {
    /// A process that takes up what an earlier one left.
    pub fn start(id: ProcessId, host: HostId, boot: &Boot) -> Option<Self> {
        let config = GuestsConfig {
            sample_interval: SAMPLE,
            record_interval: RECORD,
            forwards: Arc::new(FirstSeats),
            own_addresses: OWN_ADDRESSES,
            ..GuestsConfig::new(host, boot.id, Utf8Path::new("/nowhere"))
        };
        boot.disk.revive();
        boot.hypervisor.set_asker(&boot.disk);
        let mut name = [0; 16];
        name[..8].copy_from_slice(&id.to_be_bytes());
        let store = Store::open_on(Box::new(boot.disk.clone()), name).ok()?;
        let (workshop, hypervisor) = (boot.workshop.clone(), boot.hypervisor.clone());
        let (deadlines, clock) = (boot.deadlines.clone(), boot.clock.clone());
        let mut engine = Engine::open(config, store, workshop, hypervisor, deadlines, clock);
        let desired = Desired {
            fenced_by: boot.fences.stopped_by(),
            ..Desired::default()
        };
        engine.set_desired(desired.clone());
        engine.set_sellable(boot.offer.1.sellable);
        // As the agent counts the syncs that earlier processes may have made.
        let earlier = boot.clock.boot_millis() / 200;
        Some(Self {
            id,
            frozen: false,
            flight: None,
            report: engine.report(),
            engine,
            clock: Arc::clone(&boot.clock),
            session: Session::new(boot.id, earlier),
            desired,
            fenced: Vec::new(),
            offer: boot.offer.clone(),
        })
    }

    /// Looks, plans and acts. When to come again, and whether there is news.
    pub fn turn(&mut self, runtime: &Runtime) -> (Option<Timestamp>, bool) {
        let engine = &mut self.engine;
        let wake = runtime.block_on(async {
            // What was made meanwhile is heard of first, and what is begun now
            // has begun when this returns.
            yield_now().await;
            yield_now().await;
            let wake = engine.turn().await;
            yield_now().await;
            wake
        });
        let report = self.engine.report();
        let news = report != self.report;
        self.report = report;
        (wake, news)
    }

    /// Everything of guests that the process knows.
    pub fn report(&self) -> &GuestsReport {
        &self.report
    }

    pub fn domain_stopped(&mut self, name: String) {
        self.engine.domain_stopped(name);
    }

    /// Begins the next request.
    pub fn ask(&mut self, id: RequestId, fences: &Fences) -> SyncRequest {
        self.session.hold_at_most(fences.longest_wait());
        let (inventory, capacity) = self.offer.clone();
        let receipts = self.report.receipts.iter().map(receipt).collect();
        let sent = self.session.request(News {
            inventory,
            capacity,
            leases: self.report.leases.clone(),
            usage: self.report.usage.clone(),
            receipts,
            tickets: self.report.tickets.clone(),
        });
        let request = sent.request.clone();
        self.flight = Some(Flight {
            id,
            sent,
            asked_at: Duration::from_millis(self.clock.boot_millis()),
        });
        request
    }

    /// Takes in the answer to the request under way, unless it counts for
    /// nothing; whether it did.
    pub fn answered(&mut self, answer: &SyncResponse, fences: &mut Fences) -> bool {
        let Some(flight) = self.flight.take() else {
            return false;
        };
        if self.session.asks_for_tickets(&flight.sent, answer) {
            return false;
        }
        self.clock.learn(answer.now);
        if self.session.may_be_forgetful(answer) {
            self.engine.recall();
        }
        self.engine
            .acknowledge(&answer.usage_acknowledged, &answer.receipts_acknowledged);
        let mut desired = Desired {
            tickets: answer.tickets.iter().filter_map(ticket).collect(),
            tombstones: answer.tombstones.clone(),
            ..Desired::default()
        };
        fences.answered(flight.asked_at, &desired, &self.report.leases);
        desired.fenced_by = fences.stopped_by();
        self.fenced.clear();
        self.desired = desired;
        self.order();
        self.session.answered(flight.sent, answer);
        true
    }

    /// Stops what its clause says; whether anything new is due.
    pub fn enforce(&mut self, fences: &Fences) -> bool {
        let due = fences.due(Duration::from_millis(self.clock.boot_millis()));
        if due.is_empty() || due == self.fenced {
            return false;
        }
        self.fenced = due;
        self.order();
        true
    }

    /// Hands on what shall run and what shall stop.
    fn order(&mut self) {
        let mut desired = self.desired.clone();
        desired.tombstones.extend(self.fenced.iter().cloned());
        if !stands(Safeguard::Tombstone) {
            let absent = self.report.leases.iter().filter(|status| {
                let tickets = &self.desired.tickets;
                !tickets.iter().any(|ticket| ticket.lease == status.lease)
            });
            desired.tombstones.extend(absent.map(|status| Tombstone {
                lease: status.lease,
                epoch: status.epoch,
                reason: EndReason::Ended,
            }));
        }
        self.engine.set_desired(desired);
    }
}

/// The ticket, where it can be read: signatures are another test's.
pub fn ticket(signed: &SignedTicket) -> Option<Ticket> {
    let ticket: Ticket = serde_json::from_str(&signed.0).ok()?;
    Some(Ticket {
        proof: Some(signed.clone()),
        ..ticket
    })
}

fn receipt(receipt: &EndReceipt) -> Receipt {
    Receipt {
        lease: receipt.lease,
        epoch: receipt.epoch,
        signed: SignedReceipt(serde_json::to_string(receipt).unwrap_or_default()),
    }
}
