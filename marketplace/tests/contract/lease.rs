//! The life of a lease.

use http::{HeaderMap, Method};
use jiff::SignedDuration;
use surplus_https::{Body, Client, ClientError};
use surplus_market::pricing;
use surplus_marketplace::Limits;
use surplus_protocol::Money;
use surplus_protocol::agent::SyncRequest;
use surplus_protocol::api::{
    Bill, CONSOLE_ENDED, CONSOLE_OFFSET, CreateLease, Host, Lease, Offer, Quote, QuoteRequest,
};
use surplus_protocol::ids::{BootId, LeaseId};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{
    EndReason, Firmware, GuestPhase, GuestPort, LeaseState, OnLostLink, Transport,
};

use crate::fake_host::{FakeHost, GIB, OVERHEAD, PATIENCE, SELLABLE};
use crate::marketplace::{Market, digest, problem, upload};

pub(crate) const SMALL: Resources = Resources {
    vcpus: 1,
    memory_bytes: GIB,
    disk_bytes: GIB,
    addresses: 0,
};

async fn quote(client: &Client, resources: Resources) -> Result<Quote, ClientError> {
    let on_lost_link = OnLostLink::Keep;
    let request = QuoteRequest {
        resources,
        seconds: 3600,
        on_lost_link,
        site: None,
    };
    client.post_json("/api/v1/quotes", &request).await
}

pub(crate) fn order(quote: &Quote) -> CreateLease {
    CreateLease {
        quote: quote.id,
        name: "guest-1".to_owned(),
        image: "disk".to_owned(),
        firmware: Firmware::Bios,
        ssh_keys: vec!["ssh-ed25519 AAAA test".to_owned()],
        user_data: Some("#cloud-config\n".to_owned()),
        ports: vec![GuestPort {
            transport: Transport::Tcp,
            port: 22,
        }],
    }
}

/// A lease of a small guest, from quote to order.
async fn rent(client: &Client) -> Lease {
    let bytes = b"a disk of some kind".to_vec();
    upload(client, "disk", digest(&bytes), bytes).await.unwrap();
    let quote = quote(client, SMALL).await.unwrap();
    client
        .post_json("/api/v1/leases", &order(&quote))
        .await
        .unwrap()
}

pub(crate) async fn lease(client: &Client, id: LeaseId) -> Lease {
    client
        .get_json(&format!("/api/v1/leases/{id}"))
        .await
        .unwrap()
}

async fn end(client: &Client, id: LeaseId) -> Lease {
    client
        .post_json(&format!("/api/v1/leases/{id}/end"), &())
        .await
        .unwrap()
}

pub(crate) async fn bill(client: &Client, id: LeaseId) -> Bill {
    client
        .get_json(&format!("/api/v1/leases/{id}/bill"))
        .await
        .unwrap()
}

/// The host takes its ticket and says that the guest runs.
async fn run(market: &Market, host: &mut FakeHost, id: LeaseId) {
    let answer = host.sync(host.nothing()).await.unwrap();
    let tickets = host.tickets(&answer, market.hands.now());
    assert!(tickets.iter().any(|ticket| ticket.lease == id));
    host.sync(running(host, id)).await.unwrap();
}

fn running(host: &FakeHost, id: LeaseId) -> SyncRequest {
    SyncRequest {
        leases: vec![FakeHost::status(id, GuestPhase::Running)],
        ..host.nothing()
    }
}

