//! What the host shall do: run what it has a ticket for, stop what has a
//! tombstone.

use jiff::Timestamp;
use surplus_protocol::agent::{SyncRequest, Tombstone};
use surplus_protocol::ids::{BootId, Epoch, HostId, LeaseId};
use surplus_protocol::lease::{
    EndReason, GuestPhase, LeaseState, LeaseStatus, SignedTicket, Terms, Ticket,
};

use super::{Desk, Entry, is_listed};
use crate::lease::Event;
use crate::records::LeaseRecord;
use crate::replacement::may_know_all;
use crate::store::{LeaseFilter, StoreError, Tx};
use crate::sync::{Notary, NotaryError, TICKET_LIFETIME};

impl<T: Tx> Desk<'_, T> {
    /// A ticket for each lease that shall run, each good for starting the
    /// guest in this boot. What runs by the host's word, and was ordered in an
    /// answer that the host has seen, is not said again. After a start of this
    /// process, what the host does not speak of waits until a host with a later
    /// placement would have been heard.
    pub(super) fn tickets(
        &mut self,
        notary: &impl Notary,
        request: &SyncRequest,
    ) -> Result<Vec<SignedTicket>, NotaryError> {
        let now = self.now;
        let shall_run: Vec<_> = self
            .leases
            .values()
            .map(|entry| &entry.lease)
            .filter(|lease| lease.life.shall_run() && lease.ends_at > now)
            .filter(|lease| is_listed(&request.leases, lease) || self.is_surely_its(lease))
            .map(|lease| lease.id)
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
            let mut ticket = Ticket {
                lease: id,
                epoch: lease.life.epoch,
                host: self.host.id,
                boot: request.boot,
                issued_at: now,
                not_after: not_after.min(lease.ends_at),
                ends_at: lease.ends_at,
                terms: Some(terms(lease)),
                guest,
                claim: None,
                proof: None,
            };
            let runs = runs(&request.leases, &ticket);
            if runs && request.observed_generation == self.host.generation {
                continue;
            }
            if !runs {
                ticket.claim = Some(notary.sign(&bare(&ticket))?);
            }
            tickets.push(notary.sign(&ticket)?);
        }
        Ok(tickets)
    }

    /// Whether no other host can hold a later placement of the lease than this
    /// store knows of.
    fn is_surely_its(&self, lease: &LeaseRecord) -> bool {
        lease.created_at > self.since || may_know_all(lease, self.since, self.now)
    }

    fn ticketed(&mut self, id: LeaseId, request: &SyncRequest) {
        let reserved = |entry: &Entry| entry.lease.life.state == LeaseState::Reserved;
        if self.leases.get(&id).is_some_and(reserved) {
            self.step(id, |lease| {
                lease.apply(Event::Ticketed { boot: request.boot })
            });
        }
    }

    /// What shall stop: leases that drain, and what the host still runs though
    /// it ended, was lost or was placed anew. A lease that nobody here knows is
    /// left alone: absence deletes nothing.
    pub(super) fn tombstones(&self, statuses: &[LeaseStatus]) -> Vec<Tombstone> {
        let leases = self.leases.values().map(|entry| &entry.lease);
        let draining = leases
            .filter(|lease| lease.life.state == LeaseState::Draining)
            .map(|lease| Tombstone {
                lease: lease.id,
                epoch: lease.life.epoch,
                reason: lease.life.stop.unwrap_or(EndReason::Ended),
            });
        let left_over = statuses.iter().filter_map(|status| {
            let reason = over(self.lease(status.lease)?, status.epoch)?;
            Some(Tombstone {
                lease: status.lease,
                epoch: status.epoch,
                reason,
            })
        });
        draining.chain(left_over).collect()
    }
}

impl<T: Tx> Desk<'_, T> {
    /// What ended here, and of which this boot has said nothing: its ticket may
    /// have been lost on the way. A host that never had it answers with a
    /// receipt, so that the bill can be closed.
    pub(super) async fn unheard(
        &mut self,
        request: &SyncRequest,
    ) -> Result<Vec<Tombstone>, StoreError> {
        let mut unheard = Vec::new();
        for lease in self.tx.leases(LeaseFilter::Unsettled).await? {
            let epochs = epochs_on(&lease, self.host.id, request.boot);
            if epochs.is_empty() {
                continue;
            }
            let received = self.tx.receipts(lease.id).await?;
            let reason = lease.life.end_reason.unwrap_or(EndReason::Ended);
            for epoch in epochs {
                if !received.contains(&epoch) {
                    unheard.push(Tombstone {
                        lease: lease.id,
                        epoch,
                        reason,
                    });
                }
            }
        }
        Ok(unheard)
    }
}

/// What the lease was taken for.
fn terms(lease: &LeaseRecord) -> Terms {
    Terms {
        quote: lease.quote,
        owner: lease.owner,
        wanted_site: lease.wanted_site.clone(),
        seconds: lease.seconds,
        price: lease.price,
        currency: lease.currency.clone(),
        price_book: lease.price_book,
        created_at: lease.created_at,
    }
}

/// The epochs with which a boot of a host got tickets for the lease.
fn epochs_on(lease: &LeaseRecord, host: HostId, boot: BootId) -> Vec<Epoch> {
    let life = &lease.life;
    let present = life.boot.map(|boot| (life.epoch, lease.host, boot));
    let former = life.former.iter().map(|it| (it.epoch, it.host, it.boot));
    former
        .chain(present)
        .filter(|(_, on, by)| (*on, *by) == (host, boot))
        .map(|(epoch, ..)| epoch)
        .collect()
}

/// Why a guest that runs with that epoch should not, if it should not.
fn over(lease: &LeaseRecord, epoch: Epoch) -> Option<EndReason> {
    let mut former = lease.life.former.iter();
    if let Some(former) = former.find(|former| former.epoch == epoch) {
        return Some(former.reason);
    }
    if let Some(lost) = lease.life.lost {
        return Some(lost.reason);
    }
    let dead = !lease.life.is_live();
    (dead || epoch < lease.life.epoch).then(|| lease.life.end_reason.unwrap_or(EndReason::Ended))
}

/// Whether the host says that the ticket's guest runs: it has kept the ticket.
fn runs(statuses: &[LeaseStatus], ticket: &Ticket) -> bool {
    statuses.iter().any(|status| {
        (status.lease, status.epoch) == (ticket.lease, ticket.epoch)
            && matches!(status.phase, GuestPhase::Running | GuestPhase::Stopping)
    })
}

/// The ticket without what makes it large and what the guest alone needs.
fn bare(ticket: &Ticket) -> Ticket {
    let mut bare = ticket.clone();
    bare.guest.ssh_keys.clear();
    bare.guest.user_data = None;
    bare
}
