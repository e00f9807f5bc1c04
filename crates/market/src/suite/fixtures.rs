//! The records, documents and requests that tests are made of.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use surplus_protocol::admission::Selectors;
use surplus_protocol::agent::SyncRequest;
use surplus_protocol::api::{HostState, Role};
use surplus_protocol::ids::{AdmissionRuleId, BootId, HostId, KeyId, LeaseId, QuoteId, TokenId};
use surplus_protocol::inventory::{Capacity, HardwareIdentity, Inventory, KvmProbe, Resources};
use surplus_protocol::lease::{
    DiskEnd, EndReason, EndReceipt, Firmware, Forward, GuestPhase, GuestPort, GuestSpec,
    ImageFormat, LeaseStatus, OnLostLink, SignedReceipt, SignedTicket, Ticket, Transport,
    UsageRecord,
};
use surplus_protocol::{Digest, Money};

use crate::enrol::Applicant;
use crate::lease::{Event, Lease};
use crate::pricing;
use crate::records::{AdmissionRuleRecord, HostRecord, KeyRecord, LeaseRecord, TokenRecord};
use crate::store::{Store, Tx};
use crate::sync::{Answer, Caller, Moment, Notary, NotaryError, Outcome, sync};

/// Signs nothing and believes everything: documents travel as bare JSON.
#[derive(Clone, Copy, Debug)]
pub struct PlainNotary;

impl Notary for PlainNotary {
    fn sign(&self, ticket: &Ticket) -> Result<SignedTicket, NotaryError> {
        Ok(SignedTicket(serde_json::to_string(ticket).unwrap()))
    }

    fn read(&self, receipt: &SignedReceipt) -> Result<EndReceipt, NotaryError> {
        serde_json::from_str(&receipt.0).map_err(|source| NotaryError {
            attempt: "cannot read the receipt".to_owned(),
            source: Some(Box::new(source)),
        })
    }

    fn recall(&self, ticket: &SignedTicket, _: Timestamp) -> Result<Ticket, NotaryError> {
        serde_json::from_str(&ticket.0).map_err(|source| NotaryError {
            attempt: "cannot read the ticket".to_owned(),
            source: Some(Box::new(source)),
        })
    }
}

/// `n` seconds after the start of 2026.
pub fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + n).unwrap()
}

/// A digest that only `n` has.
pub fn digest(n: u8) -> Digest {
    Digest::from_sha256([n; 32])
}

/// A token for `uses` hosts, with the hash `digest(n)`.
pub fn token_record(n: u8, uses: u32) -> TokenRecord {
    TokenRecord {
        id: TokenId::from_bytes([n; 16]),
        name: format!("token {n}"),
        hash: digest(n),
        uses: Some(uses),
        used: 0,
        expires_at: Some(second(1000)),
        networks: vec!["192.0.2.0/24".to_owned()],
        created_at: second(0),
    }
}

/// A rule that admits `uses` hosts from 192.0.2.0/24 until `second(1000)`.
pub fn rule_record(n: u8, uses: Option<u32>) -> AdmissionRuleRecord {
    AdmissionRuleRecord {
        id: AdmissionRuleId::from_bytes([n; 16]),
        selectors: Selectors {
            networks: vec!["192.0.2.0/24".to_owned()],
            ..Selectors::default()
        },
        uses,
        used: 0,
        expires_at: Some(second(1000)),
        created_by: "admin".to_owned(),
        created_at: second(i64::from(n)),
    }
}

/// A buyer's key with the hash `digest(n)`.
pub fn key_record(n: u8) -> KeyRecord {
    KeyRecord {
        id: KeyId::from_bytes([n; 16]),
        name: format!("key {n}"),
        role: Role::Buyer,
        hash: digest(n),
        created_at: second(0),
    }
}