#[tokio::test]
async fn a_lease_lives_from_offer_to_closed_bill() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let buyer = market.buyer("alice").await;
    let offers: Vec<Offer> = buyer.get_json("/api/v1/offers").await.unwrap();
    assert_eq!(offers[0].host, host.id);
    assert_eq!(offers[0].accelerator, "kvm");

    let made = rent(&buyer).await;
    assert_eq!((made.state, made.host), (LeaseState::Reserved, host.id));
    let answer = host.sync(host.nothing()).await.unwrap();
    let ticket = host.tickets(&answer, market.hands.now()).remove(0);
    assert_eq!(
        (ticket.lease, ticket.epoch, ticket.ends_at),
        (made.id, 1, made.ends_at)
    );
    assert_eq!(ticket.guest.ssh_keys, ["ssh-ed25519 AAAA test"]);
    let path = format!("/agent/v1/images/{}", ticket.guest.image);
    let image = host.client.download(&path, 2).await.unwrap();
    assert_eq!((image.offset(), image.total_length()), (2, Some(19)));
    assert_eq!(&image.bytes(100).await.unwrap()[..], b"disk of some kind");
    assert_eq!(lease(&buyer, made.id).await.state, LeaseState::Preparing);

    let usage = vec![FakeHost::usage(made.id, 1, 60_000, 0)];
    let answer = host
        .sync(SyncRequest {
            usage,
            ..running(&host, made.id)
        })
        .await
        .unwrap();
    assert_eq!(answer.usage_acknowledged[0].seq, 1);
    let active = lease(&buyer, made.id).await;
    assert_eq!(
        (active.state, active.phase),
        (LeaseState::Active, Some(GuestPhase::Running))
    );
    assert_eq!(active.addresses, ["192.0.2.9"]);
    assert_eq!(active.forwards, [FakeHost::forward()]);
    assert!(!bill(&buyer, made.id).await.closed);
    assert_eq!(
        host.write_console(made.id, 0, "hello from the guest\n")
            .await
            .unwrap(),
        21
    );

    assert_eq!(end(&buyer, made.id).await.state, LeaseState::Draining);
    let answer = host.sync(running(&host, made.id)).await.unwrap();
    assert!(answer.tickets.is_empty());
    assert_eq!(answer.tombstones[0].reason, EndReason::Ended);
    let last = FakeHost::usage(made.id, 2, 90_000, 2_000_000_000);
    let receipts = vec![host.receipt(EndReason::Ended, last)];
    let answer = host
        .sync(SyncRequest {
            receipts,
            ..host.nothing()
        })
        .await
        .unwrap();
    assert_eq!(answer.receipts_acknowledged[0].lease, made.id);
    assert!(answer.tombstones.is_empty());

    let ended = lease(&buyer, made.id).await;
    assert_eq!(
        (ended.state, ended.end_reason),
        (LeaseState::Settled, Some(EndReason::Ended))
    );
    let bill = bill(&buyer, made.id).await;
    let time = pricing::time_lines(&pricing::default_book(), SMALL, 90_000);
    // 2 GB sent at 10,000 micro-units each; received: nothing.
    assert_eq!(bill.total, pricing::total(&time) + Money(20_000));
    assert!(bill.closed);
    assert_eq!(bill.lines[0].quantity, 90_000);
    let offers: Vec<Offer> = buyer.get_json("/api/v1/offers").await.unwrap();
    assert_eq!(offers[0].free.vcpus, SELLABLE.vcpus);
}

#[tokio::test]
async fn a_buyer_holds_only_so_many_quotes_open() {
    let limits = Limits {
        open_quotes: 2,
        ..Limits::default()
    };
    let market = Market::start_with(limits).await;
    FakeHost::offering(&market).await;
    let (alice, bob) = (market.buyer("alice").await, market.buyer("bob").await);
    for _ in 0..2 {
        quote(&alice, SMALL).await.unwrap();
    }
    let error = quote(&alice, SMALL).await.unwrap_err();
    let refused = error.problem().unwrap();
    assert_eq!((refused.status, refused.name()), (429, "too-many-quotes"));
    assert!(error.retry_after().is_some());
    // Another buyer has quotes of its own, and the operator any number.
    quote(&bob, SMALL).await.unwrap();
    quote(&market.admin, SMALL).await.unwrap();
    // Those that ran out do not count: what refuses now is the silent host.
    market.hands.forward(SignedDuration::from_mins(6));
    assert_eq!(problem(quote(&alice, SMALL).await).name(), "no-capacity");
}

