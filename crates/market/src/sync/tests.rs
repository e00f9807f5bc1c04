mod forgotten;
mod former;

use futures_util::FutureExt as _;
use surplus_protocol::ids::{BootId, LeaseId};
use surplus_protocol::lease::{EndReason, GuestPhase, LeaseState, LeaseStatus, OnLostLink};

use super::*;
use crate::lease::Event;
use crate::memory::MemoryStore;
use crate::records::LeaseRecord;
use crate::store::Store as _;
use crate::suite::{
    PlainNotary, address, furnish, host_record, inventory, lease_record, moment, quiet, receipt,
    second, status, stored_lease, synced, usage_record,
};

fn run<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// A host on which a lease runs.
async fn running() -> (MemoryStore, HostRecord, LeaseRecord) {
    let store = MemoryStore::default();
    let host = host_record(1);
    let mut lease = lease_record(1, host.id);
    lease
        .apply(Event::Ticketed {
            boot: host.boot.unwrap(),
        })
        .unwrap();
    lease.apply(Event::Running { at: second(1) }).unwrap();
    lease.phase = Some(GuestPhase::Running);
    lease.detail = "said so".to_owned();
    furnish(
        &store,
        std::slice::from_ref(&host),
        std::slice::from_ref(&lease),
    )
    .await;
    (store, host, lease)
}

