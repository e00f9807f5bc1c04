//! One sync at work: the host and its leases as they are stored, what the
//! request makes of them, and what of that is written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use surplus_protocol::agent::{ReceiptAck, SyncRequest, SyncResponse, Tombstone, UsageAck};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{
    EndReason, EndReceipt, GuestPhase, LeaseState, LeaseStatus, SignedReceipt, SignedTicket,
    Ticket, UsageRecord,
};

use super::{Answer, Notary, NotaryError, SyncError, TICKET_LIFETIME};
use crate::bounds;
use crate::lease::{Action, Event};
use crate::records::{HostRecord, LeaseRecord, ReceiptRecord};
use crate::store::{LeaseFilter, StoreError, Tx};

/// A lease on the desk, beside how it is stored.
struct Entry {
    stored: LeaseRecord,
    lease: LeaseRecord,
}

impl Entry {
    fn stored(lease: LeaseRecord) -> Self {
        Self {
            stored: lease.clone(),
            lease,
        }
    }
}

/// One sync at work.
pub(super) struct Desk<'a, T> {
    tx: &'a mut T,
    now: Timestamp,
    host: HostRecord,
    leases: BTreeMap<LeaseId, Entry>,
    remarks: Vec<String>,
    wrote: bool,
}

impl<'a, T: Tx> Desk<'a, T> {
    /// A desk with the leases that live on the host.
    pub(super) async fn open(
        tx: &'a mut T,
        now: Timestamp,
        host: HostRecord,
    ) -> Result<Self, StoreError> {
        let live = tx.leases(LeaseFilter::LiveOn(host.id)).await?;
        let leases = live
            .into_iter()
            .map(|lease| (lease.id, Entry::stored(lease)))
            .collect();
        Ok(Self {
            tx,
            now,
            host,
            leases,
            remarks: Vec::new(),
            wrote: false,
        })
    }

    /// Writes what changed, and says what the host shall do.
    pub(super) async fn answer(
        mut self,
        notary: &impl Notary,
        request: &SyncRequest,
        stored: &HostRecord,
    ) -> Result<Answer, SyncError> {
        let tickets = self.tickets(notary, request)?;
        let tombstones = self.tombstones(&request.leases);
        self.write(stored).await?;
        let Self {
            host,
            remarks,
            wrote,
            ..
        } = self;
        let response = SyncResponse {
            host: host.id,
            generation: host.generation,
            want_inventory: host.inventory.is_none() || host.capacity.is_none(),
            tickets,
            tombstones,
            usage_acknowledged: Vec::new(),
            receipts_acknowledged: Vec::new(),
        };
        let urgent = host.generation != request.observed_generation;
        Ok(Answer {
            response,
            urgent,
            wrote,
            remarks,
        })
    }

    /// The lease, where it is this host's.
    async fn lease(&mut self, id: LeaseId) -> Result<Option<&mut LeaseRecord>, StoreError> {
        if !self.leases.contains_key(&id) {
            match self
                .tx
                .lease(id)
                .await?
                .filter(|lease| lease.host == self.host.id)
            {
                Some(lease) => {
                    self.leases.insert(id, Entry::stored(lease));
                }
                None => {
                    self.remarks
                        .push(format!("it speaks of lease {id}, which is not its own"));
                }
            }
        }
        Ok(self.leases.get_mut(&id).map(|entry| &mut entry.lease))
    }

    /// Applies an event, and counts the generation up where the host's desired
    /// state changed. An event that cannot happen is a remark.
    fn apply(&mut self, id: LeaseId, event: Event) {
        let Some(entry) = self.leases.get_mut(&id) else {
            return;
        };
        match entry.lease.apply(event) {
            Ok(actions) => {
                if actions.contains(&Action::TellHost) {
                    self.host.generation = self.host.generation.saturating_add(1);
                }
            }
            Err(invalid) => self.remarks.push(format!("lease {id}: {invalid}")),
        }
    }

    async fn add_usage(&mut self, record: &UsageRecord) -> Result<bool, StoreError> {
        let Some(lease) = self.lease(record.lease).await? else {
            return Ok(false);
        };
        let placed = lease.life.boot.is_some() || record.epoch < lease.life.epoch;
        if !placed || !(1..=lease.life.epoch).contains(&record.epoch) {
            let (lease, epoch) = (record.lease, record.epoch);
            self.remarks.push(format!(
                "usage for lease {lease}, never placed with epoch {epoch}"
            ));
            return Ok(false);
        }
        let late = lease.life.state == LeaseState::Settled;
        self.wrote |= self.tx.add_usage(record, late).await?;
        Ok(true)
    }