#[tokio::test]
async fn an_image_that_a_live_lease_needs_stays_until_the_lease_ended() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let buyer = market.buyer("alice").await;
    let id = rent(&buyer).await.id;
    let delete = async |what: &str| {
        let path = format!("/api/v1/images/{what}");
        let headers = HeaderMap::new();
        let gone = buyer.request(Method::DELETE, &path, headers, Body::empty());
        gone.await.unwrap();
    };
    let files = || {
        let directory = market.dir.path().join("data/images");
        std::fs::read_dir(directory).unwrap().count()
    };
    delete("disk").await;
    assert_eq!(files(), 1, "the guest's image is gone");
    let path = format!("/agent/v1/images/{}", digest(b"a disk of some kind"));
    host.client.download(&path, 0).await.unwrap();
    run(&market, &mut host, id).await;
    let receipts = vec![host.receipt(EndReason::GuestStopped, FakeHost::usage(id, 1, 5, 0))];
    let gone = SyncRequest {
        receipts,
        ..host.nothing()
    };
    host.sync(gone).await.unwrap();
    // The next tidying removes what nothing needs any more.
    upload(&buyer, "other", digest(b"other"), b"other".to_vec())
        .await
        .unwrap();
    delete("other").await;
    assert_eq!(files(), 0);
}

#[tokio::test]
async fn a_waiting_host_hears_of_a_lease_at_once() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let buyer = market.buyer("alice").await;
    let waiting = tokio::spawn(async move {
        let request = SyncRequest {
            wait_seconds: 55,
            ..host.nothing()
        };
        (host.sync(request).await.unwrap(), host)
    });
    let made = rent(&buyer).await;
    let (answer, host) = tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(host.tickets(&answer, market.hands.now())[0].lease, made.id);
}

#[tokio::test]
async fn a_console_is_followed_to_its_end() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let buyer = market.buyer("alice").await;
    let id = rent(&buyer).await.id;
    run(&market, &mut host, id).await;
    let read = async |offset: u64, wait: u64| {
        let path = format!("/api/v1/leases/{id}/console?offset={offset}&wait={wait}");
        let answer = buyer
            .request(Method::GET, &path, HeaderMap::new(), Body::empty())
            .await;
        let answer = answer.unwrap();
        let header = |name| answer.headers()[name].to_str().unwrap().to_owned();
        let (offset, ended) = (header(CONSOLE_OFFSET), header(CONSOLE_ENDED));
        let bytes = answer.bytes(1 << 20).await.unwrap();
        (offset.parse::<u64>().unwrap(), ended == "true", bytes)
    };
    host.write_console(id, 0, "one").await.unwrap();
    // The answer was lost: the host repeats what it sent, and goes on.
    assert_eq!(host.write_console(id, 0, "one two").await.unwrap(), 7);
    assert_eq!(read(0, 0).await, (0, false, "one two".into()));
    let (next, _) = tokio::join!(read(7, 30), host.write_console(id, 7, " three"));
    assert_eq!(next, (7, false, " three".into()));

    let receipts = vec![host.receipt(EndReason::GuestStopped, FakeHost::usage(id, 1, 5, 0))];
    let gone = SyncRequest {
        receipts,
        ..host.nothing()
    };
    let (last, _) = tokio::join!(read(13, 30), host.sync(gone));
    assert_eq!(last, (13, true, "".into()));
}

#[tokio::test]
async fn a_lease_larger_than_any_host_is_refused_with_each_hosts_reason() {
    let market = Market::start().await;
    let host = FakeHost::offering(&market).await;
    let silent = FakeHost::enrolled(&market).await;
    let large = Resources {
        vcpus: 9,
        memory_bytes: 64 * GIB,
        disk_bytes: GIB,
        addresses: 0,
    };
    let refused = problem(quote(&market.admin, large).await);
    assert_eq!((refused.status, refused.name()), (409, "no-capacity"));
    assert_eq!(refused.reasons.len(), 2);
    let reason = |host: &FakeHost| {
        let id = host.id.to_string();
        refused
            .reasons
            .iter()
            .find(|reason| reason.contains(&id))
            .unwrap()
            .clone()
    };
    assert!(
        reason(&host).contains("9 vCPUs wanted, 4 free"),
        "{}",
        reason(&host)
    );
    assert!(
        reason(&host).contains("64 GiB of memory wanted"),
        "{}",
        reason(&host)
    );
    assert!(
        reason(&silent).contains("has not said yet"),
        "{}",
        reason(&silent)
    );
    assert!(
        refused.next.contains("4 vCPUs, 7936 MiB of memory"),
        "{}",
        refused.next
    );
}

