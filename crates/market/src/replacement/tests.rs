use futures_util::FutureExt as _;
use proptest::prelude::*;
use surplus_protocol::ids::BootId;
use surplus_protocol::inventory::{KvmProbe, Resources};

use super::*;
use crate::capacity::Room;
use crate::memory::MemoryStore;
use crate::pricing::default_book;
use crate::rent;
use crate::store::{LeaseFilter, Store as _};
use crate::suite::{
    SMALL, capacity, furnish, host_record, inventory, lease_record, second, stored_lease,
};
use crate::sweep::{Swept, sweep};

const FENCE: OnLostLink = OnLostLink::Fence { after_seconds: 60 };

fn run<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// Lease `n`, running on the host under this clause.
fn running(n: u8, host: &HostRecord, on_lost_link: OnLostLink) -> LeaseRecord {
    let mut lease = LeaseRecord {
        on_lost_link,
        ..lease_record(n, host.id)
    };
    let boot = host.boot.unwrap();
    lease.apply(Event::Ticketed { boot }).unwrap();
    lease.apply(Event::Running { at: second(1) }).unwrap();
    lease
}

/// The same, lost when its host came back from a reboot at `second(100)`.
fn lost(n: u8, host: &HostRecord) -> LeaseRecord {
    let mut lease = running(n, host, FENCE);
    let why = "the host came back from a reboot without it";
    lease
        .lose(EndReason::HostRebooted, None, second(100), why)
        .unwrap();
    lease
}

async fn with(hosts: &[HostRecord], leases: &[LeaseRecord]) -> MemoryStore {
    let store = MemoryStore::default();
    furnish(&store, hosts, leases).await;
    store
}

/// A sweep of a marketplace that all hosts but `silent` called just now.
async fn swept(store: &MemoryStore, at: i64, silent: &[HostId]) -> Swept {
    let mut tx = store.begin().await.unwrap();
    let mut presence = Presence::new(second(0));
    for host in tx.hosts().await.unwrap() {
        if !silent.contains(&host.id) {
            presence.answered(host.id, second(at));
        }
    }
    let swept = sweep(&mut tx, &presence, second(at), &default_book()).await;
    tx.commit().await.unwrap();
    swept.unwrap()
}

async fn generation(store: &MemoryStore, id: HostId) -> u64 {
    let host = store.read().await.unwrap().host(id).await.unwrap();
    host.unwrap().generation
}

#[test]
fn a_fenced_lease_goes_to_another_host_and_both_hosts_are_told() {
    run(async {
        let (one, two) = (host_record(1), host_record(2));
        let lease = running(1, &one, FENCE);
        let store = with(&[one.clone(), two.clone()], std::slice::from_ref(&lease)).await;
        assert_eq!(swept(&store, 120, &[one.id]).await.changed, 0);
        let swept = swept(&store, 121, &[one.id]).await;
        assert_eq!(swept.wake, [one.id, two.id]);
        let placed = Placed {
            lease: lease.id,
            epoch: 2,
            from: one.id,
            to: two.id,
        };
        assert_eq!(swept.placed, [placed]);
        let moved = stored_lease(&store, lease.id).await;
        assert_eq!(
            (moved.life.state, moved.life.epoch),
            (LeaseState::Reserved, 2)
        );
        assert_eq!((moved.host, moved.life.boot), (two.id, None));
        assert_eq!(moved.ends_at, lease.ends_at, "its window goes on");
        assert_eq!(moved.life.started_at, Some(second(1)));
        assert!(moved.was_on(one.id, 1) && !moved.was_on(two.id, 1));
        // Its loss, and the new place.
        assert_eq!(generation(&store, one.id).await, one.generation + 2);
        assert_eq!(generation(&store, two.id).await, two.generation + 1);
        let mut tx = store.read().await.unwrap();
        let left = tx.leases(LeaseFilter::LiveOn(one.id)).await.unwrap();
        assert!(left.is_empty(), "the old reservation is free");
    });
}

#[test]
fn a_lease_under_keep_ends_with_its_placement_and_one_under_fence_is_placed_anew() {
    run(async {
        let (off, other) = (host_record(1), host_record(2));
        let keep = running(1, &off, OnLostLink::Keep);
        let fence = running(2, &off, FENCE);
        let store = with(
            &[off.clone(), other.clone()],
            &[keep.clone(), fence.clone()],
        )
        .await;
        let mut tx = store.begin().await.unwrap();
        let gone = rent::confirm_off(&mut tx, second(150), off.id)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(gone.len(), 2);
        swept(&store, 151, &[off.id]).await;
        let keep = stored_lease(&store, keep.id).await;
        assert_eq!(keep.life.end_reason, Some(EndReason::Reclaimed));
        assert_eq!((keep.life.epoch, keep.host), (1, off.id));
        let fence = stored_lease(&store, fence.id).await;
        assert_eq!((fence.life.epoch, fence.host), (2, other.id));
    });
}