/// What host `n` sells: 4 vCPUs, 8 GiB, 100 GiB; 256 MiB for each guest.
pub fn capacity() -> Capacity {
    let gib = 1 << 30;
    Capacity {
        generation: 1,
        sellable: Resources {
            vcpus: 4,
            memory_bytes: 8 * gib,
            disk_bytes: 100 * gib,
            addresses: 0,
        },
        guest_overhead: Resources {
            vcpus: 0,
            memory_bytes: 256 << 20,
            disk_bytes: 1 << 20,
            addresses: 0,
        },
        ..Capacity::default()
    }
}

/// An inventory whose guests run under KVM.
pub fn inventory(n: u8) -> Inventory {
    let identity = HardwareIdentity {
        system_uuid: Some(format!("uuid {n}")),
        macs: vec![format!("02:00:00:00:00:{n:02x}")],
        ..HardwareIdentity::default()
    };
    Inventory {
        identity,
        kvm: KvmProbe::Works { millis: 40 },
        ..Inventory::default()
    }
}

/// Where host `n` calls from.
pub fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

/// An enrolled host that offers [`capacity`], last seen at `second(0)`.
pub fn host_record(n: u8) -> HostRecord {
    HostRecord {
        id: HostId::from_bytes([n; 16]),
        state: HostState::Enrolled,
        detail: "made for a test".to_owned(),
        site: "rack".to_owned(),
        rack: "r1".to_owned(),
        key_storage: "ram".to_owned(),
        key: digest(n),
        next_key: None,
        identity: inventory(n).identity,
        cpu_model: "EPYC".to_owned(),
        memory_bytes: 8 << 30,
        address: Some(address(n)),
        admitted_by: None,
        enrolled_at: second(0),
        certificate_expires_at: second(1000),
        last_seen_at: Some(second(0)),
        boot: Some(BootId::from_bytes([n; 16])),
        former_boots: Vec::new(),
        inventory: Some(inventory(n)),
        capacity: Some(capacity()),
        generation: 7,
        replaced_by: None,
    }
}

/// A small guest.
pub const SMALL: Resources = Resources {
    vcpus: 1,
    memory_bytes: 1 << 30,
    disk_bytes: 1 << 30,
    addresses: 0,
};

/// Lease `n` of a small guest on a host, taken and not yet ticketed; an hour.
pub fn lease_record(n: u8, host: HostId) -> LeaseRecord {
    let guest = GuestSpec {
        name: format!("guest-{n}"),
        resources: SMALL,
        image: digest(200),
        image_format: ImageFormat::Qcow2,
        image_bytes: 100,
        firmware: Firmware::Uefi,
        ssh_keys: vec!["ssh-ed25519 AAAA".to_owned()],
        user_data: Some("#cloud-config".to_owned()),
        on_lost_link: OnLostLink::Keep,
        ports: vec![forward(22).guest],
    };
    let mut lease = LeaseRecord {
        id: LeaseId::from_bytes([n; 16]),
        quote: QuoteId::from_bytes([n; 16]),
        owner: KeyId::from_bytes([n; 16]),
        host,
        site: "rack".to_owned(),
        wanted_site: None,
        resources: SMALL,
        seconds: 3600,
        on_lost_link: OnLostLink::Keep,
        price: Money(16_000),
        currency: "EUR".to_owned(),
        price_book: pricing::default_book().version,
        quote_expires_at: second(300),
        created_at: second(0),
        ends_at: second(3600),
        guest: Some(guest),
        life: Lease::quoted(),
        phase: None,
        detail: String::new(),
        addresses: Vec::new(),
        forwards: Vec::new(),
        disk: None,
    };
    lease.apply(Event::Take).unwrap();
    lease
}

/// The same under a fence and bound to its site; it lost a first placement and
/// then a second, both on that host.
pub fn twice_lost(n: u8, host: HostId) -> LeaseRecord {
    let mut lease = LeaseRecord {
        on_lost_link: OnLostLink::Fence { after_seconds: 60 },
        wanted_site: Some("rack".to_owned()),
        ..lease_record(n, host)
    };
    let boot = BootId::from_bytes([1; 16]);
    lease.apply(Event::Ticketed { boot }).unwrap();
    lease
        .lose(EndReason::LinkLost, None, second(7), "lost")
        .unwrap();
    lease.apply(Event::PlaceAnew { left: host }).unwrap();
    lease.apply(Event::Ticketed { boot }).unwrap();
    lease
        .lose(EndReason::HostRebooted, None, second(8), "lost again")
        .unwrap();
    lease
}

