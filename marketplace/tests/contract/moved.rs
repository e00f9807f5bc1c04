//! Leases that are lost with their host.

use std::time::Instant;

use http::{HeaderMap, Method};
use jiff::SignedDuration;
use surplus_https::{Body, Client, ClientError};
use surplus_protocol::agent::{ConsoleAck, SyncRequest, SyncResponse};
use surplus_protocol::api::{FormerPlacement, Host, Lease, Quote, QuoteRequest};
use surplus_protocol::ids::{BootId, LeaseId};
use surplus_protocol::lease::{
    EndReason, GuestPhase, LeaseState, LeaseStatus, OnLostLink, UsageRecord,
};

use crate::fake_host::{FakeHost, PATIENCE};
use crate::lease::{SMALL, bill, lease, order};
use crate::marketplace::{Market, digest, problem, upload};

/// A lease of a small guest that is fenced after a minute.
async fn rent(client: &Client) -> Lease {
    let bytes = b"a disk of some kind".to_vec();
    upload(client, "disk", digest(&bytes), bytes).await.unwrap();
    let request = QuoteRequest {
        resources: SMALL,
        seconds: 3600,
        on_lost_link: OnLostLink::Fence { after_seconds: 60 },
        site: None,
    };
    let quote: Quote = client.post_json("/api/v1/quotes", &request).await.unwrap();
    let order = order(&quote);
    client.post_json("/api/v1/leases", &order).await.unwrap()
}

/// A host on which such a lease runs.
async fn running(market: &Market) -> (FakeHost, LeaseId) {
    let mut host = FakeHost::offering(market).await;
    let id = rent(&market.admin).await.id;
    assert_eq!(takes(&mut host, market).await, (id, 1));
    runs(&mut host, id, 1).await;
    (host, id)
}

/// The one ticket that the host gets.
async fn takes(host: &mut FakeHost, market: &Market) -> (LeaseId, u64) {
    let answer = host.sync(host.nothing()).await.unwrap();
    let tickets = host.tickets(&answer, market.hands.now());
    assert_eq!(tickets.len(), 1);
    (tickets[0].lease, tickets[0].epoch)
}

/// The host says that the guest runs.
async fn runs(host: &mut FakeHost, id: LeaseId, epoch: u64) -> SyncResponse {
    let status = LeaseStatus {
        epoch,
        ..FakeHost::status(id, GuestPhase::Running)
    };
    let request = SyncRequest {
        leases: vec![status],
        ..host.nothing()
    };
    host.sync(request).await.unwrap()
}

/// The lease, once it is as it should be.
async fn once(client: &Client, id: LeaseId, is: impl Fn(&Lease) -> bool) -> Lease {
    let begun = Instant::now();
    loop {
        let seen = lease(client, id).await;
        if is(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "it is still {seen:?}");
        tokio::task::yield_now().await;
    }
}

async fn write_console(host: &FakeHost, id: LeaseId, epoch: u64) -> Result<u64, ClientError> {
    let path = format!("/agent/v1/leases/{id}/{epoch}/console?offset=0");
    let body = Body::from(b"hello".to_vec());
    let answer = host
        .client
        .request(Method::POST, &path, HeaderMap::new(), body)
        .await?;
    Ok(answer.json::<ConsoleAck>().await?.next_offset)
}

