//! What every store must do, as tests that take a store; with the records that
//! they are made of.
//!
//! ```ignore
//! macro_rules! test {
//!     ($name:ident) => {
//!         #[tokio::test]
//!         async fn $name() {
//!             surplus_market::suite::$name(&empty_store().await).await;
//!         }
//!     };
//! }
//! surplus_market::for_each_promise_of_a_store!(test);
//! ```

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod fixtures;
mod lives;

use futures_util::future::{join, join_all, join3};
use surplus_protocol::admission::Admission;
use surplus_protocol::api::HostState;
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use surplus_protocol::lease::{EndReason, GuestPhase, ImageFormat, OnLostLink};

pub use fixtures::*;
pub use lives::*;

use crate::enrol::{Applicant, EnrolError, enrol};
use crate::lease::{Event, Lease};
use crate::presence::Presence;
use crate::pricing;
use crate::records::{
    AdmissionRuleRecord, FormerBoot, HostRecord, ImageRecord, KeyRecord, LeaseRecord,
    ReceiptRecord, TokenRecord,
};
use crate::store::{LeaseFilter, Store, StoreError, Tx};
use crate::token::TokenRefusal;

/// Calls `$test!(name)` for each promise.
#[macro_export]
macro_rules! for_each_promise_of_a_store {
    ($test:ident) => {
        $test!(what_is_not_committed_did_not_happen);
        $test!(a_transaction_that_only_reads_cannot_write);
        $test!(records_come_back_as_they_were_stored);
        $test!(images_come_and_go_by_owner_and_name);
        $test!(names_and_keys_are_unique);
        $test!(leases_are_found_by_state_owner_and_host);
        $test!(usage_is_stored_once_and_the_last_of_each_epoch_counts);
        $test!(a_host_is_found_by_either_key_and_not_seen_backwards);
        $test!(of_two_enrolments_racing_for_a_token_one_wins);
        $test!(admission_rules_come_and_go);
        $test!(of_many_enrolments_racing_for_a_rule_so_many_win_as_it_says);
        $test!(a_host_that_was_restarted_comes_back_by_a_rule);
        $test!(hosts_that_were_restarted_come_back_on_their_spent_token);
        $test!(a_lease_lives_from_token_to_bill);
        $test!(a_lease_that_is_lost_with_its_host_is_placed_anew_and_billed_for_both);
    };
}

pub async fn what_is_not_committed_did_not_happen<S: Store>(store: &S) {
    let (host, lease) = (host_record(1), lease_record(1, host_record(1).id));
    furnish(
        store,
        std::slice::from_ref(&host),
        std::slice::from_ref(&lease),
    )
    .await;
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 1)).await.unwrap();
    tx.put_host(&HostRecord {
        key: digest(9),
        ..host.clone()
    })
    .await
    .unwrap();
    let mut ended = lease.clone();
    ended
        .apply(Event::Stop {
            reason: EndReason::Ended,
            at: second(1),
        })
        .unwrap();
    tx.put_lease(&ended).await.unwrap();
    tx.add_usage(&usage_record(lease.id, 1, 1, 1), false)
        .await
        .unwrap();
    assert_eq!(
        tx.host_of_key(&digest(9)).await.unwrap().unwrap().id,
        host.id
    );
    assert!(tx.leases(LeaseFilter::Live).await.unwrap().is_empty());
    drop(tx);
    let mut tx = store.read().await.unwrap();
    assert!(tx.tokens().await.unwrap().is_empty());
    assert!(tx.host_of_key(&digest(9)).await.unwrap().is_none());
    assert_eq!(tx.host_of_key(&digest(1)).await.unwrap().unwrap(), host);
    assert_eq!(
        tx.leases(LeaseFilter::Live).await.unwrap(),
        std::slice::from_ref(&lease)
    );
    assert!(tx.usage(lease.id).await.unwrap().is_empty());
}