#[tokio::test]
async fn a_host_is_sold_to_its_last_byte_and_not_beyond() {
    let market = Market::start().await;
    FakeHost::offering(&market).await;
    let whole = SELLABLE.checked_sub(OVERHEAD).unwrap();
    quote(&market.admin, whole).await.unwrap();
    assert_eq!(
        problem(quote(&market.admin, SMALL).await).name(),
        "no-capacity"
    );
    // The quote is not taken, and its reservation ends.
    market.hands.forward(SignedDuration::from_secs(400));
    let host = FakeHost::offering(&market).await;
    assert_eq!(quote(&market.admin, whole).await.unwrap().host, host.id);
}

#[tokio::test]
async fn an_own_address_is_rented_priced_and_gone_and_needs_no_ports() {
    let market = Market::start().await;
    FakeHost::offering(&market).await;
    let bytes = b"disk".to_vec();
    let admin = &market.admin;
    upload(admin, "disk", digest(&bytes), bytes).await.unwrap();
    let with = |addresses| Resources { addresses, ..SMALL };
    let two = problem(quote(admin, with(2)).await);
    assert!(two.detail.contains("at most 1 address"), "{two:?}");
    let plain = quote(admin, with(0)).await.unwrap();
    let quoted = quote(admin, with(1)).await.unwrap();
    assert!(quoted.price > plain.price);
    let gone = problem(quote(admin, with(1)).await);
    assert_eq!(gone.name(), "no-capacity");
    let reasons = gone.reasons.join("; ");
    assert!(
        reasons.contains("1 own address wanted, 0 free"),
        "{reasons}"
    );
    assert!(
        gone.next.contains("behind the host's address"),
        "{}",
        gone.next
    );

    let take = async |order: &CreateLease| -> Result<Lease, ClientError> {
        admin.post_json("/api/v1/leases", order).await
    };
    let ports = problem(take(&order(&quoted)).await);
    assert!(ports.detail.contains("leave `ports` out"), "{ports:?}");
    let without = CreateLease {
        ports: Vec::new(),
        ..order(&quoted)
    };
    let made = take(&without).await.unwrap();
    assert_eq!(made.resources, with(1));
    assert_eq!(lease(admin, made.id).await.resources, with(1));
}

#[tokio::test]
async fn a_quote_is_taken_once_and_by_its_owner() {
    let market = Market::start().await;
    FakeHost::offering(&market).await;
    let buyer = market.buyer("alice").await;
    let bytes = b"disk".to_vec();
    upload(&buyer, "disk", digest(&bytes), bytes).await.unwrap();
    let quoted = quote(&buyer, SMALL).await.unwrap();
    let take = async |client: &Client| -> Result<Lease, ClientError> {
        client.post_json("/api/v1/leases", &order(&quoted)).await
    };
    let other = market.buyer("bob").await;
    assert_eq!(problem(take(&other).await).status, 404);
    let made = take(&buyer).await.unwrap();
    assert_eq!(made.price, quoted.price);
    assert_eq!(problem(take(&buyer).await).name(), "quote-taken");
    let path = format!("/api/v1/leases/{}", made.id);
    assert_eq!(problem(other.get_json::<Lease>(&path).await).status, 404);
    let seen: Vec<Lease> = other.get_json("/api/v1/leases").await.unwrap();
    assert!(seen.is_empty());
}

#[tokio::test]
async fn a_new_boot_without_the_guest_ends_its_lease() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let id = rent(&market.admin).await.id;
    run(&market, &mut host, id).await;
    // Absence in the same boot changes nothing.
    host.sync(host.nothing()).await.unwrap();
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Active);
    host.boot = BootId::new_v4();
    let answer = host.sync(host.nothing()).await.unwrap();
    assert!(answer.want_inventory && answer.tickets.is_empty());
    let ended = lease(&market.admin, id).await;
    assert_eq!(ended.end_reason, Some(EndReason::HostRebooted));
}

