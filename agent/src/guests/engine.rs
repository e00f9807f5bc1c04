//! Brings what is and what shall be together: looks, plans, acts.
//!
//! A turn never fails. What could not be done is a problem in the report and is
//! planned again at the next turn; so is everything after the agent was killed.
//! Slow work (images, disks) runs in tasks beside the turns, so that a lease
//! ends on time whatever else is going on.

mod deadlines;
mod execute;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid as _;
use surplus_protocol::agent::{ReceiptAck, UsageAck};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::EndReceipt;
use surplus_seat::Seat;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::config::GuestsConfig;
use super::deadlines::Deadlines;
use super::forwards::{self, ForwardError, PortMap};
use super::hypervisor::{DomainState, Hypervisor, ObservedDomain};
use super::placement::Placement;
use super::plan::{Desired, Making, Plan, World, plan};
use super::prepare::{Cure, PrepareError};
use super::record::{Record, Stage};
use super::store::{Ledger, Loaded, Store};
use super::workshop::{Progress, Workshop};

/// Rounds of look, plan and act within one turn.
const MAX_ROUNDS: usize = 8;
/// Tries of what is not cured by time alone.
const MAX_STRIKES: u32 = 3;

/// All guests of this host.
#[derive(Debug)]
pub struct Engine {
    config: GuestsConfig,
    hypervisor: Arc<dyn Hypervisor>,
    clock: Arc<dyn Clock>,
    workshop: Arc<dyn Workshop>,
    deadlines: Arc<dyn Deadlines>,
    store: Store,
    desired: Desired,
    sellable: Option<Resources>,
    records: BTreeMap<Placement, Record>,
    receipts: BTreeMap<Placement, EndReceipt>,
    /// Acknowledged ones.
    kept: BTreeMap<Placement, EndReceipt>,
    /// The seat that was taken last, of those with and without an own address.
    last_seats: BTreeMap<bool, Seat>,
    /// The ports that are handed on, once that was said.
    forwarded: Option<PortMap>,
    ledger: Ledger,
    jobs: BTreeMap<Placement, Job>,
    done: mpsc::UnboundedSender<Done>,
    finished_jobs: mpsc::UnboundedReceiver<Done>,
    /// When domains were reported to have stopped, on the boot-time clock.
    stopped_at: BTreeMap<String, u64>,
    sampled_at: Option<u64>,
    /// Found at the start, for a person to look at.
    set_aside: Vec<String>,
    problems: Vec<String>,
}

/// The making of one guest.
#[derive(Debug)]
struct Job {
    making: Making,
    progress: Arc<Progress>,
    task: Option<Task>,
    /// The domain's XML, once it is ready.
    xml: Option<String>,
    tries: u32,
    /// Tries that failed for other reasons than the world's.
    strikes: u32,
}

#[derive(Debug)]
struct Done {
    placement: Placement,
    result: Result<String, PrepareError>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// Takes up what an earlier agent left.
    pub fn open(
        config: GuestsConfig,
        store: Store,
        workshop: Arc<dyn Workshop>,
        hypervisor: Arc<dyn Hypervisor>,
        deadlines: Arc<dyn Deadlines>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Loaded {
            records,
            receipts,
            kept,
            ledger,
            set_aside,
        } = store.load();
        let seats = records.values().map(|record| record.seat);
        let last_seats = seats
            .map(|seat| (seat.has_own_address(config.own_addresses), seat))
            .collect();
        let (done, finished_jobs) = mpsc::unbounded_channel();
        Self {
            config,
            hypervisor,
            clock,
            workshop,
            deadlines,
            store,
            desired: Desired::default(),
            sellable: None,
            forwarded: None,
            last_seats,
            records,
            receipts,
            kept,
            ledger,
            jobs: BTreeMap::new(),
            done,
            finished_jobs,
            stopped_at: BTreeMap::new(),
            sampled_at: None,
            set_aside,
            problems: Vec::new(),
        }
    }