pub async fn a_transaction_that_only_reads_cannot_write<S: Store>(store: &S) {
    let (host, lease) = (host_record(1), lease_record(1, host_record(1).id));
    let mut tx = store.read().await.unwrap();
    let refused = |answer| assert!(matches!(answer, Err(StoreError::ReadOnly)), "{answer:?}");
    refused(tx.put_token(&token_record(1, 1)).await);
    refused(tx.put_host(&host).await);
    refused(tx.put_lease(&lease).await);
    refused(tx.touch_hosts(&[(host.id, second(1))]).await);
    let usage = usage_record(lease.id, 1, 1, 1);
    refused(tx.add_usage(&usage, false).await.map(drop));
}

pub async fn records_come_back_as_they_were_stored<S: Store>(store: &S) {
    let full = HostRecord {
        next_key: Some(digest(99)),
        former_boots: vec![FormerBoot {
            boot: BootId::from_bytes([8; 16]),
            address: Some(address(8)),
            sightings: 1,
        }],
        admitted_by: Some(Admission::Rule {
            id: rule_record(1, None).id,
        }),
        ..host_record(1)
    };
    let bare = HostRecord {
        state: HostState::Pending,
        rack: String::new(),
        address: None,
        last_seen_at: None,
        boot: None,
        inventory: None,
        capacity: None,
        ..host_record(2)
    };
    let mut ended = lease_record(1, full.id);
    let boot = BootId::from_bytes([1; 16]);
    ended.apply(Event::Ticketed { boot }).unwrap();
    ended.apply(Event::Running { at: second(3) }).unwrap();
    ended
        .apply(Event::Reclaim {
            deadline: second(4),
        })
        .unwrap();
    ended
        .apply(Event::Stop {
            reason: EndReason::Reclaimed,
            at: second(5),
        })
        .unwrap();
    let (reason, at) = (EndReason::GuestStopped, second(6));
    ended
        .apply(Event::Gone {
            reason,
            started_at: None,
            at,
            anew: false,
        })
        .unwrap();
    ended.phase = Some(GuestPhase::Stopping);
    ended.on_lost_link = OnLostLink::Fence { after_seconds: 60 };
    ended.addresses = vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
    ended.forwards = vec![fixtures::forward(22)];
    let quoted = LeaseRecord {
        guest: None,
        life: Lease::quoted(),
        ..lease_record(2, full.id)
    };
    let moved = twice_lost(3, full.id);
    furnish(
        store,
        &[full.clone(), bare.clone()],
        &[ended.clone(), quoted.clone(), moved.clone()],
    )
    .await;
    let unlimited = TokenRecord {
        uses: None,
        expires_at: None,
        ..token_record(2, 1)
    };
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&unlimited).await.unwrap();
    tx.put_token(&token_record(1, 3)).await.unwrap();
    tx.put_token(&TokenRecord {
        used: 2,
        ..token_record(1, 3)
    })
    .await
    .unwrap();
    tx.put_key(&key_record(1)).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.hosts().await.unwrap(), [full, bare]);
    assert_eq!(tx.lease(ended.id).await.unwrap(), Some(ended));
    assert_eq!(tx.lease(moved.id).await.unwrap(), Some(moved.clone()));
    assert_eq!(tx.leases(LeaseFilter::Live).await.unwrap().len(), 2);
    assert_eq!(tx.lease_of_quote(quoted.quote).await.unwrap(), Some(quoted));
    let used = TokenRecord {
        used: 2,
        ..token_record(1, 3)
    };
    assert_eq!(tx.tokens().await.unwrap(), [used.clone(), unlimited]);
    assert_eq!(tx.token(&digest(1)).await.unwrap(), Some(used));
    assert_eq!(tx.key(&digest(1)).await.unwrap(), Some(key_record(1)));
    assert_eq!(
        tx.price_book(2).await.unwrap(),
        Some(pricing::default_book())
    );
    assert_eq!(tx.price_book(9).await.unwrap(), None);
}

