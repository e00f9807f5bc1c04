//! The simulated world: hosts, marketplace, the network between them, buyers,
//! and one queue of what happens next.
//!
//! Everything follows from the seed: the queue's order, the random numbers and
//! the code under test hold no other source of chance.

mod guests;
mod messages;
mod power;
mod trade;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use surplus_agent::guests::Placement;
use surplus_market::memory::MemoryStore;
use surplus_market::store::{Store as _, Tx as _};
use surplus_market::suite::{furnish, host_record};
use surplus_protocol::agent::{SyncRequest, SyncResponse};
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use tokio::runtime::Runtime;

use crate::agent::ProcessId;
use crate::clock::{Millis, Now};
use crate::host::{Host, Link};
use crate::hub::{Hub, RequestId, ready};
use crate::judge::Judge;
use crate::queue::Queue;
use crate::weather::{Climate, Fault};
use crate::workshop::Job;

pub const SECOND: Millis = 1_000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;
pub const DAY: Millis = 24 * HOUR;

/// How often the marketplace sweeps, writes down who was seen, and how often
/// the judge and the guards look.
const SWEEP: Millis = 5 * SECOND;
const WRITE_SEEN: Millis = 30 * SECOND;
const LOOK: Millis = SECOND;

/// Of so many worlds one has a store that is restored.
const RESTORED: u64 = 6;

/// Which host, by its place in the list.
pub type Index = usize;

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    Turn(Index, ProcessId),
    Ask(Index, ProcessId),
    /// A guest's files are made, or not.
    Made(Index, BootId, Box<Job>),
    /// A guest powers off, by itself or because it was asked.
    PowersOff(Index, BootId, Placement),
    /// Guards, fences and the judge look.
    Look,
    /// A request reaches the marketplace.
    Arrives {
        from: Index,
        process: ProcessId,
        id: RequestId,
        asked: Millis,
        request: Box<SyncRequest>,
        /// A second time.
        again: bool,
    },
    HangsUp(RequestId),
    HeldLongEnough(RequestId),
    /// An answer reaches the host; none: the connection broke.
    Answered {
        to: Index,
        process: ProcessId,
        id: RequestId,
        asked: Millis,
        answer: Option<Box<SyncResponse>>,
    },
    TimesOut(Index, ProcessId, RequestId),
    Sweeps,
    WritesSeen,
    BacksUp,
    Rents,
    Ends(LeaseId),
    ConfirmsOff(Index, u32),
    Strikes(Fault),
    /// The end of what a fault began.
    Mends(Mending),
    /// From here on nothing fails any more.
    Heals,
}

/// What gets well again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mending {
    Link(Index),
    Ears(Index),
    Agent(Index),
    Thaw(Index, ProcessId),
    Libvirt(Index),
    Power(Index),
    Marketplace,
}

/// Who is connected with a request that the marketplace holds.
#[derive(Clone, Copy, Debug)]
struct Caller {
    host: Index,
    process: ProcessId,
    asked: Millis,
}

/// All there is.
pub struct World {
    now: Now,
    queue: Queue<Event>,
    random: StdRng,
    runtime: Runtime,
    climate: Climate,
    hosts: Vec<Host>,
    hub: Hub,
    /// The marketplace's store as it was once.
    backup: Option<MemoryStore>,
    judge: Judge,
    callers: std::collections::BTreeMap<RequestId, Caller>,
    requests: RequestId,
    leases: Vec<LeaseId>,
    healed: bool,
    /// The latest end of any lease.
    last_end: Millis,
    events: u64,
    trace: bool,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub leases: usize,
    /// True time in which guests ran.
    pub ran: Millis,
    pub billed: Millis,
    pub took: Millis,
}

/// A broken promise, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub at: Millis,
    pub what: String,
}

