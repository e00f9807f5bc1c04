//! What hosts say of leases that were lost on them, and that others run since.

use surplus_protocol::lease::{LeaseStatus, OnLostLink};

use super::*;
use crate::bill;
use crate::presence::Presence;
use crate::pricing::default_book;
use crate::sweep::sweep;

/// Two hosts and a lease under `fence` that runs on the first.
async fn fenced() -> (MemoryStore, [HostRecord; 2], LeaseRecord) {
    let (store, one, lease) = running().await;
    let two = host_record(2);
    let lease = LeaseRecord {
        on_lost_link: OnLostLink::Fence { after_seconds: 60 },
        ..lease
    };
    let mut tx = store.begin().await.unwrap();
    tx.put_host(&two).await.unwrap();
    tx.put_lease(&lease).await.unwrap();
    tx.commit().await.unwrap();
    (store, [one, two], lease)
}

/// A sweep of a marketplace that the second host called just now.
async fn swept(store: &MemoryStore, at: i64) {
    let mut tx = store.begin().await.unwrap();
    let mut presence = Presence::new(second(0));
    presence.answered(host_record(2).id, second(at));
    sweep(&mut tx, &presence, second(at), &default_book())
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// The same, and the second host runs the lease since with epoch 2.
async fn moved() -> (MemoryStore, [HostRecord; 2], LeaseRecord) {
    let (store, [one, two], lease) = fenced().await;
    swept(&store, 121).await;
    let answer = synced(&store, second(122), two.id, &quiet(&two)).await;
    let ticket: Ticket = serde_json::from_str(&answer.response.tickets[0].0).unwrap();
    assert_eq!((ticket.epoch, ticket.ends_at), (2, lease.ends_at));
    let request = SyncRequest {
        leases: vec![of_epoch(2, &lease)],
        ..quiet(&two)
    };
    synced(&store, second(123), two.id, &request).await;
    let lease = stored_lease(&store, lease.id).await;
    assert_eq!(lease.life.state, LeaseState::Active);
    (store, [one, two], lease)
}

fn of_epoch(epoch: u64, lease: &LeaseRecord) -> LeaseStatus {
    LeaseStatus {
        epoch,
        ..status(lease.id, GuestPhase::Running)
    }
}

async fn running_millis(store: &MemoryStore, lease: &LeaseRecord) -> u64 {
    let mut tx = store.read().await.unwrap();
    let bill = bill::bill_of(&mut tx, lease).await.unwrap();
    bill.lines[0].quantity
}

#[test]
fn a_former_hosts_usage_and_receipt_are_billed_once_and_end_nothing() {
    run(async {
        let (store, [one, two], lease) = moved().await;
        let last = usage_record(lease.id, 1, 2, 2000);
        let late = SyncRequest {
            usage: vec![usage_record(lease.id, 1, 1, 1000)],
            receipts: vec![receipt(&one, last, EndReason::LinkLost)],
            ..quiet(&one)
        };
        let first = synced(&store, second(200), one.id, &late).await;
        assert!(first.remarks.is_empty(), "{:?}", first.remarks);
        let acknowledged = &first.response.usage_acknowledged;
        assert_eq!((acknowledged[0].epoch, acknowledged[0].seq), (1, 1));
        assert_eq!(first.response.receipts_acknowledged[0].epoch, 1);
        let again = synced(&store, second(201), one.id, &late).await;
        assert!(!again.wrote);
        let first = SyncResponse {
            now: second(201),
            ..first.response
        };
        assert_eq!(again.response, first);
        assert_eq!(stored_lease(&store, lease.id).await, lease);

        let usage = vec![usage_record(lease.id, 2, 1, 500)];
        let request = SyncRequest {
            usage,
            ..quiet(&two)
        };
        synced(&store, second(202), two.id, &request).await;
        assert_eq!(running_millis(&store, &lease).await, 2500);
        // Both together cost no more than the window that was sold.
        let usage = vec![usage_record(lease.id, 2, 2, 3_600_000)];
        let request = SyncRequest {
            usage,
            ..quiet(&two)
        };
        synced(&store, second(203), two.id, &request).await;
        assert_eq!(running_millis(&store, &lease).await, 3_600_000);
    });
}

#[test]
fn a_former_host_that_still_runs_it_gets_a_tombstone_for_its_epoch() {
    run(async {
        let (store, [one, _], lease) = moved().await;
        let request = SyncRequest {
            leases: vec![of_epoch(1, &lease)],
            ..quiet(&one)
        };
        let answer = synced(&store, second(200), one.id, &request).await;
        let [tombstone] = &answer.response.tombstones[..] else {
            panic!("{:?}", answer.response)
        };
        assert_eq!((tombstone.lease, tombstone.epoch), (lease.id, 1));
        assert_eq!(tombstone.reason, EndReason::LinkLost);
        assert!(answer.response.tickets.is_empty() && answer.remarks.is_empty());
        assert_eq!(stored_lease(&store, lease.id).await, lease);
        // A sync that was held back says the same when it is let go.
        let mut tx = store.begin().await.unwrap();
        let looked = look(&mut tx, &PlainNotary, moment(second(201)), one.id, &request).await;
        let Ok(Outcome::Answer(looked)) = looked else {
            panic!("no answer")
        };
        assert_eq!(looked.response.tombstones, answer.response.tombstones);
    });
}

#[test]
fn a_host_that_never_held_an_epoch_is_remarked_and_billed_nothing() {
    run(async {
        let (store, [one, two], lease) = moved().await;
        let stranger = host_record(3);
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&stranger).await.unwrap();
        tx.commit().await.unwrap();
        for (host, epoch) in [
            (&one, 2),
            (&two, 1),
            (&two, 3),
            (&stranger, 1),
            (&stranger, 2),
        ] {
            let last = usage_record(lease.id, epoch, 9, 2000);
            let request = SyncRequest {
                leases: vec![of_epoch(epoch, &lease)],
                usage: vec![usage_record(lease.id, epoch, 8, 1000)],
                receipts: vec![receipt(host, last, EndReason::GuestStopped)],
                ..quiet(host)
            };
            let answer = synced(&store, second(200), host.id, &request).await;
            assert_eq!(answer.remarks.len(), 3, "{:?}", answer.remarks);
            assert_eq!(answer.response.receipts_acknowledged.len(), 1);
            assert!(answer.response.tombstones.is_empty() || host.id != stranger.id);
        }
        let mut tx = store.read().await.unwrap();
        assert!(tx.usage(lease.id).await.unwrap().is_empty());
        assert!(tx.receipts(lease.id).await.unwrap().is_empty());
        drop(tx);
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn a_reboot_under_fence_loses_the_lease_and_the_next_sync_writes_nothing() {
    run(async {
        let (store, [one, _], lease) = fenced().await;
        let request = SyncRequest {
            boot: BootId::from_bytes([9; 16]),
            ..quiet(&one)
        };
        let answer = synced(&store, second(60), one.id, &request).await;
        assert!(answer.response.tickets.is_empty());
        let lost = stored_lease(&store, lease.id).await;
        assert_eq!(lost.life.state, LeaseState::Lost);
        assert_eq!((lost.phase, lost.life.epoch), (None, 1));
        // It says so still, and its guest is not wanted any more.
        let request = SyncRequest {
            leases: vec![of_epoch(1, &lease)],
            ..request
        };
        let answer = synced(&store, second(61), one.id, &request).await;
        assert!(!answer.wrote && answer.response.tickets.is_empty());
        assert_eq!(
            answer.response.tombstones[0].reason,
            EndReason::HostRebooted
        );
        swept(&store, 121).await;
        let placed = stored_lease(&store, lease.id).await;
        assert_eq!((placed.life.epoch, placed.host), (2, host_record(2).id));
    });
}

#[test]
fn a_receipt_of_the_epoch_before_does_not_end_the_lease_on_the_same_host() {
    run(async {
        let (store, [_, two], lease) = moved().await;
        let rebooted = HostRecord {
            boot: Some(BootId::from_bytes([9; 16])),
            ..two.clone()
        };
        let hello = SyncRequest {
            inventory: Some(inventory(2)),
            capacity: two.capacity.clone(),
            ..quiet(&rebooted)
        };
        synced(&store, second(150), two.id, &hello).await;
        swept(&store, 151).await;
        synced(&store, second(152), two.id, &quiet(&rebooted)).await;
        let again = stored_lease(&store, lease.id).await;
        assert_eq!((again.host, again.life.epoch), (two.id, 3));
        // Kept through the reboot, and sent only now.
        let last = usage_record(lease.id, 2, 1, 500);
        let request = SyncRequest {
            receipts: vec![receipt(&two, last, EndReason::GuestStopped)],
            ..quiet(&rebooted)
        };
        let answer = synced(&store, second(153), two.id, &request).await;
        assert!(answer.remarks.is_empty(), "{:?}", answer.remarks);
        assert_eq!(stored_lease(&store, lease.id).await, again);
        assert_eq!(running_millis(&store, &again).await, 500);
    });
}

#[test]
fn a_receipt_that_says_the_link_was_lost_loses_the_lease_and_one_of_the_guest_ends_it() {
    run(async {
        for (reason, state) in [
            (EndReason::LinkLost, LeaseState::Lost),
            (EndReason::HostRebooted, LeaseState::Lost),
            (EndReason::GuestStopped, LeaseState::Settled),
            (EndReason::StartFailed, LeaseState::Settled),
            (EndReason::Reclaimed, LeaseState::Settled),
        ] {
            let (store, [one, _], lease) = fenced().await;
            let last = usage_record(lease.id, 1, 1, 1000);
            let request = SyncRequest {
                receipts: vec![receipt(&one, last, reason)],
                ..quiet(&one)
            };
            let answer = synced(&store, second(60), one.id, &request).await;
            assert!(answer.remarks.is_empty(), "{:?}", answer.remarks);
            let lease = stored_lease(&store, lease.id).await;
            assert_eq!(lease.life.state, state, "{reason:?}");
        }
    });
}

#[test]
fn a_bill_is_closed_by_receipts_only_once_each_placement_has_its_own() {
    run(async {
        let (store, [one, two], lease) = moved().await;
        let last = usage_record(lease.id, 2, 1, 500);
        let request = SyncRequest {
            receipts: vec![receipt(&two, last, EndReason::GuestStopped)],
            ..quiet(&two)
        };
        synced(&store, second(200), two.id, &request).await;
        let ended = stored_lease(&store, lease.id).await;
        assert_eq!(ended.life.state, LeaseState::Ended);
        assert_eq!(ended.life.end_reason, Some(EndReason::GuestStopped));

        let last = usage_record(lease.id, 1, 2, 2000);
        let request = SyncRequest {
            receipts: vec![receipt(&one, last, EndReason::LinkLost)],
            ..quiet(&one)
        };
        synced(&store, second(201), one.id, &request).await;
        let settled = stored_lease(&store, lease.id).await;
        assert_eq!(settled.life.state, LeaseState::Settled);
        assert_eq!(settled.life.end_reason, Some(EndReason::GuestStopped));
        assert_eq!(running_millis(&store, &settled).await, 2500);
    });
}