async fn metrics(market: &Market) -> String {
    let stranger = market.stranger();
    let answer = stranger.request(Method::GET, "/metrics", HeaderMap::new(), Body::empty());
    let text = answer.await.unwrap().bytes(1 << 20).await.unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

#[tokio::test]
async fn a_fenced_lease_is_run_by_another_host_and_billed_for_both() {
    let market = Market::start().await;
    let (mut one, id) = running(&market).await;
    let mut two = FakeHost::offering(&market).await;
    let before = lease(&market.admin, id).await;
    // The second host is never silent for long enough to be passed over.
    market.hands.forward(SignedDuration::from_secs(100));
    two.sync(two.nothing()).await.unwrap();
    assert_eq!(lease(&market.admin, id).await.epoch, 1);
    market.hands.forward(SignedDuration::from_secs(30));
    let moved = once(&market.admin, id, |lease| lease.epoch == 2).await;
    assert_eq!((moved.state, moved.host), (LeaseState::Reserved, two.id));
    assert_eq!(moved.ends_at, before.ends_at);
    let [
        FormerPlacement {
            epoch: 1,
            host,
            reason: EndReason::LinkLost,
            ..
        },
    ] = moved.former[..]
    else {
        panic!("{:?}", moved.former)
    };
    assert_eq!(host, one.id);
    assert_eq!(takes(&mut two, &market).await, (id, 2));
    runs(&mut two, id, 2).await;

    // The first host is back, and runs it still.
    let answer = runs(&mut one, id, 1).await;
    assert!(answer.tickets.is_empty());
    assert_eq!(
        (answer.tombstones[0].lease, answer.tombstones[0].epoch),
        (id, 1)
    );
    assert_eq!(write_console(&one, id, 1).await.unwrap(), 5);
    assert_eq!(problem(write_console(&one, id, 2).await).status, 404);
    assert_eq!(problem(write_console(&two, id, 1).await).status, 404);
    let last = FakeHost::usage(id, 1, 60_000, 0);
    let receipts = vec![one.receipt(EndReason::LinkLost, last)];
    let request = SyncRequest {
        receipts,
        ..one.nothing()
    };
    let answer = one.sync(request).await.unwrap();
    assert_eq!(answer.receipts_acknowledged[0].epoch, 1);
    let still = lease(&market.admin, id).await;
    assert_eq!((still.state, still.host), (LeaseState::Active, two.id));

    let last = UsageRecord {
        epoch: 2,
        ..FakeHost::usage(id, 1, 30_000, 0)
    };
    let receipts = vec![two.receipt(EndReason::GuestStopped, last)];
    let request = SyncRequest {
        receipts,
        ..two.nothing()
    };
    two.sync(request).await.unwrap();
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Settled);
    let bill = bill(&market.admin, id).await;
    assert_eq!((bill.closed, bill.lines[0].quantity), (true, 90_000));
    assert!(
        metrics(&market)
            .await
            .contains("surplus_leases_placed_anew_total 1")
    );
}

#[tokio::test]
async fn a_host_that_was_rebooted_takes_its_fenced_lease_again() {
    let market = Market::start().await;
    let (mut host, id) = running(&market).await;
    host.boot = BootId::new_v4();
    let answer = host.sync(host.nothing()).await.unwrap();
    assert!(answer.want_inventory && answer.tickets.is_empty());
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Lost);
    let market = market.restart().await;
    host.reconnect(&market);
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Lost);
    // The host is never silent for long enough to be passed over, whenever a
    // sweep comes.
    market.hands.forward(SignedDuration::from_secs(100));
    host.sync(host.introduction()).await.unwrap();
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Lost);
    // A host with a later placement would have been heard, or have stopped it.
    market.hands.forward(SignedDuration::from_secs(21));
    let again = once(&market.admin, id, |lease| lease.epoch == 2).await;
    assert_eq!((again.state, again.host), (LeaseState::Reserved, host.id));
    assert_eq!(takes(&mut host, &market).await, (id, 2));
    runs(&mut host, id, 2).await;
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Active);
}

