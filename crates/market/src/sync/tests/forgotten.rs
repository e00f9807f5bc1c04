//! What a store that was restored from a backup learns from its hosts.

use surplus_protocol::lease::{LeaseStatus, OnLostLink};

use super::*;
use crate::bill;
use crate::lease::Lease;

/// The first host's ticket for the lease, made out to this host and epoch.
async fn ticket(store: &MemoryStore, host: &HostRecord, epoch: u64) -> SignedTicket {
    let one = host_record(1);
    let answer = synced(store, second(60), one.id, &quiet(&one)).await;
    let mut ticket: Ticket = serde_json::from_str(&answer.response.tickets[0].0).unwrap();
    (ticket.host, ticket.boot, ticket.epoch) = (host.id, host.boot.unwrap(), epoch);
    SignedTicket(serde_json::to_string(&ticket).unwrap())
}

/// What the host says that runs the lease with this epoch.
fn says(host: &HostRecord, lease: &LeaseRecord, epoch: u64) -> SyncRequest {
    let status = LeaseStatus {
        epoch,
        ..status(lease.id, GuestPhase::Running)
    };
    SyncRequest {
        leases: vec![status],
        ..quiet(host)
    }
}

async fn put(store: &MemoryStore, host: &HostRecord, lease: Option<&LeaseRecord>) {
    let mut tx = store.begin().await.unwrap();
    tx.put_host(host).await.unwrap();
    if let Some(lease) = lease {
        tx.put_lease(lease).await.unwrap();
    }
    tx.commit().await.unwrap();
}

fn showing(request: &SyncRequest, ticket: SignedTicket) -> SyncRequest {
    SyncRequest {
        tickets: Some(vec![ticket]),
        ..request.clone()
    }
}

#[test]
fn a_lease_that_was_forgotten_is_asked_for_and_is_as_it_was() {
    run(async {
        let (store, host, lease) = running().await;
        let ticket = ticket(&store, &host, 1).await;
        let older = MemoryStore::default();
        furnish(&older, std::slice::from_ref(&host), &[]).await;
        let request = says(&host, &lease, 1);
        let asked = synced(&older, second(70), host.id, &request).await;
        assert!(asked.response.want_tickets && asked.urgent);
        assert!(asked.response.tombstones.is_empty());
        let usage = vec![usage_record(lease.id, 1, 7, 50_000)];
        let shown = SyncRequest {
            usage,
            ..showing(&request, ticket.clone())
        };
        let answer = synced(&older, second(71), host.id, &shown).await;
        assert!(!answer.response.want_tickets && answer.urgent);
        assert_eq!(answer.response.tickets.len(), 1, "it is desired again");
        let known = stored_lease(&older, lease.id).await;
        let expected = LeaseRecord {
            life: Lease {
                started_at: Some(second(71)),
                ..lease.life.clone()
            },
            quote_expires_at: lease.created_at,
            ..lease.clone()
        };
        assert_eq!(known, expected);
        let mut tx = older.read().await.unwrap();
        assert_eq!(tx.usage(lease.id).await.unwrap()[0].running_millis, 50_000);
        drop(tx);
        let again = synced(&older, second(72), host.id, &showing(&request, ticket)).await;
        assert!(!again.wrote, "once");
    });
}

#[test]
fn a_later_placement_than_is_known_takes_the_known_ones_place() {
    run(async {
        let (store, one, lease) = running().await;
        let two = host_record(2);
        let lease = LeaseRecord {
            on_lost_link: OnLostLink::Fence { after_seconds: 60 },
            ..lease
        };
        put(&store, &two, Some(&lease)).await;
        let ticket = ticket(&store, &two, 3).await;
        let request = says(&two, &lease, 3);
        let asked = synced(&store, second(70), two.id, &request).await;
        assert!(asked.response.want_tickets);
        synced(&store, second(71), two.id, &showing(&request, ticket)).await;
        let known = stored_lease(&store, lease.id).await;
        assert_eq!((known.host, known.life.epoch), (two.id, 3));
        assert_eq!(known.life.state, LeaseState::Active);
        assert!(known.was_on(one.id, 1), "its usage counts");
        // The former host is told to stop what it may still run.
        let former = synced(&store, second(72), one.id, &says(&one, &lease, 1)).await;
        assert_eq!(former.response.tombstones[0].epoch, 1);
        let mut tx = store.read().await.unwrap();
        assert!(bill::bill_of(&mut tx, &known).await.is_ok());
    });
}

