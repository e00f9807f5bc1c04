use std::sync::Arc;

use jiff::SignedDuration;
use newtype_uuid::GenericUuid as _;
use surplus_pki::Authority;
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use surplus_protocol::inventory::KvmProbe;
use surplus_protocol::lease::{EndReason, GuestPhase, LeaseStatus, UsageRecord};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fixture::FakeGuests;
use super::*;
use crate::identity::fixture;
use crate::stages::Recorded;

const DEADLINE: Duration = Duration::from_secs(300);

type Reply = tokio::sync::oneshot::Sender<Result<SyncResponse, ClientError>>;

/// Hands each request to the test, which answers or lets it hang.
#[derive(Debug)]
struct FakeHub(mpsc::UnboundedSender<(SyncRequest, Reply)>);

impl Hub for FakeHub {
    async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, ClientError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.send((request.clone(), reply)).unwrap();
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }
}

struct Scene {
    requests: mpsc::UnboundedReceiver<(SyncRequest, Reply)>,
    guests: FakeGuests,
    report: watch::Sender<GuestsReport>,
    stranger: Arc<Notify>,
    offer: watch::Sender<Offer>,
    stop: watch::Sender<bool>,
    consoles: Arc<Recorded>,
    credentials: watch::Sender<Credentials>,
    boot: BootId,
    host: HostId,
    running: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

fn scene() -> Scene {
    let now = Timestamp::now();
    let authority = Authority::create(now).unwrap();
    let identity = fixture::identity(&authority, now, SignedDuration::from_hours(1));
    let (host, boot) = (
        identity.host,
        BootId::from_untyped_uuid(uuid::Uuid::from_u128(9)),
    );
    let text = format!(
        "version = 1\n[marketplace]\nurl = \"https://127.0.0.1:1\"\nca = \"\"\"\n{}\"\"\"\n",
        authority.certificate().to_pem()
    );
    let site = surplus_site::Site::parse(&text).unwrap();
    let road = crate::hub::Road::new(&site.marketplace).unwrap();
    let (credentials, shown) = watch::channel(Credentials::new(&road, identity).unwrap());
    let (requests, received) = mpsc::unbounded_channel();
    let (report, reported) = watch::channel(GuestsReport::default());
    let (offer, offered) = watch::channel(Offer::default());
    let (stop, stopping) = watch::channel(false);
    let (guests, consoles) = (FakeGuests::default(), Arc::new(Recorded::default()));
    let stranger = Arc::new(Notify::new());
    let directory = tempfile::tempdir().unwrap();
    let syncing = Syncing {
        hub: FakeHub(requests),
        workload: guests.clone(),
        credentials: shown,
        verifier: Verifier::new(authority.certificate().clone(), host, boot),
        fences: FenceBook::open(directory.path().join("fences.json")),
        offer: offered,
        report: reported,
        time: MarketplaceTime::open(directory.path().join("time")),
        stranger: Arc::clone(&stranger),
        consoles: consoles.clone(),
        board: Board::at(directory.path().join("status.json")),
    };
    let running = tokio::spawn(syncing.run(Session::new(boot, 0), stopping));
    Scene {
        requests: received,
        guests,
        report,
        stranger,
        offer,
        stop,
        consoles,
        credentials,
        boot,
        host,
        running,
        _directory: directory,
    }
}

impl Scene {
    async fn request(&mut self) -> (SyncRequest, Reply) {
        tokio::time::timeout(DEADLINE, self.requests.recv())
            .await
            .unwrap()
            .unwrap()
    }

