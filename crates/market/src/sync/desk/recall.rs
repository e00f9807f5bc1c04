//! What the store has forgotten, as after the restore of a backup: hosts that
//! run leases of which it does not know show their tickets, and these are
//! believed, for nobody else could have signed them.

use surplus_protocol::agent::Tombstone;
use surplus_protocol::ids::LeaseId;
use surplus_protocol::lease::{
    EndReason, EndReceipt, LeaseState, LeaseStatus, SignedTicket, Ticket,
};

use super::{Desk, Entry};
use crate::lease::{Event, Lease};
use crate::records::LeaseRecord;
use crate::rent::tell_host;
use crate::store::{StoreError, Tx};
use crate::sync::Notary;

/// What a lease says of itself until its host says more.
const KNOWN_AGAIN: &str = "known again by its host's ticket: the store was restored";

impl<T: Tx> Desk<'_, T> {
    /// Whether the host speaks of a lease, or of an epoch of one, that the store
    /// has never heard of.
    pub(in crate::sync) async fn hears_of_unknown(
        &mut self,
        statuses: &[LeaseStatus],
    ) -> Result<bool, StoreError> {
        for status in statuses {
            let known = match self.leases.get(&status.lease) {
                Some(entry) => Some(entry.lease.life.epoch),
                None => self.tx.lease(status.lease).await?.map(|it| it.life.epoch),
            };
            if known.is_none_or(|known| known < status.epoch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in what the host's tickets say of leases that the store does not
    /// know, or knows an earlier placement of.
    pub(in crate::sync) async fn recall(
        &mut self,
        notary: &impl Notary,
        tickets: &[SignedTicket],
    ) -> Result<(), StoreError> {
        for signed in tickets {
            match notary.recall(signed, self.now) {
                Ok(ticket) if ticket.host == self.host.id => self.recall_one(ticket).await?,
                Ok(ticket) => self.remarks.push(format!(
                    "it shows the ticket of lease {} for host {}",
                    ticket.lease, ticket.host
                )),
                Err(error) => self
                    .remarks
                    .push(format!("it shows a ticket that is not ours: {error}")),
            }
        }
        Ok(())
    }

    /// Takes in what a receipt's claim says of a placement that the store does not
    /// know of, before the receipt ends it.
    pub(in crate::sync) async fn recall_ended(
        &mut self,
        notary: &impl Notary,
        receipt: &EndReceipt,
    ) -> Result<(), StoreError> {
        let EndReceipt { lease, epoch, .. } = *receipt;
        let Some(claim) = &receipt.claim else {
            return Ok(());
        };
        let stored = self.known(lease).await?;
        let is_news =
            stored.is_none_or(|stored| stored.life.is_live() && stored.life.epoch < epoch);
        if !is_news {
            return Ok(());
        }
        match notary.recall(claim, self.now) {
            Ok(ticket)
                if (ticket.host, ticket.lease, ticket.epoch) == (self.host.id, lease, epoch) =>
            {
                self.recall_one(ticket).await
            }
            Ok(_) => {
                self.remarks.push(format!(
                    "the receipt for lease {lease} makes another's claim"
                ));
                Ok(())
            }
            Err(error) => {
                self.remarks.push(format!(
                    "the claim of the receipt for lease {lease} is not ours: {error}"
                ));
                Ok(())
            }
        }
    }

    async fn known(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>, StoreError> {
        match self.leases.get(&id) {
            Some(entry) => Ok(Some(entry.lease.clone())),
            None => self.tx.lease(id).await,
        }
    }

    async fn recall_one(&mut self, ticket: Ticket) -> Result<(), StoreError> {
        let id = ticket.lease;
        let Some(mut lease) = self.known(id).await? else {
            return self.take_on(ticket).await;
        };
        if lease.life.epoch >= ticket.epoch {
            return Ok(());
        }
        if !lease.life.is_live() {
            self.over.push(Tombstone {
                lease: id,
                epoch: ticket.epoch,
                reason: lease.life.end_reason.unwrap_or(EndReason::Ended),
            });
            return Ok(());
        }
        let (before, left) = (lease.clone(), lease.host);
        let overtaken = Event::Overtaken {
            epoch: ticket.epoch,
            boot: ticket.boot,
            left,
            at: self.now,
        };
        let Ok(actions) = lease.apply(overtaken) else {
            return Ok(());
        };
        (lease.phase, lease.host) = (None, self.host.id);
        lease.site.clone_from(&self.host.site);
        KNOWN_AGAIN.clone_into(&mut lease.detail);
        self.tx.put_lease(&lease).await?;
        if left != self.host.id {
            tell_host(self.tx, left, &actions).await?;
        }
        self.remember(before, lease);
        Ok(())
    }

    /// A lease that was taken after the backup was made.
    async fn take_on(&mut self, ticket: Ticket) -> Result<(), StoreError> {
        let id = ticket.lease;
        let Some(lease) = known_again(ticket, &self.host.site) else {
            self.remarks.push(format!(
                "it shows a ticket of lease {id}, which is not known and does not say its terms"
            ));
            return Ok(());
        };
        self.tx.put_lease(&lease).await?;
        self.remember(lease.clone(), lease);
        Ok(())
    }

    fn remember(&mut self, stored: LeaseRecord, lease: LeaseRecord) {
        self.remarks.push(format!(
            "lease {}, epoch {}, is known again by its ticket",
            lease.id, lease.life.epoch
        ));
        self.host.generation = self.host.generation.saturating_add(1);
        self.wrote = true;
        self.leases.insert(lease.id, Entry { stored, lease });
    }
}

/// The lease that a ticket tells of.
fn known_again(ticket: Ticket, site: &str) -> Option<LeaseRecord> {
    let terms = ticket.terms?;
    let life = Lease {
        state: LeaseState::Preparing,
        epoch: ticket.epoch,
        boot: Some(ticket.boot),
        ..Lease::quoted()
    };
    Some(LeaseRecord {
        id: ticket.lease,
        quote: terms.quote,
        owner: terms.owner,
        host: ticket.host,
        site: site.to_owned(),
        wanted_site: terms.wanted_site,
        resources: ticket.guest.resources,
        seconds: terms.seconds,
        on_lost_link: ticket.guest.on_lost_link,
        price: terms.price,
        currency: terms.currency,
        price_book: terms.price_book,
        quote_expires_at: terms.created_at,
        created_at: terms.created_at,
        ends_at: ticket.ends_at,
        guest: Some(ticket.guest),
        life,
        phase: None,
        detail: KNOWN_AGAIN.to_owned(),
        addresses: Vec::new(),
        forwards: Vec::new(),
        disk: None,
    })
}