    fn has_own_address(&self, seat: Seat) -> bool {
        seat.has_own_address(self.config.own_addresses)
    }

    /// From now on this is desired. Where it speaks of what ended here and whose
    /// receipt had arrived, the marketplace has lost that: it is sent again.
    pub fn set_desired(&mut self, desired: Desired) {
        let tickets = desired.tickets.iter().map(Placement::of);
        let stones = desired.tombstones.iter();
        let stones = stones.map(|stone| Placement::new(stone.lease, stone.epoch));
        for placement in tickets.chain(stones).collect::<Vec<_>>() {
            self.recall_one(placement);
        }
        self.desired = desired;
    }

    /// The marketplace may have lost any receipt that had arrived: all that are
    /// kept are sent again.
    pub fn recall(&mut self) {
        for placement in self.kept.keys().copied().collect::<Vec<_>>() {
            self.recall_one(placement);
        }
    }

    fn recall_one(&mut self, placement: Placement) {
        let Some(receipt) = self.kept.get(&placement) else {
            return;
        };
        match self.store.recall_receipt(placement) {
            Ok(()) => {
                self.receipts.insert(placement, receipt.clone());
                self.kept.remove(&placement);
            }
            Err(error) => {
                tracing::warn!(%placement, error = chain(&error), "a receipt is not sent again yet");
            }
        }
    }

    pub fn set_sellable(&mut self, sellable: Resources) {
        self.sellable = Some(sellable);
    }

    /// Forgets what the marketplace has stored for good.
    pub fn acknowledge(&mut self, usage: &[UsageAck], receipts: &[ReceiptAck]) {
        for ack in usage {
            if let Some(record) = self.records.get_mut(&Placement::new(ack.lease, ack.epoch)) {
                // Written with the next record; until then a repeat is harmless.
                record.meter.acknowledge(ack.seq);
            }
        }
        for ack in receipts {
            let placement = Placement::new(ack.lease, ack.epoch);
            match self.store.keep_receipt(placement) {
                Ok(()) => {
                    let receipt = self.receipts.remove(&placement);
                    self.kept
                        .extend(receipt.map(|receipt| (placement, receipt)));
                }
                Err(error) => {
                    tracing::warn!(%placement, error = chain(&error), "a receipt stays for now");
                }
            }
        }
    }

    /// A domain was reported to have stopped just now.
    pub fn domain_stopped(&mut self, name: String) {
        let now = self.clock.boot_millis();
        self.stopped_at.entry(name).or_insert(now);
    }

    /// Waits for a guest to be made ready, or to fail. Cancel safe.
    pub async fn job_done(&mut self) {
        if let Some(done) = self.finished_jobs.recv().await {
            self.take_in(done);
        }
    }

    /// Whether a guest is being made right now.
    pub fn is_making(&self) -> bool {
        self.jobs.values().any(|job| job.making == Making::Working)
    }

    /// Looks, plans and acts until nothing more is to be done now. Returns when
    /// to come again at the latest.
    pub async fn turn(&mut self) -> Option<Timestamp> {
        while let Ok(done) = self.finished_jobs.try_recv() {
            self.take_in(done);
        }
        self.keep_images();
        self.follow_consoles();
        let mut wake_at = None;
        for _ in 0..MAX_ROUNDS {
            self.config.pulse.beat();
            let mut problems = self.set_aside.clone();
            let domains = self.look(&mut problems).await;
            self.keep_deadlines(domains.as_deref(), &mut problems);
            self.keep_forwards(&mut problems).await;
            self.sample_all(domains.as_deref());
            let plan = self.plan(domains.as_deref());
            problems.extend(plan.problems);
            wake_at = plan.wake_at;
            let mut changed = false;
            for step in plan.steps {
                let what = step.to_string();
                self.config.pulse.beat();
                match self.execute(step).await {
                    Ok(execute::Outcome::Changed) => {
                        tracing::info!(step = what, "guests: {what}: done");
                        changed = true;
                    }
                    Ok(execute::Outcome::Unchanged) => {}
                    Err(error) => problems.push(format!("could not {what}: {error}")),
                }
            }
            self.report_problems(problems);
            // Blind, another round would wait for libvirt once more.
            if !changed || domains.is_none() {
                break;
            }
        }
        self.record_usage();
        self.follow_consoles();
        self.prune();
        wake_at
    }