pub async fn images_come_and_go_by_owner_and_name<S: Store>(store: &S) {
    let image = ImageRecord {
        digest: digest(5),
        name: "debian".to_owned(),
        format: ImageFormat::Raw,
        size_bytes: 1 << 40,
        virtual_bytes: 1 << 41,
        owner: key_record(1).id,
        public: false,
        added_at: second(1),
    };
    let mut tx = store.begin().await.unwrap();
    let public = ImageRecord {
        owner: key_record(2).id,
        public: true,
        ..image.clone()
    };
    let gone = ImageRecord {
        name: "gone".to_owned(),
        ..image.clone()
    };
    for image in [&image, &public, &gone] {
        tx.put_image(image).await.unwrap();
    }
    assert!(tx.delete_image(image.owner, "gone").await.unwrap());
    assert!(!tx.delete_image(image.owner, "gone").await.unwrap());
    assert!(tx.put_image(&image).await.is_err(), "the name is taken");
    tx.commit().await.unwrap();

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.images().await.unwrap(), [image, public]);
}

pub async fn names_and_keys_are_unique<S: Store>(store: &S) {
    furnish(store, &[host_record(1)], &[]).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 1)).await.unwrap();
    tx.put_key(&key_record(1)).await.unwrap();
    let exists = |answer| {
        assert!(
            matches!(answer, Err(StoreError::Exists { .. })),
            "{answer:?}"
        )
    };
    let same_name = |name: String| TokenRecord {
        name,
        ..token_record(2, 1)
    };
    exists(tx.put_token(&same_name("token 1".to_owned())).await);
    exists(
        tx.put_key(&KeyRecord {
            name: "key 1".to_owned(),
            ..key_record(2)
        })
        .await,
    );
    exists(
        tx.put_host(&HostRecord {
            key: digest(1),
            ..host_record(2)
        })
        .await,
    );
    exists(tx.add_price_book(&pricing::default_book()).await);
    // The transaction goes on after a refusal.
    assert!(tx.delete_key("key 1").await.unwrap());
    assert!(!tx.delete_key("key 1").await.unwrap());
    assert!(tx.delete_token("token 1").await.unwrap());
    tx.commit().await.unwrap();
    assert!(
        store
            .read()
            .await
            .unwrap()
            .tokens()
            .await
            .unwrap()
            .is_empty()
    );
}

