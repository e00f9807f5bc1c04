use futures_util::FutureExt as _;
use surplus_protocol::ids::BootId;

use super::*;
use crate::lease::Lease;
use crate::memory::MemoryStore;
use crate::pricing::default_book;
use crate::store::Store as _;
use crate::suite::{furnish, host_record, lease_record, second, stored_lease};

fn run<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

async fn swept(store: &MemoryStore, presence: &Presence, at: i64) -> Swept {
    let mut tx = store.begin().await.unwrap();
    let swept = sweep(&mut tx, presence, second(at), &default_book())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    swept
}

/// `hosts` hosts, and a lease that runs on the first.
async fn running(hosts: u8, on_lost_link: OnLostLink) -> (MemoryStore, LeaseRecord) {
    let store = MemoryStore::default();
    let hosts: Vec<_> = (1..=hosts).map(host_record).collect();
    let mut lease = LeaseRecord {
        on_lost_link,
        ..lease_record(1, hosts[0].id)
    };
    lease
        .apply(Event::Ticketed {
            boot: hosts[0].boot.unwrap(),
        })
        .unwrap();
    lease.apply(Event::Running { at: second(1) }).unwrap();
    furnish(&store, &hosts, std::slice::from_ref(&lease)).await;
    (store, lease)
}

#[test]
fn a_silent_hosts_lease_is_stopped_at_its_end_and_never_freed() {
    run(async {
        let (store, lease) = running(1, OnLostLink::Keep).await;
        let presence = Presence::new(second(0));
        assert_eq!(swept(&store, &presence, 3599).await.changed, 0);
        assert_eq!(swept(&store, &presence, 3600).await.wake, [lease.host]);
        assert_eq!(swept(&store, &presence, 1 << 30).await.changed, 0);
        assert_eq!(
            stored_lease(&store, lease.id).await.life.state,
            LeaseState::Draining
        );
    });
}

#[test]
fn a_fenced_lease_is_freed_after_its_time_and_the_margin() {
    run(async {
        let (store, lease) = running(1, OnLostLink::Fence { after_seconds: 100 }).await;
        let mut presence = Presence::new(second(0));
        presence.answered(lease.host, second(10));
        assert_eq!(swept(&store, &presence, 170).await.changed, 0);
        assert_eq!(swept(&store, &presence, 171).await.changed, 1);
        let lease = stored_lease(&store, lease.id).await;
        assert_eq!(lease.life.end_reason, Some(EndReason::LinkLost));
    });
}

#[test]
fn after_a_start_the_fence_counts_from_the_start() {
    run(async {
        let (store, _) = running(1, OnLostLink::Fence { after_seconds: 100 }).await;
        let presence = Presence::new(second(1000));
        assert_eq!(swept(&store, &presence, 1160).await.changed, 0);
        assert_eq!(swept(&store, &presence, 1161).await.changed, 1);
    });
}

#[test]
fn while_a_third_of_the_hosts_is_silent_nothing_is_fenced() {
    run(async {
        let (store, lease) = running(3, OnLostLink::Fence { after_seconds: 100 }).await;
        let mut presence = Presence::new(second(0));
        presence.answered(host_record(2).id, second(900));
        presence.answered(host_record(3).id, second(900));
        let alarmed = swept(&store, &presence, 1000).await;
        assert!(alarmed.alarm && alarmed.changed == 0, "{alarmed:?}");
        assert_eq!(stored_lease(&store, lease.id).await, lease);
    });
}

/// A lease that ended at 0 s without its host's receipt; `boot`: whether the
/// host has been restarted since.
async fn ended_without_a_receipt(boot: bool) -> (MemoryStore, LeaseRecord) {
    let (store, mut lease) = running(1, OnLostLink::Keep).await;
    lease
        .apply(Event::Gone {
            reason: EndReason::HostRebooted,
            started_at: None,
            at: second(0),
            anew: false,
        })
        .unwrap();
    let mut host = host_record(1);
    host.last_seen_at = None;
    if boot {
        host.boot = Some(BootId::from_bytes([99; 16]));
    }
    let mut tx = store.begin().await.unwrap();
    tx.put_lease(&lease).await.unwrap();
    tx.put_host(&host).await.unwrap();
    tx.commit().await.unwrap();
    (store, lease)
}

async fn state(store: &MemoryStore, lease: &LeaseRecord) -> LeaseState {
    stored_lease(store, lease.id).await.life.state
}

#[test]
fn a_bill_without_a_receipt_is_closed_once_the_restarted_host_has_had_its_say() {
    run(async {
        let (store, lease) = ended_without_a_receipt(true).await;
        let mut presence = Presence::new(second(0));
        presence.answered(lease.host, second(599));
        swept(&store, &presence, 2000).await;
        assert_eq!(state(&store, &lease).await, LeaseState::Ended);
        presence.answered(lease.host, second(600));
        swept(&store, &presence, 2000).await;
        assert_eq!(state(&store, &lease).await, LeaseState::Settled);
    });
}

#[test]
fn the_word_of_a_host_that_may_still_have_it_is_waited_for_up_to_a_month() {
    run(async {
        let (store, lease) = ended_without_a_receipt(false).await;
        let mut presence = Presence::new(second(0));
        presence.answered(lease.host, second(5000));
        swept(&store, &presence, 30 * 86_400 - 1).await;
        assert_eq!(state(&store, &lease).await, LeaseState::Ended);
        swept(&store, &presence, 30 * 86_400).await;
        assert_eq!(state(&store, &lease).await, LeaseState::Settled);
    });
}

#[test]
fn a_quote_runs_out_in_time_and_is_forgotten() {
    run(async {
        let (store, lease) = running(1, OnLostLink::Keep).await;
        let quote = LeaseRecord {
            guest: None,
            life: Lease::quoted(),
            ..lease_record(2, lease.host)
        };
        let mut tx = store.begin().await.unwrap();
        tx.put_lease(&quote).await.unwrap();
        tx.commit().await.unwrap();
        let presence = Presence::new(second(0));
        assert_eq!(swept(&store, &presence, 299).await.changed, 0);
        swept(&store, &presence, 300).await;
        let quote = stored_lease(&store, quote.id).await;
        assert_eq!(quote.life.end_reason, Some(EndReason::QuoteExpired));
        assert_eq!(quote.life.state, LeaseState::Settled);
        // The quote is forgotten in time, the lease that it never was is not.
        swept(&store, &presence, 300 + 3600).await;
        let mut tx = store.read().await.unwrap();
        assert!(tx.lease(quote.id).await.unwrap().is_some());
        drop(tx);
        assert_eq!(swept(&store, &presence, 301 + 3600).await.changed, 1);
        let mut tx = store.read().await.unwrap();
        assert!(tx.lease(quote.id).await.unwrap().is_none());
        assert!(tx.lease(lease.id).await.unwrap().is_some());
    });
}

#[test]
fn a_host_that_asks_no_more_waits_no_longer() {
    run(async {
        let (store, _) = running(1, OnLostLink::Keep).await;
        let pending = crate::records::HostRecord {
            state: surplus_protocol::api::HostState::Pending,
            ..host_record(7)
        };
        let mut tx = store.begin().await.unwrap();
        tx.put_host(&pending).await.unwrap();
        tx.commit().await.unwrap();
        let presence = Presence::new(second(0));
        let day = 24 * 3600;
        swept(&store, &presence, day).await;
        let here = async || store.read().await.unwrap().host(pending.id).await.unwrap();
        assert!(here().await.is_some());
        swept(&store, &presence, day + 1).await;
        assert!(here().await.is_none());
    });
}
