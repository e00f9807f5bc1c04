//! Does the steps of a plan. Each may be done twice, and may be broken off by
//! the agent's death anywhere: the order of writing and doing is what matters.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use surplus_protocol::agent::Tombstone;
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{DiskEnd, EndReceipt, Ticket};
use surplus_seat::Seat;

use super::{Done, Engine, Job, Task, chain};
use crate::guests::directories::DirectoryError;
use crate::guests::forwards::ForwardError;
use crate::guests::hypervisor::HypervisorError;
use crate::guests::nodes;
use crate::guests::placement::Placement;
use crate::guests::plan::{Making, Step};
use crate::guests::prepare::Cure;
use crate::guests::record::{Ending, Record, Stage, unused_receipt};
use crate::guests::store::{LedgerEntry, StoreError, ledger_entry, note_epoch};

/// How often, and how soon, it is tried again to destroy the key of files that are
/// still open. Afterwards the next turn tries.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Whether a step found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Changed,
    Unchanged,
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("{}", chain(.0))]
    Store(#[from] StoreError),
    #[error("{}", chain(.0))]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error("{}", chain(.0))]
    Seat(#[from] ForwardError),
    #[error("all of this host's seats for guests without an own address are taken")]
    NoSeat,
    #[error("this host has no address that a guest could have as its own")]
    NoAddress,
}

impl Engine {
    pub(super) async fn execute(&mut self, step: Step) -> Result<Outcome, StepError> {
        match step {
            Step::DestroyStray { domain, .. } => {
                self.hypervisor.destroy(&domain).await?;
            }
            Step::RemoveLeftover(placement) => {
                return Ok(if self.clear_away(placement).await? {
                    Outcome::Changed
                } else {
                    Outcome::Unchanged
                });
            }
            Step::BeginStop {
                placement,
                why,
                kill_at,
            } => {
                self.begin_stop(placement, why, kill_at).await?;
            }
            Step::Destroy(placement) => self.destroy(placement).await?,
            Step::Finish { placement, why } => self.finish(placement, why).await?,
            Step::Close { tombstone } => self.close(&tombstone)?,
            Step::Reject { ticket, why } => self.reject(&ticket, why)?,
            Step::Adopt(placement) => self.adopt(placement).await?,
            Step::AdoptOrphan { ticket, seat } => self.adopt_orphan(*ticket, seat).await?,
            Step::Accept(ticket) => self.accept(*ticket)?,
            Step::Refresh(ticket) => self.refresh(*ticket)?,
            Step::Prepare(placement) => return Ok(self.prepare(placement)),
            Step::Start(placement) => self.start(placement).await?,
        }
        Ok(Outcome::Changed)
    }

    /// Changes a record on disk first, then in memory.
    fn amend(
        &mut self,
        placement: Placement,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        let Some(record) = self.records.get(&placement) else {
            return Ok(());
        };
        let mut changed = record.clone();
        change(&mut changed);
        self.store.save(&changed)?;
        self.records.insert(placement, changed);
        Ok(())
    }

    /// Changes a record in memory, whether or not it can be written: for what
    /// must go on on a full disk, and is found out anew after the agent's death.
    fn amend_at_any_rate(&mut self, placement: Placement, change: impl FnOnce(&mut Record)) {
        let Some(record) = self.records.get_mut(&placement) else {
            return;
        };
        change(record);
        if let Err(error) = self.store.save(record) {
            tracing::error!(%placement, error = chain(&error), "a record was not written; going on");
        }
    }

    async fn begin_stop(
        &mut self,
        placement: Placement,
        why: Ending,
        kill_at: Timestamp,
    ) -> Result<(), StepError> {
        // It may be gone before the next look.
        self.look_at_process(placement);
        self.amend_at_any_rate(placement, |record| {
            record.stage = Stage::Stopping { why, kill_at }
        });
        // Where it cannot be moved the older one stands, and the next turn tries.
        if let Err(error) = self.set_deadline(placement) {
            tracing::warn!(%placement, error = chain(&error), "the guard's deadline was not moved");
        }
        // A guest that cannot be asked is destroyed in time all the same.
        if kill_at > self.clock.now()
            && let Err(error) = self.hypervisor.shutdown(&placement.domain_name()).await
        {
            tracing::warn!(%placement, %error, "the guest was not asked to power off");
        }
        Ok(())
    }

    async fn destroy(&mut self, placement: Placement) -> Result<(), StepError> {
        // The counters vanish with the domain.
        self.sample(placement, self.was_running(placement), false)
            .await;
        self.hypervisor.destroy(&placement.domain_name()).await?;
        Ok(())
    }

    fn was_running(&self, placement: Placement) -> bool {
        self.records
            .get(&placement)
            .is_some_and(|record| record.meter.is_running())
    }

    /// Nothing runs any more: removes the files, leaves the seat, writes the receipt,
    /// forgets the record, in this order.
    async fn finish(&mut self, placement: Placement, why: Ending) -> Result<(), StepError> {
        self.jobs.remove(&placement);
        self.workshop.end_console(placement);
        let had_files = self.clear_away(placement).await?;
        let Some(mut record) = self.records.get(&placement).cloned() else {
            return Ok(());
        };
        self.leave_seat(&record).await?;
        if let Some(at) = self.stopped_at.get(&placement.domain_name()) {
            // An agent that was stopped itself hears of the end long after.
            let deadline = self.known_deadline(placement).unwrap_or(u64::MAX);
            record.meter.stopped((*at).min(deadline));
        }
        let now = self.clock.now();
        let mut receipt = record.receipt(why, now);
        // An agent before this one may have cleared away what ran.
        if had_files || receipt.started_at.is_some() {
            receipt.disk = Some(self.disk_end(now));
        }
        self.write_receipt(receipt)?;
        self.records.remove(&placement);
        self.stopped_at.remove(&placement.domain_name());
        // One that stays ends nobody: no guest has this name again. The next
        // turn removes it.
        if let Err(error) = self.deadlines.clear(placement) {
            tracing::warn!(%placement, error = chain(&error), "a deadline stays for now");
        }
        Ok(())
    }

    /// What the outside still sends to the guest reaches nobody, so that another may
    /// sit there. Ports come first, or they would begin anew what is forgotten.
    async fn leave_seat(&mut self, left: &Record) -> Result<(), ForwardError> {
        self.hand_on(|record| record.seat != left.seat).await?;
        self.config.forwards.forget(left.seat).await
    }

    /// Removes everything of a guest; whether there was any. What still has one of
    /// its files open (whoever logs its console) lets go in a moment.
    async fn clear_away(&self, placement: Placement) -> Result<bool, DirectoryError> {
        let mut tries = 0;
        loop {
            match self.workshop.remove(placement) {
                Err(error) if error.is_busy() && tries < BUSY_TRIES => tries += 1,
                done => return done,
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    fn disk_end(&self, now: Timestamp) -> DiskEnd {
        if self.workshop.destroys_keys() {
            DiskEnd::KeyDestroyed { at: now }
        } else {
            DiskEnd::MemoryFreed
        }
    }

    fn write_receipt(&mut self, receipt: EndReceipt) -> Result<(), StoreError> {
        self.store.save_receipt(&receipt)?;
        let placement = Placement::new(receipt.lease, receipt.epoch);
        self.note_epoch(
            placement,
            LedgerEntry::until(receipt.epoch, receipt.ended_at),
        );
        self.receipts.insert(placement, receipt);
        Ok(())
    }

    /// A stop for what never was here: from now on its tickets are refused.
    fn close(&mut self, tombstone: &Tombstone) -> Result<(), StepError> {
        let now = self.clock.now();
        let placement = Placement::new(tombstone.lease, tombstone.epoch);
        let why = Ending::new(tombstone.reason, "it was ended before it came to this host");
        let (host, boot) = (self.config.host, self.config.boot);
        self.write_receipt(unused_receipt(placement, host, boot, why, now))?;
        Ok(())
    }

    fn reject(&mut self, ticket: &Ticket, why: Ending) -> Result<(), StepError> {
        let placement = Placement::of(ticket);
        let (host, boot) = (self.config.host, self.config.boot);
        let mut receipt = unused_receipt(placement, host, boot, why, self.clock.now());
        receipt.claim.clone_from(&ticket.claim);
        self.write_receipt(receipt)?;
        self.write_ledger(placement, ledger_entry(ticket))?;
        Ok(())
    }

    fn write_ledger(&mut self, placement: Placement, entry: LedgerEntry) -> Result<(), StoreError> {
        if self
            .ledger
            .get(&placement.lease)
            .is_some_and(|seen| seen.epoch > entry.epoch)
        {
            return Ok(());
        }
        self.store.save_ledger(placement.lease, entry)?;
        self.ledger.insert(placement.lease, entry);
        Ok(())
    }

    /// What a ticket or a receipt that was written says of its lease's epoch, as
    /// the ledger has it by that entry alone. A write of its own could fail: then
    /// an older epoch's domain would be taken for the newest, and a lease that has
    /// ended for one that never was here.
    fn note_epoch(&mut self, placement: Placement, entry: LedgerEntry) {
        note_epoch(&mut self.ledger, placement.lease, entry);
    }

    fn accept(&mut self, ticket: Ticket) -> Result<(), StepError> {
        let placement = Placement::of(&ticket);
        let entry = ledger_entry(&ticket);
        let seat = self.free_seat(ticket.guest.resources)?;
        let record = Record {
            node: self.free_node(ticket.guest.resources),
            ..Record::new(ticket, seat)
        };
        self.store.save(&record)?;
        self.last_seats.insert(self.has_own_address(seat), seat);
        self.records.insert(placement, record);
        self.note_epoch(placement, entry);
        Ok(())
    }

    /// The same ticket, valid for longer.
    fn refresh(&mut self, ticket: Ticket) -> Result<(), StepError> {
        let (placement, entry) = (Placement::of(&ticket), ledger_entry(&ticket));
        self.amend(placement, |record| record.ticket = ticket)?;
        self.note_epoch(placement, entry);
        Ok(())
    }

    /// Starts making image, disk and seed, in a task.
    fn prepare(&mut self, placement: Placement) -> Outcome {
        let Some(record) = self.records.get(&placement) else {
            return Outcome::Unchanged;
        };
        let record = record.clone();
        let workshop = Arc::clone(&self.workshop);
        let job = self.jobs.entry(placement).or_insert_with(|| Job {
            making: Making::Working,
            progress: Arc::default(),
            task: None,
            xml: None,
            tries: 0,
            strikes: 0,
        });
        job.making = Making::Working;
        job.progress = Arc::default();
        let (progress, done) = (Arc::clone(&job.progress), self.done.clone());
        job.task = Some(Task(tokio::spawn(async move {
            let result = workshop.prepare(&record, &progress).await;
            // Nobody listens any more when the agent is going.
            let _ = done.send(Done { placement, result });
        })));
        Outcome::Changed
    }

    async fn start(&mut self, placement: Placement) -> Result<(), StepError> {
        let xml = self.jobs.get(&placement).and_then(|job| job.xml.clone());
        let Some(xml) = xml else { return Ok(()) };
        // Whatever becomes of this process: the guard ends what is made now.
        if let Err(error) = self.set_deadline(placement) {
            self.job_failed(placement, chain(&error), Cure::Time);
            return Ok(());
        }
        let since = self.clock.now();
        self.amend(placement, |record| record.stage = Stage::Starting { since })?;
        match self.hypervisor.create(&placement.domain_name(), xml).await {
            Ok(()) => self.adopt(placement).await,
            Err(error) => {
                let cure = if error.unreachable {
                    Cure::Time
                } else {
                    Cure::Few
                };
                self.job_failed(placement, error.to_string(), cure);
                Ok(())
            }
        }
    }

    /// The domain runs: from here on it is metered and ended.
    async fn adopt(&mut self, placement: Placement) -> Result<(), StepError> {
        let now = self.clock.now();
        self.jobs.remove(&placement);
        self.sample(placement, true, true).await;
        self.amend_at_any_rate(placement, |record| {
            record.started_at.get_or_insert(match record.stage {
                // The agent died between making the domain and hearing of it.
                Stage::Starting { since } => since,
                _ => now,
            });
            record.stage = Stage::Running;
        });
        Ok(())
    }

    async fn adopt_orphan(&mut self, ticket: Ticket, seat: Seat) -> Result<(), StepError> {
        let placement = Placement::of(&ticket);
        tracing::warn!(%placement, "a running guest's record was lost; it is made up from libvirt");
        // Also on a full disk: a guest without a record would never be ended.
        let record = Record::new(ticket.clone(), seat);
        let saved = self.store.save(&record);
        self.records.insert(placement, record);
        self.note_epoch(placement, ledger_entry(&ticket));
        if let Err(error) = self.set_deadline(placement) {
            tracing::warn!(%placement, error = chain(&error), "the guard is not told; the next turn tries");
        }
        self.adopt(placement).await?;
        Ok(saved?)
    }

    /// Guests whose records were lost count for nothing here: the node that they
    /// live on may be crowded for a while.
    fn free_node(&self, guest: Resources) -> Option<u32> {
        let housed = self.records.values().filter_map(|record| {
            let node = record.node?;
            Some((node, record.ticket.guest.resources))
        });
        nodes::choose(&self.config.numa_nodes, housed, guest)
    }

    fn free_seat(&self, guest: Resources) -> Result<Seat, StepError> {
        let wants_address = guest.addresses > 0;
        let own = self.config.forwards.own_addresses();
        let last = self.last_seats.get(&wants_address).copied();
        let seat = Seat::free(last, |seat| {
            self.has_own_address(seat) == wants_address
                && (!wants_address || own.contains_key(&seat))
                && self.records.values().all(|record| record.seat != seat)
        });
        seat.ok_or(if wants_address {
            StepError::NoAddress
        } else {
            StepError::NoSeat
        })
    }
}
