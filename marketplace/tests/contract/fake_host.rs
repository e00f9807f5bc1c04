//! A scripted host: it enrols by real EST, and says in each sync what the test
//! wants it to say.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use surplus_https::{Body, Client, ClientError};
use surplus_pki::certificate::Role;
use surplus_pki::{Certificate, CertificateRequest, KeyPair, est, jws};
use surplus_protocol::agent::{ConsoleAck, SYNC_PATH, SyncRequest, SyncResponse};
use surplus_protocol::enrol::{EST_PATH, FACTS_HEADER, HostFacts};
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use surplus_protocol::inventory::{Capacity, HardwareIdentity, Inventory, KvmProbe, Resources};
use surplus_protocol::lease::{
    DiskEnd, EndReason, EndReceipt, Forward, GuestPhase, GuestPort, LeaseStatus, SignedReceipt,
    SignedTicket, Ticket, Transport, UsageRecord,
};

use crate::marketplace::Market;

pub(crate) const GIB: u64 = 1 << 30;

/// What a fake host sells.
pub(crate) const SELLABLE: Resources = Resources {
    vcpus: 4,
    memory_bytes: 8 * GIB,
    disk_bytes: 100 * GIB,
    addresses: 1,
};

/// What each guest costs beyond what it was sold.
pub(crate) const OVERHEAD: Resources = Resources {
    vcpus: 0,
    memory_bytes: 256 << 20,
    disk_bytes: 1 << 20,
    addresses: 0,
};

/// A machine with a key, as far as the marketplace can tell.
#[derive(Clone, Debug)]
pub(crate) struct FakeHost {
    pub(crate) id: HostId,
    pub(crate) key: KeyPair,
    pub(crate) certificate: Certificate,
    pub(crate) client: Client,
    pub(crate) boot: BootId,
    ca: Certificate,
    seq: u64,
    pub(crate) generation: u64,
}

/// A first enrolment with this key.
pub(crate) async fn enrol_with(
    market: &Market,
    key: &KeyPair,
    token: Option<&str>,
) -> Result<Option<Certificate>, ClientError> {
    enrol_as(market, key, token, HardwareIdentity::default()).await
}

/// What the firmware of a machine says.
pub(crate) fn machine(uuid: &str) -> HardwareIdentity {
    HardwareIdentity {
        system_uuid: Some(uuid.to_owned()),
        macs: vec!["02:00:00:00:00:01".to_owned()],
        ..HardwareIdentity::default()
    }
}

/// A first enrolment of a machine that says this of itself.
pub(crate) async fn enrol_as(
    market: &Market,
    key: &KeyPair,
    token: Option<&str>,
    identity: HardwareIdentity,
) -> Result<Option<Certificate>, ClientError> {
    let facts = HostFacts {
        site: "rack 1".to_owned(),
        key_storage: "ram".to_owned(),
        identity,
        ..HostFacts::default()
    };
    enrol_saying(market, key, token, &facts).await
}

/// A first enrolment with these facts.
pub(crate) async fn enrol_saying(
    market: &Market,
    key: &KeyPair,
    token: Option<&str>,
    facts: &HostFacts,
) -> Result<Option<Certificate>, ClientError> {
    let request = CertificateRequest::create(key, "new", &[]).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(
        FACTS_HEADER,
        HeaderValue::from_str(&facts.to_header()).unwrap(),
    );
    if let Some(token) = token {
        let basic = format!("Basic {}", STANDARD.encode(format!("host:{token}")));
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_str(&basic).unwrap(),
        );
    }
    let path = format!("{EST_PATH}/simpleenroll");
    let body = Body::from(est::encode_request(&request));
    let answer = market
        .stranger()
        .request(Method::POST, &path, headers, body)
        .await?;
    if answer.status() == StatusCode::ACCEPTED {
        return Ok(None);
    }
    let body = answer.bytes(1 << 20).await?;
    Ok(est::decode_certificates(&body).unwrap().into_iter().next())
}

impl FakeHost {
    /// A machine that has just enrolled with a token of its own.
    pub(crate) async fn enrolled(market: &Market) -> Self {
        let token = market.token(Some(1)).await;
        let key = KeyPair::generate().unwrap();
        let certificate = enrol_with(market, &key, Some(&token))
            .await
            .unwrap()
            .unwrap();
        Self::new(market, key, certificate)
    }

    /// A machine that has enrolled and offers [`SELLABLE`].
    pub(crate) async fn offering(market: &Market) -> Self {
        let mut host = Self::enrolled(market).await;
        let answer = host.sync(host.introduction()).await.unwrap();
        assert!(!answer.want_inventory);
        host
    }

    pub(crate) fn new(market: &Market, key: KeyPair, certificate: Certificate) -> Self {
        let client = market
            .builder()
            .identity(key.clone(), certificate.clone())
            .build()
            .unwrap();
        Self {
            id: certificate.common_name().unwrap().parse().unwrap(),
            key,
            certificate,
            client,
            boot: BootId::new_v4(),
            ca: market.ca(),
            seq: 0,
            generation: 0,
        }
    }