    pub(super) async fn take_usage(
        &mut self,
        usage: &[UsageRecord],
    ) -> Result<Vec<UsageAck>, StoreError> {
        let mut acknowledged: BTreeMap<(LeaseId, Epoch), u64> = BTreeMap::new();
        for record in usage {
            // What makes no sense is acknowledged as well, with a remark: sent
            // again it would make no more.
            self.add_usage(record).await?;
            let seq = acknowledged
                .entry((record.lease, record.epoch))
                .or_default();
            *seq = record.seq.max(*seq);
        }
        let acks = acknowledged.into_iter();
        Ok(acks
            .map(|((lease, epoch), seq)| UsageAck { lease, epoch, seq })
            .collect())
    }

    pub(super) async fn take_receipts(
        &mut self,
        notary: &impl Notary,
        receipts: &[SignedReceipt],
    ) -> Result<Vec<ReceiptAck>, StoreError> {
        let mut acknowledged = Vec::new();
        for signed in receipts {
            let receipt = match notary.read(signed) {
                Ok(receipt) => receipt,
                Err(error) => {
                    self.remarks
                        .push(format!("a receipt is not to be believed: {error}"));
                    continue;
                }
            };
            if receipt.host != self.host.id
                || (receipt.usage.lease, receipt.usage.epoch) != (receipt.lease, receipt.epoch)
            {
                self.remarks.push(format!(
                    "the receipt for lease {} names others",
                    receipt.lease
                ));
                continue;
            }
            let EndReceipt {
                lease: id, epoch, ..
            } = receipt;
            acknowledged.push(ReceiptAck { lease: id, epoch });
            let Some(lease) = self.lease(id).await? else {
                continue;
            };
            let present = lease.life.epoch == epoch;
            if epoch > lease.life.epoch || (present && lease.life.boot.is_none()) {
                self.remarks
                    .push(format!("lease {id} was never placed with epoch {epoch}"));
                continue;
            }
            self.add_usage(&receipt.usage).await?;
            let record = ReceiptRecord {
                lease: id,
                epoch,
                host: self.host.id,
                signed: signed.0.clone(),
                received_at: self.now,
            };
            if self.tx.add_receipt(&record).await? {
                self.wrote = true;
            }
            if present {
                self.end_by_receipt(&receipt);
            }
        }
        Ok(acknowledged)
    }

    fn end_by_receipt(&mut self, receipt: &EndReceipt) {
        let id = receipt.lease;
        let was_live = self
            .leases
            .get(&id)
            .is_some_and(|entry| entry.lease.life.is_live());
        let gone = Event::Gone {
            reason: receipt.reason,
            started_at: receipt.started_at,
            at: receipt.ended_at.min(self.now),
        };
        self.apply(id, gone);
        self.apply(id, Event::Settle);
        if was_live && let Some(entry) = self.leases.get_mut(&id) {
            entry.lease.detail = bounds::text(&receipt.detail);
        }
    }

    pub(super) async fn take_statuses(&mut self, request: &SyncRequest) -> Result<(), StoreError> {
        let now = self.now;
        for status in &request.leases {
            let id = status.lease;
            let Some(lease) = self.lease(id).await? else {
                continue;
            };
            if status.epoch != lease.life.epoch || !lease.life.is_placed() {
                continue;
            }
            lease.phase = Some(status.phase);
            lease.detail = bounds::text(&status.detail);
            lease.addresses = bounds::texts(&status.addresses);
            if status.phase == GuestPhase::Running {
                self.apply(id, Event::Running { at: now });
            }
        }
        Ok(())
    }

    /// Guests do not outlive their host's boot: what was placed in another
    /// boot, and is not here now, is gone.
    pub(super) fn end_what_a_reboot_took(&mut self, request: &SyncRequest) {
        let gone: Vec<_> = self
            .leases
            .values()
            .map(|entry| &entry.lease)
            .filter(|lease| lease.life.is_placed() && lease.life.boot != Some(request.boot))
            .filter(|lease| !is_listed(&request.leases, lease))
            .map(|lease| lease.id)
            .collect();
        for id in gone {
            let (reason, at) = (EndReason::HostRebooted, self.now);
            self.apply(
                id,
                Event::Gone {
                    reason,
                    started_at: None,
                    at,
                },
            );
            if let Some(entry) = self.leases.get_mut(&id) {
                "the host came back from a reboot without it".clone_into(&mut entry.lease.detail);
            }
        }
    }