    fn report_problems(&mut self, problems: Vec<String>) {
        for problem in problems
            .iter()
            .filter(|problem| !self.problems.contains(problem))
        {
            tracing::warn!("guests: {problem}");
        }
        self.problems = problems;
    }

    /// Hands on the ports of the guests that are here, before they start and until
    /// they are gone.
    async fn keep_forwards(&mut self, problems: &mut Vec<String>) {
        if let Err(error) = self.hand_on(|_| true).await {
            problems.push(format!("ports are not forwarded: {}", chain(&error)));
        }
    }

    /// Hands on the ports of these guests, and of no others.
    async fn hand_on(&mut self, whose: impl Fn(&Record) -> bool) -> Result<(), ForwardError> {
        let records = self.records.values().filter(|record| whose(record));
        let guests = records.flat_map(|record| {
            let address = record.seat.ipv4();
            let ports = forwards::of(record.seat, &record.ticket.guest.ports);
            ports.map(move |(it, host)| ((it.transport, host), (address, it.port)))
        });
        let wanted = guests.collect();
        if self.forwarded.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // In doubt until it has succeeded.
        self.forwarded = None;
        self.config.forwards.set(&wanted).await?;
        self.forwarded = Some(wanted);
        Ok(())
    }

    async fn look(&self, problems: &mut Vec<String>) -> Option<Vec<ObservedDomain>> {
        match self.hypervisor.domains().await {
            Ok(domains) => Some(domains),
            Err(error) => {
                problems.push(format!("guests cannot be seen or changed: {error}"));
                None
            }
        }
    }

    fn plan(&self, domains: Option<&[ObservedDomain]>) -> Plan {
        let making = self
            .jobs
            .iter()
            .map(|(placement, job)| (*placement, job.making.clone()));
        plan(&World {
            now: self.clock.now(),
            boot_millis: self.clock.boot_millis(),
            host: self.config.host,
            boot: self.config.boot,
            desired: &self.desired,
            ledger: &self.ledger,
            records: &self.records,
            receipts: &self.receipts,
            kept: &self.kept,
            domains,
            making: &making.collect(),
            guest_dirs: &self.workshop.placements(),
            sellable: self.sellable,
            grace: signed(self.config.shutdown_grace),
        })
    }

    fn take_in(&mut self, Done { placement, result }: Done) {
        match result {
            Ok(xml) => {
                if let Some(job) = self.jobs.get_mut(&placement) {
                    job.task = None;
                    job.making = Making::Ready;
                    job.xml = Some(xml);
                }
            }
            Err(error) => self.job_failed(placement, chain(&error), error.cure()),
        }
    }

    /// Notes a failure, and when to try again.
    fn job_failed(&mut self, placement: Placement, detail: String, cure: Cure) {
        let now = self.clock.now();
        let Some(job) = self.jobs.get_mut(&placement) else {
            return;
        };
        tracing::warn!(%placement, detail, ?cure, "a guest could not be made");
        job.task = None;
        job.tries += 1;
        job.strikes += u32::from(cure == Cure::Few);
        job.making = if cure == Cure::None || job.strikes >= MAX_STRIKES {
            Making::Hopeless { detail }
        } else {
            // 1, 2, 4 … 32 s, spread a little so that guests do not march in step.
            let pause = 1000_i64 << (job.tries - 1).min(5);
            let spread = i64::from(placement.lease.as_untyped_uuid().as_bytes()[15]) * 2;
            let pause = SignedDuration::from_millis(pause + spread);
            Making::Failed {
                retry_at: now.saturating_add(pause).unwrap_or(now),
                detail,
            }
        };
    }