    /// The same host for a marketplace that was restarted.
    pub(crate) fn reconnect(&mut self, market: &Market) {
        let identity = (self.key.clone(), self.certificate.clone());
        self.client = market
            .builder()
            .identity(identity.0, identity.1)
            .build()
            .unwrap();
    }

    /// A sync that has nothing to say.
    pub(crate) fn nothing(&self) -> SyncRequest {
        SyncRequest {
            boot: self.boot,
            seq: self.seq + 1,
            observed_generation: self.generation,
            wait_seconds: 0,
            inventory: None,
            capacity: None,
            leases: Vec::new(),
            usage: Vec::new(),
            receipts: Vec::new(),
            tickets: None,
        }
    }

    /// A sync with inventory and capacity.
    pub(crate) fn introduction(&self) -> SyncRequest {
        let capacity = Capacity {
            generation: 1,
            sellable: SELLABLE,
            guest_overhead: OVERHEAD,
            ..Capacity::default()
        };
        let kvm = KvmProbe::Works { millis: 40 };
        let inventory = Inventory {
            kvm,
            ..Inventory::default()
        };
        SyncRequest {
            inventory: Some(inventory),
            capacity: Some(capacity),
            ..self.nothing()
        }
    }

    pub(crate) async fn sync(&mut self, request: SyncRequest) -> Result<SyncResponse, ClientError> {
        self.seq = request.seq;
        let answer: SyncResponse = self.client.post_json(SYNC_PATH, &request).await?;
        assert_eq!(answer.host, self.id);
        self.generation = answer.generation;
        Ok(answer)
    }

    /// The tickets of an answer, each signed by the marketplace for this host.
    pub(crate) fn tickets(&self, answer: &SyncResponse, now: Timestamp) -> Vec<Ticket> {
        let verify = |text: &str| -> Ticket {
            let ticket: Ticket =
                jws::verify_chained(text, &self.ca, now, Role::TicketSigner).unwrap();
            assert_eq!((ticket.host, ticket.boot), (self.id, self.boot));
            assert!(ticket.not_after > now && ticket.not_after <= ticket.ends_at);
            ticket
        };
        answer
            .tickets
            .iter()
            .map(|ticket| verify(&ticket.0))
            .collect()
    }

    /// Where its guest's SSH is reached.
    pub(crate) fn forward() -> Forward {
        Forward {
            guest: GuestPort {
                transport: Transport::Tcp,
                port: 22,
            },
            address: Ipv4Addr::new(192, 0, 2, 15),
            host_port: 16_384,
        }
    }

    pub(crate) fn status(lease: LeaseId, phase: GuestPhase) -> LeaseStatus {
        let addresses = vec!["192.0.2.9".to_owned()];
        LeaseStatus {
            lease,
            epoch: 1,
            phase,
            detail: "scripted".to_owned(),
            addresses,
            forwards: vec![Self::forward()],
        }
    }

    pub(crate) fn usage(lease: LeaseId, seq: u64, running_millis: u64, tx: u64) -> UsageRecord {
        UsageRecord {
            lease,
            epoch: 1,
            seq,
            measured_at: Timestamp::now(),
            running_millis,
            cpu_millis: running_millis / 10,
            rx_bytes: 0,
            tx_bytes: tx,
        }
    }

    /// The signed word that a guest is gone.
    pub(crate) fn receipt(&self, reason: EndReason, usage: UsageRecord) -> SignedReceipt {
        self.receipt_with(None, reason, usage)
    }

    /// The same with a ticket's claim.
    pub(crate) fn receipt_with(
        &self,
        claim: Option<SignedTicket>,
        reason: EndReason,
        usage: UsageRecord,
    ) -> SignedReceipt {
        let receipt = EndReceipt {
            claim,
            lease: usage.lease,
            epoch: usage.epoch,
            host: self.id,
            boot: self.boot,
            reason,
            detail: "the guest is gone".to_owned(),
            started_at: None,
            ended_at: Timestamp::now(),
            usage,
            disk: Some(DiskEnd::MemoryFreed),
        };
        SignedReceipt(jws::sign(&self.key, &[], &receipt).unwrap())
    }

    pub(crate) async fn write_console(
        &self,
        lease: LeaseId,
        offset: u64,
        text: &str,
    ) -> Result<u64, ClientError> {
        let path = format!("/agent/v1/leases/{lease}/1/console?offset={offset}");
        let body = Body::from(text.as_bytes().to_vec());
        let answer = self
            .client
            .request(Method::POST, &path, HeaderMap::new(), body)
            .await?;
        Ok(answer.json::<ConsoleAck>().await?.next_offset)
    }
}

/// A renewal of `host`'s certificate for `key`, which may be another.
pub(crate) async fn renew(host: &FakeHost, key: &KeyPair) -> Result<Certificate, ClientError> {
    let request = CertificateRequest::renew(key, &host.certificate).unwrap();
    let path = format!("{EST_PATH}/simplereenroll");
    let body = Body::from(est::encode_request(&request));
    let answer = host
        .client
        .request(Method::POST, &path, HeaderMap::new(), body)
        .await?;
    let body = answer.bytes(1 << 20).await?;
    Ok(est::decode_certificates(&body).unwrap().remove(0))
}

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