pub async fn leases_are_found_by_state_owner_and_host<S: Store>(store: &S) {
    let (one, two) = (host_record(1), host_record(2));
    let live = lease_record(1, one.id);
    let other = lease_record(2, two.id);
    let mut ended = lease_record(3, one.id);
    ended
        .apply(Event::Stop {
            reason: EndReason::Ended,
            at: second(1),
        })
        .unwrap();
    furnish(
        store,
        &[one.clone(), two],
        &[live.clone(), other.clone(), ended.clone()],
    )
    .await;
    let mut tx = store.begin().await.unwrap();
    let mut ids = async |filter| {
        let leases = tx.leases(filter).await.unwrap();
        leases.into_iter().map(|lease| lease.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(LeaseFilter::All).await, [live.id, other.id, ended.id]);
    assert_eq!(ids(LeaseFilter::Live).await, [live.id, other.id]);
    assert_eq!(ids(LeaseFilter::LiveOn(one.id)).await, [live.id]);
    assert_eq!(ids(LeaseFilter::Owner(other.owner)).await, [other.id]);
    assert_eq!(ids(LeaseFilter::Unsettled).await, [ended.id]);
    ended.apply(Event::Settle).unwrap();
    tx.put_lease(&ended).await.unwrap();
    assert!(tx.leases(LeaseFilter::Unsettled).await.unwrap().is_empty());
}

pub async fn usage_is_stored_once_and_the_last_of_each_epoch_counts<S: Store>(store: &S) {
    let (host, lease) = (host_record(1), lease_record(1, host_record(1).id));
    furnish(
        store,
        std::slice::from_ref(&host),
        std::slice::from_ref(&lease),
    )
    .await;
    let mut tx = store.begin().await.unwrap();
    let record = |epoch, seq, running| usage_record(lease.id, epoch, seq, running);
    assert!(tx.add_usage(&record(1, 2, 20), false).await.unwrap());
    assert!(tx.add_usage(&record(1, 1, 10), false).await.unwrap());
    assert!(!tx.add_usage(&record(1, 2, 999), false).await.unwrap());
    assert!(tx.add_usage(&record(2, 1, 5), false).await.unwrap());
    assert!(tx.add_usage(&record(2, 2, 500), true).await.unwrap());
    assert_eq!(
        tx.usage(lease.id).await.unwrap(),
        [record(1, 2, 20), record(2, 1, 5)]
    );
    let receipt = ReceiptRecord {
        lease: lease.id,
        epoch: 1,
        host: host.id,
        signed: "signed".to_owned(),
        received_at: second(1),
    };
    assert!(tx.add_receipt(&receipt).await.unwrap());
    assert!(!tx.add_receipt(&receipt).await.unwrap());
    let second_one = ReceiptRecord {
        epoch: 2,
        ..receipt
    };
    assert!(tx.add_receipt(&second_one).await.unwrap());
    assert_eq!(tx.receipts(lease.id).await.unwrap(), [1, 2]);
    assert!(tx.receipts(LeaseId::nil()).await.unwrap().is_empty());
}

pub async fn a_host_is_found_by_either_key_and_not_seen_backwards<S: Store>(store: &S) {
    let mut host = HostRecord {
        next_key: Some(digest(50)),
        ..host_record(1)
    };
    furnish(store, std::slice::from_ref(&host), &[]).await;
    let mut tx = store.begin().await.unwrap();
    for key in [digest(1), digest(50)] {
        assert_eq!(tx.host_of_key(&key).await.unwrap().unwrap().id, host.id);
    }
    assert!(crate::enrol::use_key(&mut host, digest(50)));
    tx.put_host(&host).await.unwrap();
    assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
    tx.touch_hosts(&[(host.id, second(9))]).await.unwrap();
    tx.touch_hosts(&[(host.id, second(4)), (HostId::nil(), second(4))])
        .await
        .unwrap();
    assert_eq!(
        tx.host(host.id).await.unwrap().unwrap().last_seen_at,
        Some(second(9))
    );
}

pub async fn of_two_enrolments_racing_for_a_token_one_wins<S: Store>(store: &S) {
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 1)).await.unwrap();
    tx.commit().await.unwrap();
    let race = async |n: u8| {
        let mut tx = store.begin().await?;
        let presence = Presence::new(second(0));
        let fresh = HostId::from_bytes([n; 16]);
        let host = enrol(&mut tx, &presence, second(1), fresh, &applicant(n)).await?;
        tx.commit().await?;
        Ok::<_, EnrolError>(host)
    };
    let (one, two) = join(race(1), race(2)).await;
    let lost = match (one, two) {
        (Ok(_), Err(lost)) | (Err(lost), Ok(_)) => lost,
        other => panic!("both or none won: {other:?}"),
    };
    assert!(
        matches!(lost, EnrolError::Token(TokenRefusal::Spent { .. })),
        "{lost:?}"
    );
    assert_eq!(store.read().await.unwrap().hosts().await.unwrap().len(), 1);
}

pub async fn admission_rules_come_and_go<S: Store>(store: &S) {
    let (one, two) = (rule_record(1, None), rule_record(2, Some(3)));
    let used = AdmissionRuleRecord {
        used: 2,
        ..two.clone()
    };
    let endless = AdmissionRuleRecord {
        expires_at: None,
        ..rule_record(3, None)
    };
    let mut tx = store.begin().await.unwrap();
    for rule in [&two, &endless, &one, &used] {
        tx.put_admission_rule(rule).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let rules = tx.admission_rules().await.unwrap();
    assert_eq!(rules, [one.clone(), used, endless]);
    assert!(tx.delete_admission_rule(one.id).await.unwrap());
    assert!(!tx.delete_admission_rule(one.id).await.unwrap());
    drop(tx);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.admission_rules().await.unwrap().len(), 3);
    assert!(matches!(
        tx.put_admission_rule(&one).await,
        Err(StoreError::ReadOnly)
    ));
}