#[test]
fn the_site_that_was_asked_for_is_kept() {
    run(async {
        let (one, far) = (host_record(1), host_record(2));
        let far = HostRecord {
            site: "moon".to_owned(),
            ..far
        };
        let bound = LeaseRecord {
            wanted_site: Some("rack".to_owned()),
            ..running(1, &one, FENCE)
        };
        let free = running(2, &one, FENCE);
        let store = with(&[one.clone(), far.clone()], &[bound.clone(), free.clone()]).await;
        let swept = swept(&store, 121, &[one.id]).await;
        assert_eq!(swept.given_up, [bound.id]);
        let bound = stored_lease(&store, bound.id).await;
        assert_eq!(bound.life.end_reason, Some(EndReason::LinkLost));
        let free = stored_lease(&store, free.id).await;
        assert_eq!((free.host, free.site.as_str()), (far.id, "moon"));
    });
}

#[test]
fn where_no_host_has_room_it_ends_as_it_was_lost_with_the_shortest_reason() {
    run(async {
        let (one, full) = (host_record(1), host_record(2));
        let large = Resources { vcpus: 4, ..SMALL };
        let lease = running(1, &one, FENCE);
        let sold = LeaseRecord {
            resources: large,
            ..running(2, &full, FENCE)
        };
        let store = with(&[one.clone(), full.clone()], &[lease.clone(), sold]).await;
        swept(&store, 121, &[one.id]).await;
        let ended = stored_lease(&store, lease.id).await;
        assert_eq!(ended.life.state, LeaseState::Ended);
        assert_eq!(ended.life.end_reason, Some(EndReason::LinkLost));
        assert_eq!(
            ended.detail,
            format!(
                "its host was silent for longer than its fence clause allows; \
                 no host had room to place it anew: host {} (site rack) is silent",
                one.id
            )
        );
    });
}

#[test]
fn a_lost_lease_waits_a_while_for_a_host_that_does_not_know_yet_what_it_offers() {
    run(async {
        let mut booting = HostRecord {
            boot: Some(BootId::from_bytes([9; 16])),
            capacity: None,
            ..host_record(1)
        };
        let lease = lost(1, &host_record(1));
        let store = with(std::slice::from_ref(&booting), std::slice::from_ref(&lease)).await;
        assert_eq!(swept(&store, 101, &[]).await.changed, 0);
        // It is still trying whether a guest runs.
        booting.capacity = Some(capacity());
        booting.inventory.as_mut().unwrap().kvm = KvmProbe::Pending;
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&booting).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(swept(&store, 219, &[]).await.changed, 0);
        booting.inventory = Some(inventory(1));
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&booting).await.unwrap();
        tx.commit().await.unwrap();
        let swept = swept(&store, 219, &[]).await;
        assert_eq!((swept.placed.len(), swept.wake), (1, vec![booting.id]));
        let moved = stored_lease(&store, lease.id).await;
        assert_eq!((moved.host, moved.life.epoch), (booting.id, 2));
        assert_eq!(moved.life.former[0].host, booting.id);
    });
}

#[test]
fn a_lost_lease_waits_no_longer_than_it_should() {
    run(async {
        let booting = HostRecord {
            capacity: None,
            ..host_record(1)
        };
        let lease = lost(1, &booting);
        let store = with(std::slice::from_ref(&booting), std::slice::from_ref(&lease)).await;
        assert_eq!(swept(&store, 219, &[]).await.changed, 0);
        assert_eq!(swept(&store, 220, &[]).await.given_up, [lease.id]);
        let ended = stored_lease(&store, lease.id).await;
        assert_eq!(ended.life.end_reason, Some(EndReason::HostRebooted));
        assert!(
            ended.detail.contains("has not said yet"),
            "{}",
            ended.detail
        );
    });
}

#[test]
fn the_whole_of_the_host_it_was_lost_from_is_its_own_to_take_again() {
    run(async {
        let host = host_record(1);
        let whole = capacity()
            .sellable
            .checked_sub(capacity().guest_overhead)
            .unwrap();
        let lease = LeaseRecord {
            resources: whole,
            ..lost(1, &host)
        };
        let store = with(std::slice::from_ref(&host), std::slice::from_ref(&lease)).await;
        assert_eq!(swept(&store, 121, &[]).await.placed.len(), 1);
    });
}

#[test]
fn while_the_silence_is_alarming_nothing_is_placed_anew_or_given_up() {
    run(async {
        let hosts: Vec<_> = (1..=4).map(host_record).collect();
        let silent = [hosts[0].id, hosts[1].id];
        // Lost to a reboot, and lost to silence.
        let rebooted = lost(1, &hosts[2]);
        let fenced = running(2, &hosts[0], FENCE);
        let store = with(&hosts, &[rebooted.clone(), fenced.clone()]).await;
        let alarmed = swept(&store, 1000, &silent).await;
        assert!(alarmed.alarm && alarmed.changed == 0, "{alarmed:?}");
        let after = swept(&store, 1001, &silent[..1]).await;
        assert_eq!(after.placed.len(), 2, "{after:?}");
    });
}

