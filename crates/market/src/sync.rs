//! A host's sync: its word is taken in, the whole desired state goes back.
//!
//! What always holds:
//!
//! - Absence changes nothing. A lease that the host does not mention goes on,
//!   unless this is a new boot: that one has no guest left, so its placement
//!   is free. Where the lease's clause has it placed anew, the next sweep finds
//!   it a host.
//! - What a host says of an epoch that it held counts for that epoch alone; of
//!   one that it never held, for nothing.
//! - Usage and receipts that make sense are acknowledged only once they are
//!   stored, and stored once however often they are sent. Others are
//!   acknowledged with a remark, so that they are not sent for ever.
//! - A sync that brings nothing new writes nothing.

mod desk;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::agent::{SyncRequest, SyncResponse};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;
use surplus_protocol::lease::{EndReceipt, SignedReceipt, SignedTicket, Ticket};

use crate::enrol::{BootSeen, see_boot};
use crate::records::HostRecord;
use crate::store::{StoreError, Tx};

use desk::Desk;

/// How long a ticket lets a host start its guest. Each answer carries a new
/// one while the lease shall run.
pub const TICKET_LIFETIME: SignedDuration = SignedDuration::from_mins(10);

/// A signature could not be made or is not to be believed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct NotaryError {
    pub attempt: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Signs tickets and believes receipts. One for each host that calls.
pub trait Notary: Send + Sync {
    /// # Errors
    ///
    /// Where the signing key fails.
    fn sign(&self, ticket: &Ticket) -> Result<SignedTicket, NotaryError>;

    /// The receipt, where the calling host's registered key signed it.
    ///
    /// # Errors
    ///
    /// Where it did not.
    fn read(&self, receipt: &SignedReceipt) -> Result<EndReceipt, NotaryError>;

    /// The ticket, where this marketplace signed it.
    ///
    /// # Errors
    ///
    /// Where it did not.
    fn recall(&self, ticket: &SignedTicket, now: Timestamp) -> Result<Ticket, NotaryError>;
}

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("host {0} is not in the register")]
    Unknown(HostId),
    #[error("host {id} is not enrolled: {detail}")]
    NotEnrolled {
        id: HostId,
        state: HostState,
        detail: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Notary(#[from] NotaryError),
}

/// What came of a sync. In each case the caller commits.
#[derive(Clone, Debug)]
pub enum Outcome {
    Answer(Answer),
    /// Another boot took over from this one: it gets nothing.
    Superseded,
    /// This boot and another are alive under one identity: neither gets
    /// anything from now on.
    Quarantined {
        detail: String,
    },
}

/// The answer to a sync, and what its caller should know about it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub response: SyncResponse,
    /// It holds something that the host does not know: do not hold it back.
    pub urgent: bool,
    /// Whether anything was written.
    pub wrote: bool,
    /// What was odd about the request, for the log.
    pub remarks: Vec<String>,
}

/// When a sync is answered.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// Since when this process listens to its hosts: what its store holds may be
    /// older than what they know.
    pub since: Timestamp,
}

/// Who syncs.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub id: HostId,
    pub from: IpAddr,
}

/// Takes in a host's sync and answers it.
///
/// # Errors
///
/// [`SyncError`] where the host may not sync or store or signer failed.
pub async fn sync<T: Tx>(
    tx: &mut T,
    notary: &impl Notary,
    moment: Moment,
    caller: Caller,
    request: &SyncRequest,
) -> Result<Outcome, SyncError> {
    take_in(tx, notary, moment, caller, request, true).await
}

/// The same for a sync that a newer one of its boot overtook: what it says of
/// the present is old news, and only its records are taken in.
///
/// # Errors
///
/// [`SyncError`] where the host may not sync or store or signer failed.
pub async fn overtaken<T: Tx>(
    tx: &mut T,
    notary: &impl Notary,
    moment: Moment,
    caller: Caller,
    request: &SyncRequest,
) -> Result<Outcome, SyncError> {
    take_in(tx, notary, moment, caller, request, false).await
}

async fn take_in<T: Tx>(
    tx: &mut T,
    notary: &impl Notary,
    moment: Moment,
    caller: Caller,
    request: &SyncRequest,
    newest: bool,
) -> Result<Outcome, SyncError> {
    let Caller { id, from } = caller;
    let stored = tx.host(id).await?.ok_or(SyncError::Unknown(id))?;
    if stored.state != HostState::Enrolled {
        let HostRecord { state, detail, .. } = stored;
        return Err(SyncError::NotEnrolled { id, state, detail });
    }
    let mut host = stored.clone();
    let seen = see_boot(&mut host, request.boot, from);
    match seen {
        BootSeen::Same | BootSeen::New => {}
        BootSeen::Former => {
            tx.put_host(&host).await?;
            return Ok(Outcome::Superseded);
        }
        BootSeen::Double => {
            tx.put_host(&host).await?;
            return Ok(Outcome::Quarantined {
                detail: host.detail,
            });
        }
    }
    let mut desk = Desk::open(tx, moment, host).await?;
    let want_tickets = match &request.tickets {
        Some(tickets) => {
            desk.recall(notary, tickets).await?;
            false
        }
        None => desk.hears_of_unknown(&request.leases).await?,
    };
    let receipts = desk.read_receipts(notary, &request.receipts);
    for (_, receipt) in &receipts {
        desk.recall_ended(notary, receipt).await?;
    }
    let usage_acknowledged = desk.take_usage(&request.usage).await?;
    let receipts_acknowledged = desk.take_receipts(&receipts).await?;
    if seen == BootSeen::New {
        desk.free_what_replaced_hosts_ran(request).await?;
    }
    if newest {
        desk.take_statuses(request).await?;
        desk.free_what_a_reboot_took(request);
        desk.take_inventory(request);
    }
    let sent_inventory = request.inventory.is_some() || request.capacity.is_some();
    let mut answer = desk.answer(notary, request, &stored).await?;
    answer.urgent |= !usage_acknowledged.is_empty()
        || !receipts_acknowledged.is_empty()
        || (answer.response.want_inventory && !sent_inventory);
    answer.urgent |= want_tickets;
    answer.response.want_tickets = want_tickets;
    answer.response.usage_acknowledged = usage_acknowledged;
    answer.response.receipts_acknowledged = receipts_acknowledged;
    Ok(Outcome::Answer(answer))
}

/// Answers a sync that was taken in and then held back: nothing of the request
/// is taken in again, for a newer one may have come since.
///
/// # Errors
///
/// [`SyncError`] where the host may not sync or store or signer failed.
pub async fn look<T: Tx>(
    tx: &mut T,
    notary: &impl Notary,
    moment: Moment,
    id: HostId,
    request: &SyncRequest,
) -> Result<Outcome, SyncError> {
    let stored = tx.host(id).await?.ok_or(SyncError::Unknown(id))?;
    if stored.state != HostState::Enrolled {
        let HostRecord { state, detail, .. } = stored;
        return Err(SyncError::NotEnrolled { id, state, detail });
    }
    if stored.boot != Some(request.boot) {
        return Ok(Outcome::Superseded);
    }
    let desk = Desk::open(tx, moment, stored.clone()).await?;
    Ok(Outcome::Answer(
        desk.answer(notary, request, &stored).await?,
    ))
}

#[cfg(test)]
mod tests;