    /// The same for what was placed on records of this hardware that were
    /// voided since.
    pub(super) async fn end_what_replaced_hosts_ran(
        &mut self,
        request: &SyncRequest,
    ) -> Result<(), StoreError> {
        let (reason, at) = (EndReason::HostRebooted, self.now);
        for mut old in self.tx.hosts().await? {
            if old.replaced_by != Some(self.host.id) {
                continue;
            }
            for mut lease in self.tx.leases(LeaseFilter::LiveOn(old.id)).await? {
                let gone = Event::Gone {
                    reason,
                    started_at: None,
                    at,
                };
                if lease.life.is_placed()
                    && !is_listed(&request.leases, &lease)
                    && lease.apply(gone).is_ok()
                {
                    "its host came back from a reboot as another".clone_into(&mut lease.detail);
                    self.tx.put_lease(&lease).await?;
                }
            }
            old.replaced_by = None;
            self.tx.put_host(&old).await?;
            self.wrote = true;
        }
        Ok(())
    }

    pub(super) fn take_inventory(&mut self, request: &SyncRequest) {
        if let Some(inventory) = &request.inventory {
            let inventory = bounds::inventory(inventory.clone());
            self.host.identity.clone_from(&inventory.identity);
            self.host.inventory = Some(inventory);
        }
        if let Some(capacity) = &request.capacity {
            let mut capacity = capacity.clone();
            capacity.withheld = capacity.withheld.as_deref().map(bounds::text);
            self.host.capacity = Some(capacity);
        }
    }

    /// A ticket for each lease that shall run, each good for starting the
    /// guest in this boot.
    fn tickets(
        &mut self,
        notary: &impl Notary,
        request: &SyncRequest,
    ) -> Result<Vec<SignedTicket>, NotaryError> {
        let now = self.now;
        let shall_run: Vec<_> = self
            .leases
            .values()
            .filter(|entry| entry.lease.life.shall_run() && entry.lease.ends_at > now)
            .map(|entry| entry.lease.id)
            .collect();
        let mut tickets = Vec::new();
        for id in shall_run {
            self.ticketed(id, request);
            let Some(Entry { lease, .. }) = self.leases.get(&id) else {
                continue;
            };
            let Some(guest) = lease.guest.clone() else {
                continue;
            };
            let not_after = now
                .saturating_add(TICKET_LIFETIME)
                .unwrap_or(Timestamp::MAX);
            tickets.push(notary.sign(&Ticket {
                lease: id,
                epoch: lease.life.epoch,
                host: self.host.id,
                boot: request.boot,
                issued_at: now,
                not_after: not_after.min(lease.ends_at),
                ends_at: lease.ends_at,
                guest,
            })?);
        }
        Ok(tickets)
    }

    fn ticketed(&mut self, id: LeaseId, request: &SyncRequest) {
        let reserved = |entry: &Entry| entry.lease.life.state == LeaseState::Reserved;
        if self.leases.get(&id).is_some_and(reserved) {
            self.apply(id, Event::Ticketed { boot: request.boot });
        }
    }

    /// What shall stop: leases that drain, and what the host still runs though
    /// it ended or was placed anew. A lease that nobody here knows is left
    /// alone: absence deletes nothing.
    fn tombstones(&self, statuses: &[LeaseStatus]) -> Vec<Tombstone> {
        let leases = || self.leases.values().map(|entry| &entry.lease);
        let draining = leases()
            .filter(|l| l.life.state == LeaseState::Draining)
            .map(|lease| {
                let reason = lease.life.stop.unwrap_or(EndReason::Ended);
                Tombstone {
                    lease: lease.id,
                    epoch: lease.life.epoch,
                    reason,
                }
            });
        let left_over = statuses.iter().filter_map(|status| {
            let lease = &self.leases.get(&status.lease)?.lease;
            let dead = !lease.life.is_live();
            (dead || status.epoch < lease.life.epoch).then(|| Tombstone {
                lease: lease.id,
                epoch: status.epoch,
                reason: lease.life.end_reason.unwrap_or(EndReason::Ended),
            })
        });
        draining.chain(left_over).collect()
    }

    /// Writes what differs from what is stored.
    async fn write(&mut self, stored: &HostRecord) -> Result<(), StoreError> {
        for Entry { stored, lease } in self.leases.values() {
            if lease != stored {
                self.tx.put_lease(lease).await?;
                self.wrote = true;
            }
        }
        if self.host != *stored {
            self.tx.put_host(&self.host).await?;
            self.wrote = true;
        }
        Ok(())
    }
}

fn is_listed(statuses: &[LeaseStatus], lease: &LeaseRecord) -> bool {
    statuses
        .iter()
        .any(|s| s.lease == lease.id && s.epoch == lease.life.epoch)
}
