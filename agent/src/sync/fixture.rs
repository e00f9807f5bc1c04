//! What tests of syncing share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid as _;
use surplus_protocol::Digest;
use surplus_protocol::agent::{ReceiptAck, UsageAck};
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use surplus_protocol::lease::{GuestSpec, ImageFormat, Ticket};

use super::Workload;
use crate::guests::Desired;

type Acknowledged = (Vec<UsageAck>, Vec<ReceiptAck>);

/// Remembers what it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeGuests {
    pub(crate) orders: Arc<Mutex<Vec<Desired>>>,
    pub(crate) acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    /// How often all receipts were wanted again.
    pub(crate) recalls: Arc<AtomicUsize>,
}

impl Workload for FakeGuests {
    fn order(&self, desired: Desired) {
        self.orders.lock().unwrap().push(desired);
    }

    fn acknowledge(&self, usage: Vec<UsageAck>, receipts: Vec<ReceiptAck>) {
        self.acknowledged.lock().unwrap().push((usage, receipts));
    }

    fn recall(&self) {
        self.recalls.fetch_add(1, Ordering::Relaxed);
    }
}

/// A ticket of some lease for some host.
pub(crate) fn ticket() -> Ticket {
    let now = Timestamp::now();
    Ticket {
        lease: LeaseId::from_untyped_uuid(uuid::Uuid::new_v4()),
        epoch: 1,
        host: HostId::from_untyped_uuid(uuid::Uuid::new_v4()),
        boot: BootId::from_untyped_uuid(uuid::Uuid::new_v4()),
        issued_at: now,
        not_after: now + SignedDuration::from_mins(10),
        ends_at: now + SignedDuration::from_hours(1),
        terms: None,
        claim: None,
        proof: None,
        guest: GuestSpec {
            name: "guest".to_owned(),
            resources: Default::default(),
            image: Digest::from_sha256([0; 32]),
            image_format: ImageFormat::Raw,
            image_bytes: 1,
            firmware: Default::default(),
            ssh_keys: Vec::new(),
            user_data: None,
            on_lost_link: Default::default(),
            ports: Vec::new(),
        },
    }
}