#[tokio::test]
async fn a_waiting_host_hears_at_once_of_a_lease_that_was_lost_elsewhere() {
    let market = Market::start().await;
    let (one, id) = running(&market).await;
    let mut two = FakeHost::offering(&market).await;
    market.hands.forward(SignedDuration::from_secs(100));
    let request = SyncRequest {
        wait_seconds: 55,
        ..two.nothing()
    };
    let waiting = tokio::spawn(async move { (two.sync(request).await.unwrap(), two) });
    // It is heard before the first host counts as silent.
    let path = format!("/api/v1/hosts/{}", one.id);
    let silent = async || market.get::<Host>(&path).await.unwrap().unreachable;
    assert!(!silent().await);
    let asked = async {
        while !metrics(&market).await.contains("surplus_syncs_total 5") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    market.hands.forward(SignedDuration::from_secs(30));
    assert!(silent().await);
    let (answer, two) = tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
    let tickets = two.tickets(&answer, market.hands.now());
    assert_eq!((tickets[0].lease, tickets[0].epoch), (id, 2));
}

/// The store as it lay on disk when the marketplace was last stopped.
const BACKUP: &str = "store.db.backup";

/// A marketplace that keeps a backup of before any lease, and a host of it.
async fn backed_up() -> (Market, FakeHost) {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let market = market
        .restart_after(|data| {
            std::fs::copy(data.join("store.db"), data.join(BACKUP)).unwrap();
        })
        .await;
    host.reconnect(&market);
    host.sync(host.introduction()).await.unwrap();
    (market, host)
}

/// The same from its backup: it knows of no lease.
async fn restored(market: Market, host: &mut FakeHost) -> Market {
    let market = market
        .restart_after(|data| {
            std::fs::copy(data.join(BACKUP), data.join("store.db")).unwrap();
            for rest in ["store.db-wal", "store.db-shm"] {
                let _ = std::fs::remove_file(data.join(rest));
            }
        })
        .await;
    host.reconnect(&market);
    let leases: Vec<Lease> = market.get("/api/v1/leases").await.unwrap();
    assert!(leases.is_empty(), "{leases:?}");
    market
}

#[tokio::test]
async fn a_lease_that_ended_after_the_backup_is_billed_by_the_receipt_that_its_host_kept() {
    let (market, mut host) = backed_up().await;
    let id = rent(&market.admin).await.id;
    let answer = host.sync(host.nothing()).await.unwrap();
    let claim = host.tickets(&answer, market.hands.now()).remove(0).claim;
    assert!(claim.is_some());
    runs(&mut host, id, 1).await;
    let market = restored(market, &mut host).await;
    for claim in [None, claim] {
        let usage = FakeHost::usage(id, 1, 60_000, 0);
        let request = SyncRequest {
            receipts: vec![host.receipt_with(claim.clone(), EndReason::GuestStopped, usage)],
            ..host.nothing()
        };
        host.sync(request).await.unwrap();
        let leases: Vec<Lease> = market.get("/api/v1/leases").await.unwrap();
        assert_eq!(leases.len(), usize::from(claim.is_some()), "{leases:?}");
    }
    let bill = bill(&market.admin, id).await;
    assert!(bill.closed && bill.lines[0].quantity == 60_000, "{bill:?}");
}

#[tokio::test]
async fn a_marketplace_that_is_restored_from_a_backup_learns_of_a_lease_from_its_host() {
    let (market, mut host) = backed_up().await;
    let id = rent(&market.admin).await.id;
    let answer = host.sync(host.nothing()).await.unwrap();
    assert_eq!(answer.tickets.len(), 1);
    let (tickets, before) = (answer.tickets, {
        runs(&mut host, id, 1).await;
        lease(&market.admin, id).await
    });
    let market = restored(market, &mut host).await;

    let answer = runs(&mut host, id, 1).await;
    assert!(answer.want_tickets && answer.tombstones.is_empty());
    // A ticket that somebody else signed is no proof.
    let mut forged = tickets.clone();
    let end = forged[0].0.pop().unwrap();
    forged[0].0.push(if end == 'A' { 'B' } else { 'A' });
    for shown in [forged, tickets] {
        let request = SyncRequest {
            leases: vec![FakeHost::status(id, GuestPhase::Running)],
            tickets: Some(shown),
            ..host.nothing()
        };
        host.sync(request).await.unwrap();
        let leases: Vec<Lease> = market.get("/api/v1/leases").await.unwrap();
        if leases.is_empty() {
            continue;
        }
        let known = &leases[0];
        assert_eq!((known.id, known.host), (id, host.id));
        assert_eq!(known.state, LeaseState::Active);
        assert_eq!((known.ends_at, known.price), (before.ends_at, before.price));
    }
    let usage = FakeHost::usage(id, 1, 60_000, 0);
    let request = SyncRequest {
        receipts: vec![host.receipt(EndReason::GuestStopped, usage)],
        ..host.nothing()
    };
    host.sync(request).await.unwrap();
    let bill = bill(&market.admin, id).await;
    assert!(bill.closed && bill.lines[0].quantity == 60_000, "{bill:?}");
}
