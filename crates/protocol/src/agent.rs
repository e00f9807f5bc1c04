//! The agents' protocol, under `/agent/v1`. The agent opens every connection.
//!
//! - `POST /agent/v1/sync`: [`SyncRequest`] up, [`SyncResponse`] down, held
//!   open up to [`SyncRequest::wait_seconds`] while nothing changes.
//! - `GET /agent/v1/images/{digest}`: a guest image, `Range` respected.
//! - `POST /agent/v1/leases/{lease}/{epoch}/console?offset=N`: serial console
//!   bytes from that offset on; answers [`ConsoleAck`]. Bytes already held are
//!   ignored, so repeating is harmless.
//!
//! State is level-triggered: each answer carries the whole desired state.
//! Absence changes nothing; a stop needs a [`Tombstone`] or the lease's end.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BootId, Epoch, Generation, HostId, LeaseId};
use crate::inventory::{Capacity, Inventory};
use crate::lease::{EndReason, LeaseStatus, SignedReceipt, SignedTicket, UsageRecord};

/// Longest time for which the marketplace holds a sync open, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 55;

/// Path of the sync.
pub const SYNC_PATH: &str = "/agent/v1/sync";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    pub boot: BootId,
    /// Grows with each sync of this boot, also when the agent was restarted.
    pub seq: u64,
    /// The generation of the last answer that the host has taken in (0: none).
    pub observed_generation: Generation,
    /// How long the marketplace may hold the answer back while it has nothing
    /// new; 0 asks for an answer at once.
    pub wait_seconds: u32,
    /// Sent at first, when it changed, and when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Every lease that the host knows and has not ended.
    #[serde(default)]
    pub leases: Vec<LeaseStatus>,
    /// Records not yet acknowledged, oldest first.
    #[serde(default)]
    pub usage: Vec<UsageRecord>,
    /// Receipts not yet acknowledged.
    #[serde(default)]
    pub receipts: Vec<SignedReceipt>,
    /// The tickets of [`SyncRequest::leases`], once they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Vec<SignedTicket>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncResponse {
    pub host: HostId,
    /// The marketplace's time when it answered: what leases are judged by.
    pub now: Timestamp,
    pub generation: Generation,
    /// The marketplace holds no inventory or capacity of this boot: send both.
    #[serde(default)]
    pub want_inventory: bool,
    /// The host speaks of leases that the marketplace does not know, as after
    /// the restore of a backup: it shall show its tickets. Nothing else of the
    /// answer counts, so that no fence is put off by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub want_tickets: bool,
    /// Every lease that shall run here, signed; without those that run and were
    /// in an answer of this generation.
    #[serde(default)]
    pub tickets: Vec<SignedTicket>,
    /// Every lease that shall stop here and for which no receipt came yet.
    #[serde(default)]
    pub tombstones: Vec<Tombstone>,
    /// Usage stored for good: the host may forget records up to `seq`.
    #[serde(default)]
    pub usage_acknowledged: Vec<UsageAck>,
    /// Receipts stored for good.
    #[serde(default)]
    pub receipts_acknowledged: Vec<ReceiptAck>,
}

/// The explicit order to stop a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub lease: LeaseId,
    /// Epochs up to this one shall stop.
    pub epoch: Epoch,
    pub reason: EndReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageAck {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptAck {
    pub lease: LeaseId,
    pub epoch: Epoch,
}

/// Answer to a console upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleAck {
    /// The offset that the marketplace expects next.
    pub next_offset: u64,
}