#[tokio::test]
async fn a_silent_hosts_lease_is_not_freed() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let id = rent(&market.admin).await.id;
    run(&market, &mut host, id).await;
    market.hands.forward(SignedDuration::from_hours(2));
    // The sweep orders the stop; only the host's word ends it.
    let drained = async {
        loop {
            let lease = lease(&market.admin, id).await;
            if lease.state != LeaseState::Active {
                return lease;
            }
            tokio::task::yield_now().await;
        }
    };
    let lease = tokio::time::timeout(PATIENCE, drained).await.unwrap();
    assert_eq!(
        (lease.state, lease.unreachable),
        (LeaseState::Draining, true)
    );
    let host: Host = market
        .get(&format!("/api/v1/hosts/{}", host.id))
        .await
        .unwrap();
    assert!(host.unreachable);
    assert_eq!(host.leases, 1);
}

#[tokio::test]
async fn another_hosts_receipt_and_console_are_not_taken() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let id = rent(&market.admin).await.id;
    run(&market, &mut host, id).await;
    let mut other = FakeHost::enrolled(&market).await;
    let receipts = vec![
        other.receipt(EndReason::GuestStopped, FakeHost::usage(id, 1, 1, 0)),
        host.receipt(EndReason::GuestStopped, FakeHost::usage(id, 1, 1, 0)),
    ];
    let usage = vec![FakeHost::usage(id, 7, 3_600_000, 0)];
    let answer = other
        .sync(SyncRequest {
            receipts,
            usage,
            ..other.introduction()
        })
        .await;
    let answer = answer.unwrap();
    // Taken off its hands, so that it is not sent for ever; not believed.
    assert_eq!(answer.receipts_acknowledged.len(), 1);
    assert_eq!(problem(other.write_console(id, 0, "x").await).status, 404);
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Active);
    assert!(bill(&market.admin, id).await.usage.is_empty());
}

#[tokio::test]
async fn usage_sent_twice_is_billed_once_and_a_restart_keeps_everything() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let id = rent(&market.admin).await.id;
    run(&market, &mut host, id).await;
    let usage = vec![
        FakeHost::usage(id, 1, 1000, 0),
        FakeHost::usage(id, 2, 2000, 0),
    ];
    let request = SyncRequest {
        usage,
        ..running(&host, id)
    };
    host.sync(request.clone()).await.unwrap();
    host.sync(request).await.unwrap();
    host.write_console(id, 0, "kept").await.unwrap();
    let before = bill(&market.admin, id).await;
    assert_eq!(before.lines[0].quantity, 2000);

    let market = market.restart().await;
    host.reconnect(&market);
    assert_eq!(bill(&market.admin, id).await, before);
    assert_eq!(lease(&market.admin, id).await.state, LeaseState::Active);
    let anew = SyncRequest {
        observed_generation: 0,
        ..running(&host, id)
    };
    let answer = host.sync(anew).await.unwrap();
    assert!(!answer.want_inventory);
    assert_eq!(host.tickets(&answer, market.hands.now())[0].lease, id);
    assert_eq!(host.write_console(id, 0, "kept").await.unwrap(), 4);
}

#[tokio::test]
async fn an_operators_word_that_a_silent_host_is_off_ends_its_leases() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    let id = rent(&market.admin).await.id;
    run(&market, &mut host, id).await;
    let path = format!("/api/v1/hosts/{}/confirm-off", host.id);
    let alive = market.post::<Host>(&path, &()).await;
    assert_eq!(problem(alive).name(), "host-alive");
    market.hands.forward(SignedDuration::from_secs(300));
    let off: Host = market.post(&path, &()).await.unwrap();
    assert_eq!(off.leases, 0);
    let ended = lease(&market.admin, id).await;
    assert_eq!(ended.end_reason, Some(EndReason::Reclaimed));
    // It was not off after all: what it runs shall stop.
    let answer = host.sync(running(&host, id)).await.unwrap();
    assert_eq!(answer.tombstones[0].lease, id);
}