impl World {
    /// The world of this seed; in some the marketplace's store is restored from
    /// a backup. `trace` prints each event.
    ///
    /// # Errors
    ///
    /// Where the machine that simulates lacks something.
    pub fn new(seed: u64, trace: bool) -> std::io::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let climate = if seed % RESTORED == RESTORED - 1 {
            Climate::with_a_restored_store(&mut random)
        } else {
            Climate::of(&mut random)
        };
        Self::under(climate, random, trace)
    }

    /// The same in which the marketplace is gone for a week.
    ///
    /// # Errors
    ///
    /// Where the machine that simulates lacks something.
    pub fn without_marketplace(seed: u64) -> std::io::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let climate = Climate::week_without_marketplace(&mut random);
        Self::under(climate, random, false)
    }

    /// The same in which most requests come twice.
    ///
    /// # Errors
    ///
    /// Where the machine that simulates lacks something.
    pub fn with_copies(seed: u64) -> std::io::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let climate = Climate::with_copies(&mut random);
        Self::under(climate, random, false)
    }

    fn under(climate: Climate, random: StdRng, trace: bool) -> std::io::Result<Self> {
        let now = Now::default();
        let mut world = Self {
            hub: Hub::new(&now),
            now,
            queue: Queue::default(),
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
            hosts: Vec::new(),
            backup: None,
            judge: Judge::default(),
            callers: std::collections::BTreeMap::new(),
            requests: 0,
            leases: Vec::new(),
            healed: false,
            last_end: 0,
            events: 0,
            trace,
            climate,
            random,
        };
        world.furnish();
        Ok(world)
    }

    fn furnish(&mut self) {
        let mut records = Vec::new();
        for number in 1..=self.climate.hosts {
            let mut record = host_record(number);
            // Nobody has called yet.
            (record.boot, record.inventory, record.capacity) = (None, None, None);
            record.last_seen_at = None;
            let host = Host {
                id: record.id,
                number,
                has_disk: self.random.random_bool(0.5),
                link: self.climate.link.clone(),
                boot: None,
                processes: 0,
                boots: 0,
                disk: surplus_journal::Memory::new(),
            };
            records.push(record);
            self.hosts.push(host);
        }
        ready(furnish(&self.hub.store, &records, &[]));
        let image = trade::image();
        let stored = ready(async {
            let mut tx = self.hub.store.begin().await?;
            tx.put_image(&image).await?;
            tx.commit().await
        });
        debug_assert!(stored.is_ok());
        for host in 0..self.hosts.len() {
            self.power_on(host);
        }
        self.queue.push(LOOK, Event::Look);
        self.queue.push(SWEEP, Event::Sweeps);
        self.queue.push(WRITE_SEEN, Event::WritesSeen);
        for (at, event) in self.climate.plan(&mut self.random) {
            self.queue.push(at, event);
        }
        self.queue.push(self.climate.storm, Event::Heals);
    }

    /// Lets it run until everything has settled.
    ///
    /// # Errors
    ///
    /// The first promise that was broken.
    pub fn run(mut self) -> Result<Summary, Broken> {
        while let Some((at, event)) = self.queue.pop() {
            self.now.set(at);
            self.events += 1;
            if self.trace && !matches!(event, Event::Look | Event::Sweeps | Event::WritesSeen) {
                println!("{:>10.3} {event:?}", seconds(at));
            }
            self.happen(event);
            if let Some(what) = self.judge.broken() {
                let what = what.to_owned();
                return Err(Broken { at, what });
            }
            if self.healed && at > self.last_end.max(self.climate.storm) + self.climate.calm() {
                break;
            }
        }
        self.judge_the_end()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(host, process) => self.turn_of(host, process),
            Event::Ask(host, process) => self.ask_of(host, process),
            Event::Made(host, boot, job) => self.guest_made(host, boot, *job),
            Event::PowersOff(host, boot, placement) => self.guest_off(host, boot, placement),
            Event::Look => self.look(),
            Event::Arrives {
                from,
                process,
                id,
                asked,
                request,
                again,
            } => {
                // Two requests of an earlier boot that a proxy held back look like
                // a second machine: known, and not this judge's matter.
                let boot = self.hosts[from].boot.as_ref().map(|boot| boot.id);
                if again && boot != Some(request.boot) {
                    return;
                }
                let caller = Caller {
                    host: from,
                    process,
                    asked,
                };
                self.arrives(caller, id, *request);
            }
            Event::HangsUp(id) => {
                self.callers.remove(&id);
                self.hub.hung_up(id);
            }
            Event::HeldLongEnough(id) => self.look_at(id, true),
            Event::Answered {
                to,
                process,
                id,
                asked,
                answer,
            } => self.answered(to, process, id, asked, answer),
            Event::TimesOut(host, process, id) => self.timed_out(host, process, id),
            Event::Sweeps => self.sweeps(),
            Event::WritesSeen => {
                if self.hub.up {
                    self.hub.write_seen();
                }
                self.after(WRITE_SEEN, Event::WritesSeen);
            }
            Event::BacksUp => self.backup = Some(self.hub.backup()),
            Event::Rents => self.rents(),
            Event::Ends(lease) => self.ends(lease),
            Event::ConfirmsOff(host, boots) => self.confirms_off(host, boots),
            Event::Strikes(fault) => self.strikes(&fault),
            Event::Mends(mending) => self.mends(&mending),
            Event::Heals => self.heals(),
        }
    }

    fn after(&mut self, wait: Millis, event: Event) {
        self.queue.push(self.now.get() + wait, event);
    }

    fn chance(&mut self, of_a_thousand: u32) -> bool {
        self.random.random_range(0..1000) < of_a_thousand
    }

    fn look(&mut self) {
        for host in 0..self.hosts.len() {
            self.guard_looks(host);
            self.fences_look(host);
        }
        let now = self.now.get();
        self.judge.check_ends(&self.hosts, now);
        // A long storm is looked at closely where something is about to end.
        let wait = if self.climate.is_long() && !self.judge.ends_before(now + MINUTE) {
            10 * LOOK
        } else {
            LOOK
        };
        self.after(wait, Event::Look);
    }

    fn sweeps(&mut self) {
        if self.hub.up {
            let silent = self.hub.silent(self.hosts.iter().map(|host| host.id));
            let many = self.hosts.len() > 2 && silent * 10 > self.hosts.len() * 3;
            let before = many.then(|| self.hub.leases());
            let (wake, _) = self.hub.sweep();
            if let Some(before) = before {
                self.judge.check_brake(&before, &self.hub);
            }
            self.wake(&wake);
            self.check_placed();
        }
        self.after(SWEEP, Event::Sweeps);
    }

    /// What runs must be known to run.
    fn check_placed(&mut self) {
        self.judge.check_placed(&self.hub);
    }

    fn id(&self, host: Index) -> HostId {
        self.hosts[host].id
    }

    /// Everything is over: what is left, and what the bills say.
    fn judge_the_end(mut self) -> Result<Summary, Broken> {
        let at = self.now.get();
        let mut summary = Summary {
            events: self.events,
            took: at,
            ..Summary::default()
        };
        for lease in self.hub.leases() {
            let Some(bill) = self.hub.bill(&lease) else {
                continue;
            };
            summary.leases += 1;
            summary.ran += self.judge.ran(lease.id, at);
            summary.billed += bill.usage.iter().map(|r| r.running_millis).sum::<Millis>();
            self.judge.check_bill(&lease, &bill);
        }
        for host in &mut self.hosts {
            let id = host.id;
            let Some((agent, _)) = host.agent() else {
                self.judge
                    .breaks(|| format!("host {id} has no agent at the end of all days"));
                continue;
            };
            let report = agent.report();
            if !report.leases.is_empty() || !report.receipts.is_empty() {
                let left = format!("{:?} {:?}", report.leases, report.receipts);
                self.judge
                    .breaks(|| format!("host {id} still holds {left}"));
            }
            let boot = host.boot.as_ref();
            let files = boot
                .map(|boot| surplus_agent::guests::workshop::Workshop::placements(&*boot.workshop));
            if files.as_ref().is_some_and(|files| !files.is_empty()) {
                self.judge
                    .breaks(|| format!("host {id} still has files of {files:?}"));
            }
        }
        match self.judge.broken() {
            Some(what) => Err(Broken {
                at,
                what: what.to_owned(),
            }),
            None => Ok(summary),
        }
    }

    fn link(&self, host: Index) -> Link {
        self.hosts[host].link.clone()
    }
}

/// For people.
pub fn seconds(at: Millis) -> f64 {
    std::time::Duration::from_millis(at).as_secs_f64()
}