#[test]
fn a_later_placement_of_a_lease_that_is_over_is_told_to_stop() {
    run(async {
        let (store, host, mut lease) = running().await;
        let ticket = ticket(&store, &host, 2).await;
        lease
            .apply(Event::Gone {
                reason: EndReason::Ended,
                started_at: None,
                at: second(61),
                anew: false,
            })
            .unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.put_lease(&lease).await.unwrap();
        tx.commit().await.unwrap();
        let shown = showing(&says(&host, &lease, 2), ticket);
        let answer = synced(&store, second(70), host.id, &shown).await;
        let stone = &answer.response.tombstones[0];
        assert_eq!((stone.lease, stone.epoch), (lease.id, 2));
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

#[test]
fn a_host_cannot_take_a_lease_with_another_hosts_ticket_or_without_one() {
    run(async {
        let (store, host, lease) = running().await;
        let ticket = ticket(&store, &host, 2).await;
        let thief = host_record(2);
        put(&store, &thief, None).await;
        let request = says(&thief, &lease, 2);
        for shown in [Some(vec![ticket]), Some(Vec::new()), None] {
            let request = SyncRequest {
                tickets: shown,
                ..request.clone()
            };
            synced(&store, second(70), thief.id, &request).await;
            assert_eq!(stored_lease(&store, lease.id).await, lease);
        }
    });
}

/// The host's word that a placement of the lease has ended, with the ticket's claim.
fn ended(
    host: &HostRecord,
    lease: &LeaseRecord,
    claim: Option<SignedTicket>,
    epoch: u64,
) -> SyncRequest {
    let usage = usage_record(lease.id, epoch, 3, 90_000);
    let signed = receipt(host, usage, EndReason::Ended);
    let mut receipt: EndReceipt = serde_json::from_str(&signed.0).unwrap();
    receipt.claim = claim;
    SyncRequest {
        receipts: vec![SignedReceipt(serde_json::to_string(&receipt).unwrap())],
        ..quiet(host)
    }
}

#[test]
fn a_ticket_carries_its_claim_without_the_buyers_secrets_until_its_guest_runs() {
    run(async {
        let store = MemoryStore::default();
        let host = host_record(1);
        furnish(
            &store,
            std::slice::from_ref(&host),
            &[lease_record(1, host.id)],
        )
        .await;
        let answer = synced(&store, second(10), host.id, &quiet(&host)).await;
        let ticket: Ticket = serde_json::from_str(&answer.response.tickets[0].0).unwrap();
        assert!(ticket.guest.user_data.is_some());
        let claim: Ticket = serde_json::from_str(&ticket.claim.unwrap().0).unwrap();
        assert_eq!(
            (claim.lease, claim.epoch, claim.terms),
            (ticket.lease, ticket.epoch, ticket.terms)
        );
        assert!(claim.guest.user_data.is_none() && claim.guest.ssh_keys.is_empty());
        let lease = stored_lease(&store, ticket.lease).await;
        let anew = SyncRequest {
            observed_generation: 0,
            ..says(&host, &lease, 1)
        };
        let answer = synced(&store, second(11), host.id, &anew).await;
        let ticket: Ticket = serde_json::from_str(&answer.response.tickets[0].0).unwrap();
        assert_eq!(ticket.claim, None, "it has it");
    });
}

#[test]
fn a_lease_that_was_taken_and_ended_after_the_backup_is_billed_by_its_receipt() {
    run(async {
        let (store, host, lease) = running().await;
        let claim = ticket(&store, &host, 1).await;
        let older = MemoryStore::default();
        furnish(&older, std::slice::from_ref(&host), &[]).await;
        let answer = synced(
            &older,
            second(70),
            host.id,
            &ended(&host, &lease, Some(claim), 1),
        )
        .await;
        assert_eq!(answer.response.receipts_acknowledged.len(), 1);
        let known = stored_lease(&older, lease.id).await;
        assert_eq!(known.life.state, LeaseState::Settled);
        assert_eq!((known.owner, known.price), (lease.owner, lease.price));
        let mut tx = older.read().await.unwrap();
        assert_eq!(tx.usage(lease.id).await.unwrap()[0].running_millis, 90_000);
    });
}

#[test]
fn a_later_placement_that_ended_after_the_backup_is_known_by_its_receipt() {
    run(async {
        let (store, _, lease) = running().await;
        let two = host_record(2);
        put(&store, &two, None).await;
        let claim = ticket(&store, &two, 3).await;
        synced(
            &store,
            second(70),
            two.id,
            &ended(&two, &lease, Some(claim), 3),
        )
        .await;
        let known = stored_lease(&store, lease.id).await;
        assert_eq!((known.host, known.life.epoch), (two.id, 3));
        assert!(!known.life.is_live(), "{:?}", known.life.state);
    });
}

#[test]
fn a_receipt_without_a_claim_or_with_anothers_ends_nothing() {
    run(async {
        let (store, host, lease) = running().await;
        let (one, two) = (ticket(&store, &host, 3).await, host_record(2));
        put(&store, &two, None).await;
        let lower = ticket(&store, &two, 2).await;
        for claim in [
            None,
            Some(one),
            Some(lower),
            Some(SignedTicket("forged".into())),
        ] {
            synced(&store, second(70), two.id, &ended(&two, &lease, claim, 3)).await;
            assert_eq!(stored_lease(&store, lease.id).await, lease);
        }
    });
}
