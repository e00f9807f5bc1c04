use futures_util::FutureExt as _;
use surplus_protocol::ids::{AdmissionRuleId, HostId};

use crate::enrol::{Applicant, approve, enrol, reject};
use crate::memory::{MemoryStore, MemoryTx};
use crate::presence::Presence;
use crate::records::HostRecord;
use crate::store::Store as _;
use crate::suite::{applicant, digest, furnish, host_record, rule_record, second};

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// A machine as `applicant(n)` that has no token.
fn bare(n: u8, key: u8) -> Applicant {
    Applicant {
        key: digest(key),
        token: None,
        ..applicant(n)
    }
}

/// A store with one rule and these hosts.
async fn ruled(uses: Option<u32>, hosts: &[HostRecord]) -> MemoryTx {
    let store = MemoryStore::default();
    furnish(&store, hosts, &[]).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_admission_rule(&rule_record(1, uses)).await.unwrap();
    tx
}

async fn ask(tx: &mut MemoryTx, presence: &Presence, at: i64, who: &Applicant) -> HostRecord {
    let fresh = HostId::from_u128(u128::from(who.key.as_bytes()[0]));
    enrol(tx, presence, second(at), fresh, who).await.unwrap()
}

async fn used(tx: &mut MemoryTx) -> u32 {
    tx.admission_rules().await.unwrap()[0].used
}

fn by_rule() -> Option<Admission> {
    let id = AdmissionRuleId::from_bytes([1; 16]);
    Some(Admission::Rule { id })
}

/// Host 1 as the rule let it in, silent at second 500.
fn let_in() -> HostRecord {
    HostRecord {
        admitted_by: by_rule(),
        ..host_record(1)
    }
}

#[test]
fn a_rule_made_later_admits_who_waits_at_its_next_ask() {
    run(async {
        let store = MemoryStore::default();
        let mut tx = store.begin().await.unwrap();
        let presence = Presence::new(second(0));
        let waits = ask(&mut tx, &presence, 10, &bare(1, 1)).await;
        assert_eq!(waits.state, HostState::Pending);
        assert!(waits.detail.contains("192.0.2.1"), "{}", waits.detail);
        tx.put_admission_rule(&rule_record(1, Some(1)))
            .await
            .unwrap();
        let joined = ask(&mut tx, &presence, 40, &bare(1, 1)).await;
        assert_eq!(
            (joined.state, joined.id),
            (HostState::Enrolled, waits.id),
            "{}",
            joined.detail
        );
        assert_eq!(joined.admitted_by, by_rule());
        assert!(joined.detail.contains("192.0.2.0/24"), "{}", joined.detail);
        ask(&mut tx, &presence, 50, &bare(1, 1)).await;
        assert_eq!(used(&mut tx).await, 1, "asking again spent something");
    });
}

#[test]
fn a_spent_or_expired_rule_admits_nobody_and_is_named() {
    run(async {
        let mut tx = ruled(Some(1), &[]).await;
        let presence = Presence::new(second(0));
        let first = ask(&mut tx, &presence, 1, &bare(1, 1)).await;
        assert_eq!(first.state, HostState::Enrolled);
        let late = ask(&mut tx, &presence, 2, &bare(2, 2)).await;
        assert_eq!(late.state, HostState::Pending);
        assert!(
            late.detail.contains("spent: used 1 of 1"),
            "{}",
            late.detail
        );
        let mut tx = ruled(None, &[]).await;
        let before = ask(&mut tx, &presence, 999, &bare(1, 1)).await;
        assert_eq!(before.state, HostState::Enrolled);
        let late = ask(&mut tx, &presence, 1000, &bare(2, 2)).await;
        assert_eq!(late.state, HostState::Pending);
        assert!(late.detail.contains("expired at"), "{}", late.detail);
    });
}

#[test]
fn a_host_whose_key_was_in_memory_comes_back_as_itself_and_is_not_counted_again() {
    run(async {
        let mut tx = ruled(Some(1), &[]).await;
        let mut presence = Presence::new(second(0));
        let first = ask(&mut tx, &presence, 1, &bare(1, 1)).await;
        presence.answered(first.id, second(400));
        let waits = ask(&mut tx, &presence, 450, &bare(1, 2)).await;
        assert_eq!(waits.state, HostState::Pending, "{}", waits.detail);
        assert!(waits.detail.contains("alive a moment ago"));
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_some());
        let back = ask(&mut tx, &presence, 521, &bare(1, 2)).await;
        assert_eq!((back.id, back.key), (first.id, digest(2)));
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
        assert_eq!(tx.hosts().await.unwrap().len(), 1);
        assert_eq!(used(&mut tx).await, 1);
    });
}

