//! Whole lives of leases, over any store.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use surplus_protocol::agent::SyncRequest;
use surplus_protocol::api::{CreateLease, CreateToken, QuoteRequest};
use surplus_protocol::ids::{BootId, HostId, LeaseId, QuoteId, TokenId};
use surplus_protocol::lease::{EndReason, Firmware, ImageFormat, LeaseState, OnLostLink};

use super::{
    SMALL, applicant, capacity, digest, furnish, host_record, inventory, key_record, lease_record,
    quiet, receipt, second, stored_lease, synced, usage_record,
};
use crate::enrol::enrol;
use crate::presence::Presence;
use crate::records::{HostRecord, ImageRecord, LeaseRecord};
use crate::rent::{self, Asker};
use crate::store::{LeaseFilter, Store, Tx};
use crate::sweep::sweep;
use crate::{bill, pricing, token};

pub async fn a_lease_lives_from_token_to_bill<S: Store>(store: &S) {
    furnish(store, &[], &[]).await;
    let (now, book) = (second(0), pricing::default_book());
    let mut presence = Presence::new(now);
    let image = ImageRecord {
        digest: digest(5),
        name: "debian".to_owned(),
        format: ImageFormat::Raw,
        size_bytes: 100,
        virtual_bytes: 100,
        owner: key_record(1).id,
        public: false,
        added_at: now,
    };
    let order = CreateToken {
        name: "rack".to_owned(),
        uses: Some(1),
        expires_at: None,
        networks: Vec::new(),
    };
    let mut tx = store.begin().await.unwrap();
    token::create(&mut tx, now, TokenId::nil(), digest(1), order)
        .await
        .unwrap();
    tx.put_image(&image).await.unwrap();
    let fresh = HostId::from_bytes([1; 16]);
    let mut host = enrol(&mut tx, &presence, now, fresh, &applicant(1))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    host.boot = Some(BootId::from_bytes([1; 16]));
    let hello = SyncRequest {
        inventory: Some(inventory(1)),
        capacity: Some(capacity()),
        ..quiet(&host)
    };
    assert!(synced(store, now, host.id, &hello).await.wrote);
    presence.answered(host.id, now);

    let asker = Asker {
        open_quotes: Some(1),
        owner: key_record(1).id,
        quote: QuoteId::from_bytes([1; 16]),
        lease: LeaseId::from_bytes([1; 16]),
    };
    let request = QuoteRequest {
        resources: SMALL,
        seconds: 3600,
        on_lost_link: OnLostLink::Keep,
        site: None,
    };
    let mut tx = store.begin().await.unwrap();
    rent::quote(&mut tx, &presence, now, asker, &request, &book)
        .await
        .unwrap();
    let order = CreateLease {
        quote: asker.quote,
        name: "guest".to_owned(),
        image: "debian".to_owned(),
        firmware: Firmware::Bios,
        ssh_keys: Vec::new(),
        user_data: None,
        ports: Vec::new(),
    };
    let lease = rent::take(&mut tx, now, asker.owner, order).await.unwrap();
    tx.commit().await.unwrap();
    let answer = synced(store, now, host.id, &quiet(&host)).await;
    assert_eq!(answer.response.tickets.len(), 1);
    let last = usage_record(lease.id, 1, 1, 60_000);
    let receipts = vec![receipt(&host, last, EndReason::GuestStopped)];
    synced(
        store,
        second(30),
        host.id,
        &SyncRequest {
            receipts,
            ..quiet(&host)
        },
    )
    .await;

    let lease = stored_lease(store, lease.id).await;
    assert_eq!(lease.life.state, LeaseState::Settled);
    assert_eq!(lease.life.started_at, Some(second(5)));
    let mut tx = store.read().await.unwrap();
    let bill = bill::bill_of(&mut tx, &lease).await.unwrap();
    assert!(bill.closed);
    assert_eq!(bill.lines[0].quantity, 60_000);
    assert_eq!(bill, bill::bill(&lease, &book, bill.usage.clone()));
}

pub async fn a_lease_that_is_lost_with_its_host_is_placed_anew_and_billed_for_both<S: Store>(
    store: &S,
) {
    let (one, two) = (host_record(1), host_record(2));
    let lease = LeaseRecord {
        on_lost_link: OnLostLink::Fence { after_seconds: 60 },
        ..lease_record(1, one.id)
    };
    let hosts = [one.clone(), two.clone()];
    furnish(store, &hosts, std::slice::from_ref(&lease)).await;
    let used = |host: &HostRecord, epoch, running_millis| SyncRequest {
        usage: vec![usage_record(lease.id, epoch, 1, running_millis)],
        ..quiet(host)
    };
    synced(store, second(1), one.id, &quiet(&one)).await;
    synced(store, second(60), one.id, &used(&one, 1, 50_000)).await;

    let mut presence = Presence::new(second(0));
    presence.answered(one.id, second(60));
    presence.answered(two.id, second(180));
    let mut tx = store.begin().await.unwrap();
    let swept = sweep(&mut tx, &presence, second(181), &pricing::default_book()).await;
    tx.commit().await.unwrap();
    assert_eq!(swept.unwrap().placed.len(), 1);
    let mut tx = store.read().await.unwrap();
    for (host, live) in [(&one, 0), (&two, 1)] {
        let leases = tx.leases(LeaseFilter::LiveOn(host.id)).await.unwrap();
        assert_eq!(leases.len(), live);
    }
    drop(tx);
    let answer = synced(store, second(182), two.id, &quiet(&two)).await;
    assert_eq!(answer.response.tickets.len(), 1);
    synced(store, second(300), two.id, &used(&two, 2, 100_000)).await;
    let last = usage_record(lease.id, 1, 2, 70_000);
    let receipts = vec![receipt(&one, last, EndReason::LinkLost)];
    let late = SyncRequest {
        receipts,
        ..quiet(&one)
    };
    synced(store, second(400), one.id, &late).await;

    let lease = stored_lease(store, lease.id).await;
    assert_eq!((lease.host, lease.life.epoch), (two.id, 2));
    assert!(lease.life.is_placed());
    let mut tx = store.read().await.unwrap();
    let bill = bill::bill_of(&mut tx, &lease).await.unwrap();
    assert_eq!(bill.lines[0].quantity, 170_000);
    assert_eq!(tx.receipts(lease.id).await.unwrap(), [1]);
}