#[test]
fn a_lost_lease_whose_time_is_over_ends_even_under_alarm() {
    run(async {
        let hosts: Vec<_> = (1..=4).map(host_record).collect();
        let silent = [hosts[0].id, hosts[1].id];
        let lease = lost(1, &hosts[2]);
        let store = with(&hosts, std::slice::from_ref(&lease)).await;
        assert_eq!(swept(&store, 3599, &silent).await.changed, 0);
        assert_eq!(swept(&store, 3600, &silent).await.given_up, [lease.id]);
        let ended = stored_lease(&store, lease.id).await;
        assert_eq!(ended.life.end_reason, Some(EndReason::HostRebooted));
    });
}

#[test]
fn a_lease_past_its_end_is_not_placed_anew() {
    run(async {
        let (one, two) = (host_record(1), host_record(2));
        let lease = running(1, &one, FENCE);
        let store = with(&[one.clone(), two], std::slice::from_ref(&lease)).await;
        let swept = swept(&store, 3600, &[one.id]).await;
        assert!(swept.placed.is_empty() && swept.given_up.is_empty());
        let ended = stored_lease(&store, lease.id).await;
        assert_eq!((ended.life.state, ended.life.epoch), (LeaseState::Ended, 1));
    });
}

#[test]
fn a_lease_that_ran_before_is_not_settled_as_one_that_never_did() {
    run(async {
        let (one, two) = (host_record(1), host_record(2));
        let leases = [running(1, &one, FENCE), running(2, &one, FENCE)];
        let store = with(&[one.clone(), two], &leases).await;
        swept(&store, 121, &[one.id]).await;
        // One is ended by its buyer before its next host heard of it, the
        // other's time runs out.
        let lease = stored_lease(&store, leases[0].id).await;
        let mut tx = store.begin().await.unwrap();
        rent::end(&mut tx, second(122), lease, EndReason::Ended)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        swept(&store, 3600, &[one.id]).await;
        for (lease, reason) in leases.iter().zip([EndReason::Ended, EndReason::Expired]) {
            let ended = stored_lease(&store, lease.id).await;
            assert_eq!(ended.life.end_reason, Some(reason));
            if reason == EndReason::Expired {
                assert_eq!(ended.life.state, LeaseState::Ended, "usage may come still");
            }
            assert!(
                !ended.detail.contains("before any host"),
                "{}",
                ended.detail
            );
        }
    });
}

proptest! {
    /// Leases that were lost together share the room that is there.
    #[test]
    fn no_host_is_oversold_by_what_is_placed_anew(
        sizes in prop::collection::vec((1_u32..4, 1_u64..5), 1..10),
        rebooted in prop::collection::vec(any::<bool>(), 10),
    ) {
        run(async {
            let hosts: Vec<_> = (1..=4).map(host_record).collect();
            let mut leases = Vec::new();
            for ((n, (vcpus, gib)), rebooted) in (1..).zip(sizes).zip(rebooted) {
                let resources = Resources { vcpus, memory_bytes: gib << 30, ..SMALL };
                // As rent would: on the first host that still has room.
                let host = hosts.iter().find(|host| {
                    let sold = leases.iter().filter(|lease: &&LeaseRecord| lease.host == host.id);
                    let room = Room::new(&capacity(), sold.map(|lease| lease.resources));
                    room.why_not(resources).is_empty()
                });
                let Some(host) = host else { continue };
                let lease = if rebooted { lost(n, host) } else { running(n, host, FENCE) };
                leases.push(LeaseRecord { resources, ..lease });
            }
            let store = with(&hosts, &leases).await;
            swept(&store, 121, &[hosts[0].id]).await;
            let mut tx = store.read().await.unwrap();
            for host in &hosts {
                let live = tx.leases(LeaseFilter::LiveOn(host.id)).await.unwrap();
                let overhead = capacity().guest_overhead;
                let total = |of: fn(Resources) -> u64| {
                    live.iter().map(|lease| of(lease.resources) + of(overhead)).sum::<u64>()
                };
                prop_assert!(total(|r| u64::from(r.vcpus)) <= u64::from(capacity().sellable.vcpus));
                prop_assert!(total(|r| r.memory_bytes) <= capacity().sellable.memory_bytes);
            }
            for lease in tx.leases(LeaseFilter::All).await.unwrap() {
                prop_assert!(lease.life.lost.is_none(), "neither placed nor ended");
                prop_assert!(lease.host != hosts[0].id || !lease.life.is_live());
            }
            Ok(())
        })?;
    }
}

#[test]
fn after_a_start_nothing_is_placed_anew_until_a_later_placement_would_have_stopped() {
    run(async {
        let (one, two) = (host_record(1), host_record(2));
        let lease = lost(1, &one);
        let store = with(&[one.clone(), two.clone()], std::slice::from_ref(&lease)).await;
        for (at, epoch) in [(120, 1), (121, 2)] {
            swept(&store, at, &[]).await;
            assert_eq!(stored_lease(&store, lease.id).await.life.epoch, epoch);
        }
    });
}
