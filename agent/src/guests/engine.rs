//! Brings what is and what shall be together: looks, plans, acts.
//!
//! A turn never fails. What could not be done is a problem in the report and is
//! planned again at the next turn; so is everything after the agent was killed.
//! Slow work (images, disks) runs in tasks beside the turns, so that a lease
//! ends on time whatever else is going on.

mod execute;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::agent::{ReceiptAck, UsageAck};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::EndReceipt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::config::GuestsConfig;
use super::console::{Follower, LogFiles};
use super::hypervisor::{DomainState, Hypervisor, ObservedDomain};
use super::image::ImageStore;
use super::meter::Sample;
use super::placement::Placement;
use super::plan::{Desired, Making, Plan, World, plan};
use super::prepare::{Cure, PrepareError, Progress, Workshop, console_log};
use super::record::{Record, Stage};
use super::store::{Ledger, Loaded, Store, StoreError};
use super::uplink::Uplink;

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
    workshop: Arc<Workshop>,
    store: Store,
    desired: Desired,
    sellable: Option<Resources>,
    records: BTreeMap<Placement, Record>,
    receipts: BTreeMap<Placement, EndReceipt>,
    ledger: Ledger,
    jobs: BTreeMap<Placement, Job>,
    done: mpsc::UnboundedSender<Done>,
    finished_jobs: mpsc::UnboundedReceiver<Done>,
    consoles: BTreeMap<Placement, Console>,
    /// Consoles of ended guests, on their way out.
    draining: Vec<Task>,
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

#[derive(Debug)]
struct Console {
    ended: oneshot::Sender<LogFiles>,
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

impl Engine {
    /// Reads what an earlier agent left.
    pub fn open(
        config: GuestsConfig,
        hypervisor: Arc<dyn Hypervisor>,
        uplink: Arc<dyn Uplink>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let store = Store::open(&config.state_dir)?;
        let Loaded {
            records,
            receipts,
            ledger,
            set_aside,
        } = store.load()?;
        let images = ImageStore::new(store.images(), config.image_cache_bytes);
        let workshop = Workshop {
            store: store.clone(),
            images: Arc::new(images),
            uplink,
            qemu_img: config.qemu_img.clone(),
            bridge: config.bridge.clone(),
            emulation: config.emulation,
            ovmf_vars: config.ovmf_vars.clone(),
            owner: config.owner,
        };
        let (done, finished_jobs) = mpsc::unbounded_channel();
        Ok(Self {
            config,
            hypervisor,
            clock,
            workshop: Arc::new(workshop),
            store,
            desired: Desired::default(),
            sellable: None,
            records,
            receipts,
            ledger,
            jobs: BTreeMap::new(),
            done,
            finished_jobs,
            consoles: BTreeMap::new(),
            draining: Vec::new(),
            stopped_at: BTreeMap::new(),
            sampled_at: None,
            set_aside,
            problems: Vec::new(),
        })
    }

    pub fn set_desired(&mut self, desired: Desired) {
        self.desired = desired;
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
            match self.store.forget_receipt(placement) {
                Ok(()) => drop(self.receipts.remove(&placement)),
                Err(error) => tracing::warn!(%placement, %error, "a receipt stays for now"),
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
            let mut problems = self.set_aside.clone();
            let domains = self.look(&mut problems).await;
            self.sample_all(domains.as_deref()).await;
            let plan = self.plan(domains.as_deref());
            problems.extend(plan.problems);
            wake_at = plan.wake_at;
            let mut changed = false;
            for step in plan.steps {
                let what = step.to_string();
                match self.execute(step).await {
                    Ok(execute::Outcome::Changed) => {
                        tracing::info!(step = what, "done");
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
            tracing::warn!(problem, "guests");
        }
        self.problems = problems;
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
            host: self.config.host,
            boot: self.config.boot,
            desired: &self.desired,
            ledger: &self.ledger,
            records: &self.records,
            domains,
            making: &making.collect(),
            guest_dirs: &self.store.guest_dirs(),
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
        self.workshop.images.keep(images.collect());
    }

    /// Looks at what the running guests used, when it is time to.
    async fn sample_all(&mut self, domains: Option<&[ObservedDomain]>) {
        let (Some(domains), now) = (domains, self.clock.boot_millis()) else {
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
            if let Some(placement) = placement {
                self.sample(placement, domain.state == DomainState::Running)
                    .await;
            }
        }
    }

    /// Takes the guest's counters into its meter.
    async fn sample(&mut self, placement: Placement, running: bool) {
        let (name, interface) = (placement.domain_name(), placement.interface_name());
        let usage = self.hypervisor.usage(&name, &interface).await;
        let at_boot_millis = self.clock.boot_millis();
        let Some(record) = self.records.get_mut(&placement) else {
            return;
        };
        match usage {
            Ok(usage) => record.meter.sample(Sample {
                at_boot_millis,
                running,
                cpu_nanos: usage.cpu_nanos,
                rx_bytes: usage.rx_bytes,
                tx_bytes: usage.tx_bytes,
            }),
            // That it runs was seen; the other counters catch up later.
            Err(error) => {
                tracing::debug!(%placement, %error, "a guest's counters were not read");
                record.meter.tick(at_boot_millis, running);
            }
        }
    }

    fn record_usage(&mut self) {
        let (now, at) = (self.clock.now(), self.clock.boot_millis());
        let interval = millis(self.config.record_interval);
        for record in self.records.values_mut() {
            if record.meter.is_due(at, interval) {
                record.meter.record(record.placement(), now);
                if let Err(error) = self.store.save(record) {
                    self.problems
                        .push(format!("a usage record was not written: {error}"));
                }
            }
        }
    }

    /// Sees to it that the console of each guest with a domain is followed.
    fn follow_consoles(&mut self) {
        for record in self.records.values() {
            let placement = record.placement();
            if matches!(record.stage, Stage::Accepted) || self.consoles.contains_key(&placement) {
                continue;
            }
            let log = console_log(&self.store, placement);
            let uplink = Arc::clone(&self.workshop.uplink);
            let (ended, end) = oneshot::channel();
            let follower = Follower::new(placement, &log, uplink);
            let task = Task(tokio::spawn(follower.run(end)));
            self.consoles.insert(placement, Console { ended, task });
        }
        self.draining.retain(|task| !task.0.is_finished());
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
            }
        }
    }
}

use newtype_uuid::GenericUuid as _;

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