    fn answer(&self, generation: u64) -> SyncResponse {
        SyncResponse {
            host: self.host,
            now: jiff::Timestamp::now(),
            generation,
            want_inventory: false,
            want_tickets: false,
            tickets: Vec::new(),
            tombstones: Vec::new(),
            usage_acknowledged: Vec::new(),
            receipts_acknowledged: Vec::new(),
        }
    }
}

fn lease() -> LeaseId {
    LeaseId::from_untyped_uuid(uuid::Uuid::from_u128(5))
}

fn running() -> GuestsReport {
    let status = LeaseStatus {
        lease: lease(),
        epoch: 1,
        phase: GuestPhase::Running,
        detail: String::new(),
        addresses: Vec::new(),
        forwards: Vec::new(),
    };
    GuestsReport {
        leases: vec![status],
        ..GuestsReport::default()
    }
}

#[tokio::test(start_paused = true)]
async fn news_of_a_guest_drops_the_held_poll_and_goes_up_at_once() {
    let mut scene = scene();
    let (first, reply) = scene.request().await;
    assert_eq!((first.seq, first.wait_seconds), (1, 0));
    assert!(first.inventory.is_some());
    reply.send(Ok(scene.answer(3))).unwrap();
    let (held, held_reply) = scene.request().await;
    assert_eq!((held.observed_generation, held.wait_seconds), (3, 55));
    let before = tokio::time::Instant::now();
    scene.report.send_replace(running());
    let (news, _reply) = scene.request().await;
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!((news.leases.len(), news.wait_seconds), (1, 0));
    assert!(held_reply.is_closed());
    assert!(
        scene
            .consoles
            .lines()
            .iter()
            .any(|line| line.contains("stage=lease") && line.contains("phase=running"))
    );
}

#[tokio::test(start_paused = true)]
async fn receipts_go_up_signed_by_the_host_and_their_acknowledgement_comes_back() {
    let mut scene = scene();
    let usage = UsageRecord {
        lease: lease(),
        epoch: 1,
        seq: 4,
        measured_at: Timestamp::now(),
        running_millis: 1,
        cpu_millis: 1,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    let receipt = EndReceipt {
        claim: None,
        lease: lease(),
        epoch: 1,
        host: scene.host,
        boot: scene.boot,
        reason: EndReason::Ended,
        detail: String::new(),
        started_at: None,
        ended_at: Timestamp::now(),
        usage: usage.clone(),
        disk: None,
    };
    scene.report.send_replace(GuestsReport {
        usage: vec![usage],
        receipts: vec![receipt.clone()],
        ..GuestsReport::default()
    });
    let (request, reply) = scene.request().await;
    let spki = scene.credentials.borrow().identity.key.spki_der();
    let sent: EndReceipt = jws::verify_with_spki(&request.receipts[0].0, &spki).unwrap();
    assert_eq!(sent, receipt);
    assert_eq!(request.usage.len(), 1);
    let acks = SyncResponse {
        usage_acknowledged: vec![UsageAck {
            lease: lease(),
            epoch: 1,
            seq: 4,
        }],
        receipts_acknowledged: vec![ReceiptAck {
            lease: lease(),
            epoch: 1,
        }],
        ..scene.answer(1)
    };
    reply.send(Ok(acks.clone())).unwrap();
    scene.request().await;
    let acknowledged = scene.guests.acknowledged.lock().unwrap();
    assert_eq!(
        acknowledged[0],
        (acks.usage_acknowledged, acks.receipts_acknowledged)
    );
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_is_handed_on_and_a_ticket_that_nobody_signed_is_not() {
    let mut scene = scene();
    let (_, reply) = scene.request().await;
    let tombstone = surplus_protocol::agent::Tombstone {
        lease: lease(),
        epoch: 1,
        reason: EndReason::Ended,
    };
    let answer = SyncResponse {
        tickets: vec![surplus_protocol::lease::SignedTicket("a.b.c".to_owned())],
        tombstones: vec![tombstone.clone()],
        ..scene.answer(1)
    };
    reply.send(Ok(answer)).unwrap();
    scene.request().await;
    let orders = scene.guests.orders.lock().unwrap();
    assert_eq!(
        *orders,
        [Desired {
            tickets: Vec::new(),
            tombstones: vec![tombstone],
            ..Desired::default()
        }]
    );
    assert!(
        scene
            .consoles
            .lines()
            .iter()
            .any(|line| line.contains("a ticket is not believed"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_offer_is_said_once_the_marketplace_has_it() {
    let mut scene = scene();
    let (_, reply) = scene.request().await;
    reply.send(Ok(scene.answer(1))).unwrap();
    let (_, _held) = scene.request().await;
    assert!(
        scene.consoles.lines().is_empty(),
        "{:#?}",
        scene.consoles.lines()
    );
    scene.offer.send_modify(|offer| {
        offer.inventory.kvm = KvmProbe::Works { millis: 3 };
        offer.capacity.generation = 2;
        offer.capacity.sellable.vcpus = 1;
    });
    let (told, reply) = scene.request().await;
    assert_eq!(
        told.capacity.map(|capacity| capacity.sellable.vcpus),
        Some(1)
    );
    assert!(scene.consoles.lines().is_empty());
    reply.send(Ok(scene.answer(1))).unwrap();
    scene.request().await;
    let lines = scene.consoles.lines();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains("stage=offering") && lines[0].contains("vcpus=1"),
        "{}",
        lines[0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_marketplace_that_is_away_is_asked_again_and_hears_everything_when_it_is_back() {
    let mut scene = scene();
    for _ in 0..5 {
        let (request, reply) = scene.request().await;
        assert!(request.inventory.is_some());
        reply
            .send(Err(ClientError::Timeout {
                url: "https://hub".to_owned(),
                seconds: 1,
            }))
            .unwrap();
    }
    let (request, reply) = scene.request().await;
    assert_eq!(request.seq, 6);
    assert!(request.inventory.is_some());
    reply.send(Ok(scene.answer(1))).unwrap();
    let (quiet, _reply) = scene.request().await;
    assert!(quiet.inventory.is_none());
    let complaints = scene.consoles.lines();
    assert!(
        complaints[0].contains("stage=sync") && complaints[0].contains("next="),
        "{complaints:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_tells_the_last_state_without_waiting() {
    let mut scene = scene();
    let (_, reply) = scene.request().await;
    reply.send(Ok(scene.answer(1))).unwrap();
    let (_, _held) = scene.request().await;
    scene.stop.send_replace(true);
    let (last, _never) = scene.request().await;
    assert_eq!(last.wait_seconds, 0);
    tokio::time::timeout(DEADLINE, scene.running)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_because_the_register_knows_no_such_host_is_heard_and_others_are_not() {
    let mut scene = scene();
    for name in ["host-pending", "not-registered"] {
        let stranger = Arc::clone(&scene.stranger);
        let heard = stranger.notified();
        let (_, reply) = scene.request().await;
        let problem = surplus_protocol::Problem::new(403, name, "", "no", "");
        reply
            .send(Err(ClientError::Problem {
                problem,
                retry_after: None,
            }))
            .unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(1), heard).await;
        assert_eq!(heard.is_ok(), name == "not-registered");
    }
}