pub async fn of_many_enrolments_racing_for_a_rule_so_many_win_as_it_says<S: Store>(store: &S) {
    let mut tx = store.begin().await.unwrap();
    tx.put_admission_rule(&rule_record(1, Some(3)))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let racers = (1..=8_u8).map(|n| async move {
        let mut tx = store.begin().await.unwrap();
        let presence = Presence::new(second(0));
        let asks = Applicant {
            token: None,
            ..applicant(n)
        };
        let fresh = HostId::from_bytes([n; 16]);
        let host = enrol(&mut tx, &presence, second(1), fresh, &asks).await;
        tx.commit().await.unwrap();
        host.unwrap().state
    });
    let states = join_all(racers).await;
    let won = states.iter().filter(|state| **state == HostState::Enrolled);
    assert_eq!(won.count(), 3);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.admission_rules().await.unwrap()[0].used, 3);
    assert_eq!(tx.hosts().await.unwrap().len(), 8);
}

pub async fn a_host_that_was_restarted_comes_back_by_a_rule<S: Store>(store: &S) {
    furnish(store, &[host_record(1)], &[]).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_admission_rule(&rule_record(1, None)).await.unwrap();
    let mut presence = Presence::new(second(0));
    presence.answered(host_record(1).id, second(400));
    let again = Applicant {
        key: digest(9),
        token: None,
        ..applicant(1)
    };
    let fresh = HostId::from_bytes([9; 16]);
    let waits = enrol(&mut tx, &presence, second(450), fresh, &again).await;
    assert_eq!(waits.unwrap().id, fresh);
    let back = enrol(&mut tx, &presence, second(521), fresh, &again).await;
    tx.commit().await.unwrap();
    let back = back.unwrap();
    assert_eq!((back.id, back.key), (host_record(1).id, digest(9)));
    assert_eq!(store.read().await.unwrap().hosts().await.unwrap(), [back]);
}

/// A rack of three on a token for three, after a power cut.
pub async fn hosts_that_were_restarted_come_back_on_their_spent_token<S: Store>(store: &S) {
    let rack = 1..=3_u8;
    let spent = TokenRecord {
        used: 3,
        ..token_record(1, 3)
    };
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 3)).await.unwrap();
    tx.commit().await.unwrap();
    let ask = async |at: i64, key: u8, who: u8| {
        let mut tx = store.begin().await?;
        let presence = Presence::new(second(0));
        let asks = Applicant {
            key: digest(key),
            ..applicant(who)
        };
        let fresh = HostId::from_bytes([key; 16]);
        let host = enrol(&mut tx, &presence, second(at), fresh, &asks).await?;
        tx.commit().await?;
        Ok::<_, EnrolError>(host)
    };
    for n in rack.clone() {
        assert_eq!(ask(1, n, n).await.unwrap().state, HostState::Enrolled);
    }
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.tokens().await.unwrap(), std::slice::from_ref(&spent));
    drop(tx);
    let (first, second_, third) = join3(ask(500, 11, 1), ask(500, 12, 2), ask(500, 13, 3)).await;
    for (n, back) in rack.zip([first, second_, third]) {
        let back = back.unwrap();
        assert_eq!(
            (back.id, back.key, back.state),
            (
                HostId::from_bytes([n; 16]),
                digest(10 + n),
                HostState::Enrolled
            ),
            "{}",
            back.detail
        );
    }
    let other = ask(500, 14, 4).await;
    assert!(
        matches!(other, Err(EnrolError::Token(TokenRefusal::Spent { .. }))),
        "{other:?}"
    );
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.tokens().await.unwrap(), [spent]);
    assert_eq!(tx.hosts().await.unwrap().len(), 3);
    assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
}