#[test]
fn an_unchanged_sync_writes_nothing() {
    run(async {
        let (store, host, lease) = running().await;
        let statuses = vec![status(lease.id, GuestPhase::Running)];
        let request = SyncRequest {
            leases: statuses,
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        assert!(!answer.wrote && !answer.urgent, "{answer:?}");
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn what_runs_is_ordered_again_only_where_the_order_may_not_have_arrived() {
    run(async {
        let (store, host, lease) = running().await;
        let tickets = async |observed_generation, phase| {
            let request = SyncRequest {
                observed_generation,
                leases: vec![status(lease.id, phase)],
                ..quiet(&host)
            };
            let answer = synced(&store, second(60), host.id, &request).await;
            answer.response.tickets.len()
        };
        let generation = host.generation;
        assert_eq!(tickets(generation, GuestPhase::Running).await, 0);
        // An agent that has only begun, and a marketplace that was restored.
        assert_eq!(tickets(0, GuestPhase::Running).await, 1);
        assert_eq!(tickets(generation + 1, GuestPhase::Running).await, 1);
        assert_eq!(tickets(generation, GuestPhase::Preparing).await, 1);
    });
}

/// Its store may be an older one, and another host may have the lease by now.
#[test]
fn a_marketplace_that_has_just_begun_orders_no_fenced_lease_that_the_host_does_not_speak_of() {
    run(async {
        let (store, host, lease) = running().await;
        let fenced = LeaseRecord {
            on_lost_link: OnLostLink::Fence { after_seconds: 60 },
            created_at: second(10),
            ..lease
        };
        let mut tx = store.begin().await.unwrap();
        tx.put_lease(&fenced).await.unwrap();
        tx.commit().await.unwrap();
        let tickets = async |since, now, statuses: &[LeaseStatus]| {
            let request = SyncRequest {
                leases: statuses.to_vec(),
                ..quiet(&host)
            };
            let moment = Moment {
                now: second(now),
                since: second(since),
            };
            let mut tx = store.begin().await.unwrap();
            let looked = look(&mut tx, &PlainNotary, moment, host.id, &request).await;
            let Outcome::Answer(answer) = looked.unwrap() else {
                panic!("no answer");
            };
            answer.response.tickets.len()
        };
        assert_eq!(tickets(20, 30, &[]).await, 0);
        // A host that had it would have been heard, or have stopped it.
        assert_eq!(tickets(20, 141, &[]).await, 1);
        let here = [status(fenced.id, GuestPhase::Preparing)];
        assert_eq!(tickets(20, 30, &here).await, 1, "it has it");
        assert_eq!(tickets(5, 30, &[]).await, 1, "it was made here");
    });
}

#[test]
fn absence_in_the_hosts_list_changes_nothing() {
    run(async {
        let (store, host, lease) = running().await;
        let answer = synced(&store, second(60), host.id, &quiet(&host)).await;
        assert!(!answer.wrote);
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn a_lease_that_nobody_here_knows_gets_no_tombstone() {
    run(async {
        let (store, host, _) = running().await;
        let statuses = vec![status(LeaseId::from_bytes([77; 16]), GuestPhase::Running)];
        let request = SyncRequest {
            leases: statuses,
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        assert!(answer.response.tombstones.is_empty());
        assert_eq!(answer.remarks.len(), 1);
    });
}

#[test]
fn a_new_boot_without_the_guest_ends_its_lease_and_asks_for_the_inventory() {
    run(async {
        let (store, host, lease) = running().await;
        let request = SyncRequest {
            boot: BootId::from_bytes([9; 16]),
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        assert!(answer.urgent && answer.response.want_inventory);
        assert!(answer.response.tickets.is_empty());
        let lease = stored_lease(&store, lease.id).await;
        assert_eq!(lease.life.state, LeaseState::Ended);
        assert_eq!(lease.life.end_reason, Some(EndReason::HostRebooted));
    });
}

#[test]
fn a_lease_not_yet_ticketed_outlives_a_reboot() {
    run(async {
        let store = MemoryStore::default();
        let (host, lease) = (host_record(1), lease_record(1, host_record(1).id));
        furnish(
            &store,
            std::slice::from_ref(&host),
            std::slice::from_ref(&lease),
        )
        .await;
        let request = SyncRequest {
            boot: BootId::from_bytes([9; 16]),
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        let ticket: Ticket = serde_json::from_str(&answer.response.tickets[0].0).unwrap();
        assert_eq!(ticket.boot, request.boot);
        assert_eq!(ticket.not_after, second(660));
        assert_eq!(
            stored_lease(&store, lease.id).await.life.boot,
            Some(request.boot)
        );
    });
}

#[test]
fn usage_and_receipts_sent_again_are_acknowledged_again_and_change_nothing() {
    run(async {
        let (store, host, lease) = running().await;
        let last = usage_record(lease.id, 1, 2, 2000);
        let request = SyncRequest {
            usage: vec![usage_record(lease.id, 1, 1, 1000)],
            receipts: vec![receipt(&host, last, EndReason::GuestStopped)],
            ..quiet(&host)
        };
        let first = synced(&store, second(60), host.id, &request).await;
        let kept = stored_lease(&store, lease.id).await;
        assert_eq!(kept.life.state, LeaseState::Settled);
        assert_eq!(kept.detail, "gone");
        let again = synced(&store, second(61), host.id, &request).await;
        assert!(!again.wrote);
        let first = SyncResponse {
            now: second(61),
            ..first.response
        };
        assert_eq!(again.response, first);
        assert_eq!(stored_lease(&store, lease.id).await, kept);
    });
}

#[test]
fn usage_that_comes_after_the_bill_was_closed_is_kept_and_not_billed() {
    run(async {
        let (store, host, lease) = running().await;
        let last = usage_record(lease.id, 1, 2, 2000);
        let receipts = vec![receipt(&host, last.clone(), EndReason::GuestStopped)];
        synced(
            &store,
            second(60),
            host.id,
            &SyncRequest {
                receipts,
                ..quiet(&host)
            },
        )
        .await;
        let usage = vec![usage_record(lease.id, 1, 3, 9000)];
        let late = SyncRequest {
            usage,
            ..quiet(&host)
        };
        let answer = synced(&store, second(61), host.id, &late).await;
        assert_eq!(answer.response.usage_acknowledged[0].seq, 3);
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.usage(lease.id).await.unwrap(), [last]);
    });
}

#[test]
fn a_guest_that_still_runs_though_its_lease_ended_gets_a_tombstone() {
    run(async {
        let (store, host, mut lease) = running().await;
        let (reason, at) = (EndReason::LinkLost, second(2));
        lease
            .apply(Event::Gone {
                reason,
                started_at: None,
                at,
                anew: false,
            })
            .unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.put_lease(&lease).await.unwrap();
        tx.commit().await.unwrap();
        let statuses = vec![status(lease.id, GuestPhase::Running)];
        let request = SyncRequest {
            leases: statuses,
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        assert_eq!(answer.response.tombstones[0].reason, EndReason::LinkLost);
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn another_hosts_lease_cannot_be_ended_or_metered() {
    run(async {
        let (store, _, lease) = running().await;
        let other = host_record(2);
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&other).await.unwrap();
        tx.commit().await.unwrap();
        let last = usage_record(lease.id, 1, 2, 2000);
        let request = SyncRequest {
            usage: vec![last.clone()],
            receipts: vec![receipt(&other, last, EndReason::GuestStopped)],
            leases: vec![status(lease.id, GuestPhase::Stopping)],
            inventory: Some(inventory(2)),
            ..quiet(&other)
        };
        let answer = synced(&store, second(60), other.id, &request).await;
        // Taken off the host's hands, and not believed.
        assert!(!answer.remarks.is_empty());
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn a_held_back_sync_of_a_former_boot_is_no_second_machine() {
    run(async {
        let (store, host, _) = running().await;
        let new = SyncRequest {
            boot: BootId::from_bytes([9; 16]),
            ..quiet(&host)
        };
        synced(&store, second(60), host.id, &new).await;
        for _ in 0..3 {
            let mut tx = store.begin().await.unwrap();
            let looked = look(
                &mut tx,
                &PlainNotary,
                moment(second(61)),
                host.id,
                &quiet(&host),
            )
            .await;
            assert!(matches!(looked, Ok(Outcome::Superseded)), "{looked:?}");
            tx.commit().await.unwrap();
        }
        let kept = store
            .read()
            .await
            .unwrap()
            .host(host.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(kept.state, HostState::Enrolled);
    });
}

#[test]
fn a_new_boot_ends_what_ran_on_the_voided_record_of_its_hardware() {
    run(async {
        let (store, old, lease) = running().await;
        let new = host_record(2);
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&HostRecord {
            state: HostState::Rejected,
            replaced_by: Some(new.id),
            ..old.clone()
        })
        .await
        .unwrap();
        tx.put_host(&HostRecord {
            boot: None,
            ..new.clone()
        })
        .await
        .unwrap();
        tx.commit().await.unwrap();
        synced(&store, second(60), new.id, &quiet(&new)).await;
        let lease = stored_lease(&store, lease.id).await;
        assert_eq!(lease.life.end_reason, Some(EndReason::HostRebooted));
        let old = store.read().await.unwrap().host(old.id).await.unwrap();
        assert_eq!(old.unwrap().replaced_by, None, "once");
    });
}

#[test]
fn an_overtaken_sync_brings_records_and_no_news() {
    run(async {
        let (store, host, lease) = running().await;
        let request = SyncRequest {
            capacity: Some(surplus_protocol::inventory::Capacity::default()),
            leases: vec![status(lease.id, GuestPhase::Stopping)],
            usage: vec![usage_record(lease.id, 1, 1, 5)],
            ..quiet(&host)
        };
        let mut tx = store.begin().await.unwrap();
        let caller = Caller {
            id: host.id,
            from: address(1),
        };
        let outcome = overtaken(&mut tx, &PlainNotary, moment(second(60)), caller, &request).await;
        tx.commit().await.unwrap();
        let Ok(Outcome::Answer(answer)) = outcome else {
            panic!("no answer")
        };
        assert_eq!(answer.response.usage_acknowledged.len(), 1);
        assert_eq!(stored_lease(&store, lease.id).await, lease);
        let stored = store.read().await.unwrap().host(host.id).await.unwrap();
        assert_eq!(stored.unwrap().capacity, host.capacity);
    });
}

#[test]
fn nonsense_is_acknowledged_cut_and_not_stored() {
    run(async {
        let (store, host, lease) = running().await;
        let stranger = LeaseId::from_bytes([77; 16]);
        let mut talk = status(lease.id, GuestPhase::Running);
        talk.detail = "x".repeat(1 << 20);
        talk.addresses = vec!["y".to_owned(); 100_000];
        let request = SyncRequest {
            leases: vec![talk],
            usage: vec![
                usage_record(lease.id, 0, 1, 5),
                usage_record(lease.id, 2, 1, 5),
                usage_record(stranger, 1, 1, 5),
            ],
            receipts: vec![receipt(
                &host,
                usage_record(stranger, 1, 2, 5),
                EndReason::Ended,
            )],
            ..quiet(&host)
        };
        let answer = synced(&store, second(60), host.id, &request).await;
        assert_eq!(answer.response.usage_acknowledged.len(), 3);
        assert_eq!(answer.response.receipts_acknowledged.len(), 1);
        let mut tx = store.read().await.unwrap();
        assert!(tx.usage(lease.id).await.unwrap().is_empty());
        assert!(tx.usage(stranger).await.unwrap().is_empty());
        drop(tx);
        let kept = stored_lease(&store, lease.id).await;
        assert!(kept.detail.len() <= 512 && kept.addresses.len() <= 1024);
    });
}