    fn keep_images(&self) {
        let images = self
            .records
            .values()
            .map(|record| record.ticket.guest.image);
        self.workshop.keep_images(images.collect());
    }

    /// Looks at what the running guests used, when it is time to.
    fn sample_all(&mut self, domains: Option<&[ObservedDomain]>) {
        let (Some(domains), now) = (domains, self.clock.boot_millis()) else {
            self.look_at_processes();
            return;
        };
        let interval = millis(self.config.sample_interval);
        if self
            .sampled_at
            .is_some_and(|last| now.saturating_sub(last) < interval)
        {
            return;
        }
        self.sampled_at = Some(now);
        for domain in domains {
            let placement = self
                .records
                .values()
                .filter(|record| !matches!(record.stage, Stage::Accepted | Stage::Starting { .. }))
                .map(Record::placement)
                .find(|placement| placement.domain_name() == domain.name);
            if let Some(record) = placement.and_then(|it| self.records.get_mut(&it)) {
                let running = domain.state == DomainState::Running;
                record.meter.look(now, running, domain.usage);
            }
        }
    }

    /// Where libvirt cannot be asked: a guest that ran, and whose process is still
    /// there, runs on.
    fn look_at_processes(&mut self) {
        let placements: Vec<_> = self.records.keys().copied().collect();
        for placement in placements {
            self.config.pulse.beat();
            self.look_at_process(placement);
        }
    }

    fn look_at_process(&mut self, placement: Placement) {
        let Some(record) = self.records.get_mut(&placement) else {
            return;
        };
        let name = placement.domain_name();
        if record.meter.is_running() && self.hypervisor.has_process(&name) == Some(true) {
            record.meter.tick(self.clock.boot_millis(), true);
        }
    }

    /// Takes the guest's counters into its meter. `seen`: just now, so that it
    /// counts as running where they cannot be read.
    async fn sample(&mut self, placement: Placement, running: bool, seen: bool) {
        let Some(seat) = self.records.get(&placement).map(|record| record.seat) else {
            return;
        };
        let (name, interface) = (placement.domain_name(), seat.interface());
        let usage = self.hypervisor.usage(&name, &interface).await;
        let at_boot_millis = self.clock.boot_millis();
        let Some(record) = self.records.get_mut(&placement) else {
            return;
        };
        match usage {
            Ok(usage) => record.meter.look(at_boot_millis, running, usage),
            // That it runs was seen; the other counters catch up later.
            Err(error) if seen => {
                tracing::debug!(%placement, %error, "a guest's counters were not read");
                record.meter.tick(at_boot_millis, running);
            }
            Err(_) => {}
        }
    }

    /// Makes the usage records that are due, and writes down what was counted:
    /// what is written is all that the agent's death leaves of it.
    fn record_usage(&mut self) {
        let now = self.clock.now();
        let interval = millis(self.config.record_interval);
        for record in self.records.values_mut() {
            if record.meter.is_due(interval) {
                record.meter.record(record.placement(), now);
            }
        }
        if let Err(error) = self.store.save_all(self.records.values()) {
            self.problems
                .push(format!("usage was not written down: {}", chain(&error)));
        }
    }

    /// Sees to it that the console of each guest with a domain is followed.
    fn follow_consoles(&self) {
        for record in self.records.values() {
            if !matches!(record.stage, Stage::Accepted) {
                self.workshop.follow_console(record.placement());
            }
        }
    }

    /// Forgets ledger lines that can refuse nothing any more.
    fn prune(&mut self) {
        let now = self.clock.now();
        let old: Vec<_> = self
            .ledger
            .iter()
            .filter(|(lease, entry)| {
                entry.forget_after < now && !self.records.keys().any(|it| it.lease == **lease)
            })
            .map(|(lease, _)| *lease)
            .collect();
        for lease in old {
            if self.store.forget_ledger(lease).is_ok() {
                self.ledger.remove(&lease);
                self.kept.retain(|placement, _| placement.lease != lease);
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
