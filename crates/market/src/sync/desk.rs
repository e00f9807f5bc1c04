//! One sync at work: the host and its leases as they are stored, what the
//! request makes of them, and what of that is written.
//!
//! What always holds: a lease that left this host for another is only looked
//! at for what this host did with it; nothing said here ends it or moves it.

mod orders;
mod recall;
mod word;

use std::collections::BTreeMap;

use jiff::Timestamp;
use surplus_protocol::agent::{SyncRequest, SyncResponse, Tombstone};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{EndReason, LeaseStatus};

use super::{Answer, Moment, Notary, SyncError};
use crate::bounds;
use crate::lease::{Action, InvalidTransition};
use crate::records::{HostRecord, LeaseRecord};
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
    /// Since when this process listens to its hosts.
    since: Timestamp,
    host: HostRecord,
    /// Those of this host.
    leases: BTreeMap<LeaseId, Entry>,
    /// Those that this host lost and another took since.
    left: BTreeMap<LeaseId, Entry>,
    /// What the host runs under a later epoch than a lease ended with.
    over: Vec<Tombstone>,
    remarks: Vec<String>,
    wrote: bool,
}

impl<'a, T: Tx> Desk<'a, T> {
    /// A desk with the leases that live on the host.
    pub(super) async fn open(
        tx: &'a mut T,
        moment: Moment,
        host: HostRecord,
    ) -> Result<Self, StoreError> {
        let live = tx.leases(LeaseFilter::LiveOn(host.id)).await?;
        let leases = live
            .into_iter()
            .map(|lease| (lease.id, Entry::stored(lease)))
            .collect();
        Ok(Self {
            tx,
            now: moment.now,
            since: moment.since,
            host,
            leases,
            left: BTreeMap::new(),
            over: Vec::new(),
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
        for status in &request.leases {
            self.fetch(status.lease).await?;
        }
        let mut tombstones = self.tombstones(&request.leases);
        tombstones.append(&mut self.over);
        tombstones.extend(self.unheard(request).await?);
        self.write(stored).await?;
        let Self {
            host,
            remarks,
            wrote,
            now,
            ..
        } = self;
        let response = SyncResponse {
            host: host.id,
            now,
            generation: host.generation,
            want_inventory: host.inventory.is_none() || host.capacity.is_none(),
            want_tickets: false,
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

    /// Lays the lease on the desk, where it is or was this host's. Says whether
    /// it is there.
    async fn fetch(&mut self, id: LeaseId) -> Result<bool, StoreError> {
        if self.leases.contains_key(&id) || self.left.contains_key(&id) {
            return Ok(true);
        }
        let Some(lease) = self.tx.lease(id).await? else {
            return Ok(false);
        };
        let mut former = lease.life.former.iter();
        if lease.host == self.host.id {
            self.leases.insert(id, Entry::stored(lease));
        } else if former.any(|former| former.host == self.host.id) {
            self.left.insert(id, Entry::stored(lease));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// A lease that lies on the desk.
    fn lease(&self, id: LeaseId) -> Option<&LeaseRecord> {
        let entry = self.leases.get(&id).or_else(|| self.left.get(&id));
        entry.map(|entry| &entry.lease)
    }

    /// The lease, where the host holds or held it with that epoch. Else that is
    /// a remark.
    async fn held(
        &mut self,
        id: LeaseId,
        epoch: Epoch,
    ) -> Result<Option<&LeaseRecord>, StoreError> {
        if !self.fetch(id).await? {
            self.remarks
                .push(format!("it speaks of lease {id}, which is not its own"));
            return Ok(None);
        }
        let host = self.host.id;
        if !self
            .lease(id)
            .is_some_and(|lease| lease.was_on(host, epoch))
        {
            self.remarks.push(format!(
                "it speaks of epoch {epoch} of lease {id}, which was never placed on it"
            ));
            return Ok(None);
        }
        Ok(self.lease(id))
    }

    /// Takes a step with a lease of this host, and counts the generation up
    /// where the host's desired state changed. A step that cannot be taken is a
    /// remark.
    fn step(
        &mut self,
        id: LeaseId,
        step: impl FnOnce(&mut LeaseRecord) -> Result<Vec<Action>, InvalidTransition>,
    ) {
        let Some(entry) = self.leases.get_mut(&id) else {
            return;
        };
        match step(&mut entry.lease) {
            Ok(actions) => {
                if actions.contains(&Action::TellHost) {
                    self.host.generation = self.host.generation.saturating_add(1);
                }
            }
            Err(invalid) => self.remarks.push(format!("lease {id}: {invalid}")),
        }
    }

    /// Guests do not outlive their host's boot: what was placed in another
    /// boot, and is not here now, is gone.
    pub(super) fn free_what_a_reboot_took(&mut self, request: &SyncRequest) {
        let gone: Vec<_> = self
            .leases
            .values()
            .map(|entry| &entry.lease)
            .filter(|lease| lease.life.is_placed() && lease.life.boot != Some(request.boot))
            .filter(|lease| !is_listed(&request.leases, lease))
            .map(|lease| lease.id)
            .collect();
        let (reason, now) = (EndReason::HostRebooted, self.now);
        let why = "the host came back from a reboot without it";
        for id in gone {
            self.step(id, |lease| lease.lose(reason, None, now, why));
        }
    }

    /// The same for what was placed on records of this hardware that were
    /// voided since.
    pub(super) async fn free_what_replaced_hosts_ran(
        &mut self,
        request: &SyncRequest,
    ) -> Result<(), StoreError> {
        let (reason, now) = (EndReason::HostRebooted, self.now);
        let why = "its host came back from a reboot as another";
        for mut old in self.tx.hosts().await? {
            if old.replaced_by != Some(self.host.id) {
                continue;
            }
            for mut lease in self.tx.leases(LeaseFilter::LiveOn(old.id)).await? {
                if lease.life.is_placed()
                    && !is_listed(&request.leases, &lease)
                    && lease.lose(reason, None, now, why).is_ok()
                {
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

    /// Writes what differs from what is stored.
    async fn write(&mut self, stored: &HostRecord) -> Result<(), StoreError> {
        for Entry { stored, lease } in self.leases.values().chain(self.left.values()) {
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
