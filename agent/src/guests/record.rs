//! What the host remembers of one placement, from ticket to receipt.
//!
//! ```text
//! Accepted ──► Starting ──► Running ──► Stopping ──► (receipt)
//!     │            │           └────────────────────────▲
//!     └────────────┴────────────────────────────────────┘
//! ```
//!
//! A record is written before what it announces is done: `Starting` before the
//! domain is made, `Stopping` before the guest is asked. The receipt is written
//! after nothing of the guest is left, and takes the record's place. So whatever
//! instruction the agent dies at, the files and a look at libvirt tell how to go
//! on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::lease::{EndReason, EndReceipt, Ticket};
use surplus_seat::Seat;

use super::meter::Meter;
use super::placement::Placement;

/// One placement that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub ticket: Ticket,
    /// The guest's alone until nothing is left of it.
    pub seat: Seat,
    /// The NUMA node that it lives on, where one has room for it.
    pub node: Option<u32>,
    pub stage: Stage,
    /// When the guest first ran.
    pub started_at: Option<Timestamp>,
    pub meter: Meter,
}

/// How far a placement has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The ticket was taken; image, disk and seed are being made.
    Accepted,
    /// libvirt was told to make the domain.
    Starting {
        since: Timestamp,
    },
    Running,
    /// The guest was asked to power off and is destroyed at `kill_at`.
    Stopping {
        why: Ending,
        kill_at: Timestamp,
    },
}

/// Why a placement ends, for the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub reason: EndReason,
    /// One sentence for the buyer.
    pub detail: String,
}

impl Ending {
    pub fn new(reason: EndReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl Record {
    pub fn new(ticket: Ticket, seat: Seat) -> Self {
        Self {
            ticket,
            seat,
            node: None,
            stage: Stage::Accepted,
            started_at: None,
            meter: Meter::default(),
        }
    }

    pub fn placement(&self) -> Placement {
        Placement::of(&self.ticket)
    }

    /// The word that nothing of the guest is left; closes the meter.
    pub fn receipt(&mut self, why: Ending, now: Timestamp) -> EndReceipt {
        let placement = self.placement();
        EndReceipt {
            lease: placement.lease,
            epoch: placement.epoch,
            host: self.ticket.host,
            boot: self.ticket.boot,
            reason: why.reason,
            detail: why.detail,
            started_at: self.started_at,
            ended_at: now,
            usage: self.meter.close(placement, now),
            claim: self.ticket.claim.clone(),
            disk: None,
        }
    }
}

/// The receipt for a placement that never came to run here.
pub fn unused_receipt(
    placement: Placement,
    host: HostId,
    boot: BootId,
    why: Ending,
    now: Timestamp,
) -> EndReceipt {
    EndReceipt {
        lease: placement.lease,
        epoch: placement.epoch,
        host,
        boot,
        reason: why.reason,
        detail: why.detail,
        started_at: None,
        ended_at: now,
        usage: Meter::default().close(placement, now),
        claim: None,
        disk: None,
    }
}