#[test]
fn a_host_that_another_let_in_is_counted_when_the_rule_brings_it_back() {
    run(async {
        let mut tx = ruled(Some(1), &[host_record(1)]).await;
        let presence = Presence::new(second(0));
        let back = ask(&mut tx, &presence, 500, &bare(1, 9)).await;
        assert_eq!(back.id, host_record(1).id);
        assert_eq!(used(&mut tx).await, 1);
        let mut tx = ruled(Some(1), &[host_record(1), host_record(2)]).await;
        for n in [1, 2] {
            let asked = ask(&mut tx, &presence, 500, &bare(n, 10 + n)).await;
            assert_eq!(asked.state == HostState::Enrolled, n == 1);
        }
        assert_eq!(used(&mut tx).await, 1);
    });
}

#[test]
fn an_expired_rule_brings_nobody_back() {
    run(async {
        let mut tx = ruled(Some(1), &[let_in()]).await;
        let presence = Presence::new(second(0));
        let asked = ask(&mut tx, &presence, 1000, &bare(1, 9)).await;
        assert_eq!(asked.state, HostState::Pending);
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_some());
    });
}

#[test]
fn a_rule_brings_back_no_host_whose_key_should_not_be_lost() {
    run(async {
        for storage in ["tpm", "disk", "unknown"] {
            let old = HostRecord {
                key_storage: storage.to_owned(),
                ..let_in()
            };
            let mut tx = ruled(None, std::slice::from_ref(&old)).await;
            let presence = Presence::new(second(0));
            let asked = ask(&mut tx, &presence, 500, &bare(1, 9)).await;
            assert_eq!(asked.state, HostState::Pending, "{storage}");
            assert!(asked.detail.contains(storage), "{}", asked.detail);
            assert_eq!(tx.host(old.id).await.unwrap(), Some(old));
            // An operator may.
            let back = approve(&mut tx, &presence, second(501), asked.id, "admin");
            assert_eq!(back.await.unwrap().id, let_in().id);
        }
    });
}

#[test]
fn a_rule_lets_no_second_machine_in_beside_a_live_one_and_both_are_named() {
    run(async {
        let mut tx = ruled(None, &[let_in()]).await;
        let mut presence = Presence::new(second(0));
        presence.answered(let_in().id, second(490));
        let twin = bare(1, 9);
        ask(&mut tx, &presence, 500, &twin).await;
        presence.answered(let_in().id, second(520));
        let held = ask(&mut tx, &presence, 530, &twin).await;
        assert_eq!(held.state, HostState::Pending, "{}", held.detail);
        for named in [let_in().id.to_string().as_str(), "at 192.0.2.1", "copy"] {
            assert!(held.detail.contains(named), "{named}: {}", held.detail);
        }
        assert_eq!(tx.host(let_in().id).await.unwrap(), Some(let_in()));
        assert_eq!(used(&mut tx).await, 0);
    });
}

#[test]
fn a_rule_undoes_no_operators_decision() {
    run(async {
        let mut tx = ruled(None, &[let_in()]).await;
        let presence = Presence::new(second(0));
        reject(&mut tx, let_in().id).await.unwrap();
        let asked = ask(&mut tx, &presence, 500, &bare(1, 9)).await;
        assert_eq!(asked.state, HostState::Pending, "{}", asked.detail);
        assert!(asked.detail.contains("was turned away"), "{}", asked.detail);
        let quarantined = HostRecord {
            state: HostState::Quarantined,
            ..let_in()
        };
        let mut tx = ruled(None, &[quarantined]).await;
        let asked = ask(&mut tx, &presence, 500, &bare(1, 9)).await;
        assert_eq!(asked.state, HostState::Pending, "{}", asked.detail);
        assert!(asked.detail.contains("is quarantined"), "{}", asked.detail);
    });
}

#[test]
fn a_rule_with_uses_left_is_taken_where_several_mean_a_host() {
    run(async {
        let mut tx = ruled(Some(1), &[]).await;
        tx.put_admission_rule(&rule_record(2, Some(1)))
            .await
            .unwrap();
        let presence = Presence::new(second(0));
        for n in 1..=3 {
            let asked = ask(&mut tx, &presence, 1, &bare(n, n)).await;
            assert_eq!(
                asked.state == HostState::Enrolled,
                n < 3,
                "{}",
                asked.detail
            );
        }
        let rules = tx.admission_rules().await.unwrap();
        assert_eq!((rules[0].used, rules[1].used), (1, 1));
    });
}