/// A usage record.
/// A port that is reached at another.
pub fn forward(port: u16) -> Forward {
    Forward {
        guest: GuestPort {
            transport: Transport::Tcp,
            port,
        },
        address: Ipv4Addr::new(192, 0, 2, 15),
        host_port: 16_384,
    }
}

pub fn usage_record(lease: LeaseId, epoch: u64, seq: u64, running_millis: u64) -> UsageRecord {
    UsageRecord {
        lease,
        epoch,
        seq,
        measured_at: second(10),
        running_millis,
        cpu_millis: 5,
        rx_bytes: 6,
        tx_bytes: 7,
    }
}

/// The host's word that a guest is gone.
pub fn receipt(host: &HostRecord, usage: UsageRecord, reason: EndReason) -> SignedReceipt {
    let receipt = EndReceipt {
        claim: None,
        lease: usage.lease,
        epoch: usage.epoch,
        host: host.id,
        boot: host.boot.unwrap(),
        reason,
        detail: "gone".to_owned(),
        started_at: Some(second(5)),
        ended_at: second(20),
        usage,
        disk: Some(DiskEnd::KeyDestroyed { at: second(20) }),
    };
    SignedReceipt(serde_json::to_string(&receipt).unwrap())
}

/// A sync that has nothing to say.
pub fn quiet(host: &HostRecord) -> SyncRequest {
    SyncRequest {
        boot: host.boot.unwrap(),
        seq: 1,
        observed_generation: host.generation,
        wait_seconds: 0,
        inventory: None,
        capacity: None,
        leases: Vec::new(),
        usage: Vec::new(),
        receipts: Vec::new(),
        tickets: None,
    }
}

/// What a host says of a lease's guest.
pub fn status(lease: LeaseId, phase: GuestPhase) -> LeaseStatus {
    LeaseStatus {
        lease,
        epoch: 1,
        phase,
        detail: "said so".to_owned(),
        addresses: Vec::new(),
        forwards: Vec::new(),
    }
}

/// A time at which the marketplace has listened for ever.
pub fn moment(now: Timestamp) -> Moment {
    let since = Timestamp::MIN;
    Moment { now, since }
}

/// A sync in a transaction of its own.
pub async fn synced<S: Store>(
    store: &S,
    now: Timestamp,
    host: HostId,
    request: &SyncRequest,
) -> Answer {
    let mut tx = store.begin().await.unwrap();
    let caller = Caller {
        id: host,
        from: address(1),
    };
    let outcome = sync(&mut tx, &PlainNotary, moment(now), caller, request)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    match outcome {
        Outcome::Answer(answer) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

/// Stores the default prices, a host and its leases.
pub async fn furnish<S: Store>(store: &S, hosts: &[HostRecord], leases: &[LeaseRecord]) {
    let mut tx = store.begin().await.unwrap();
    tx.add_price_book(&pricing::default_book()).await.unwrap();
    for host in hosts {
        tx.put_host(host).await.unwrap();
    }
    for lease in leases {
        tx.put_lease(lease).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// A lease as it is stored.
pub async fn stored_lease<S: Store>(store: &S, id: LeaseId) -> LeaseRecord {
    store
        .read()
        .await
        .unwrap()
        .lease(id)
        .await
        .unwrap()
        .unwrap()
}

/// An applicant with the token `digest(1)`.
pub fn applicant(n: u8) -> Applicant {
    Applicant {
        key: digest(n),
        token: Some(digest(1)),
        from: address(n),
        site: "rack".to_owned(),
        rack: "r1".to_owned(),
        key_storage: "ram".to_owned(),
        identity: inventory(n).identity,
        cpu_model: "EPYC".to_owned(),
        memory_bytes: 8 << 30,
    }
}
