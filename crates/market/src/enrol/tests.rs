use futures_util::FutureExt as _;

use surplus_protocol::ids::{BootId, TokenId};

use super::*;
use crate::memory::MemoryStore;
use crate::records::TokenRecord;
use crate::store::Store as _;
use crate::suite::{address, applicant, digest, furnish, host_record, second, token_record};

fn run<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

/// A host that is silent, and one that applies with a new key, a token or
/// none, on the same hardware.
async fn returned(token: bool) -> (MemoryStore, HostRecord) {
    let store = MemoryStore::default();
    furnish(&store, &[host_record(1)], &[]).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 1)).await.unwrap();
    let token = token.then(|| digest(1));
    let again = Applicant {
        key: digest(9),
        token,
        ..applicant(1)
    };
    let fresh = HostId::from_bytes([9; 16]);
    let presence = Presence::new(second(0));
    let host = enrol(&mut tx, &presence, second(500), fresh, &again)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    (store, host)
}

#[test]
fn hardware_back_with_a_token_keeps_its_id_and_loses_its_old_key() {
    run(async {
        let (store, host) = returned(true).await;
        assert_eq!((host.id, host.key), (host_record(1).id, digest(9)));
        let mut tx = store.read().await.unwrap();
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
    });
}

#[test]
fn hardware_back_with_an_approval_keeps_its_id_and_loses_its_old_key() {
    run(async {
        let (store, host) = returned(false).await;
        assert_eq!(host.state, HostState::Pending);
        let mut tx = store.begin().await.unwrap();
        let old = tx.host(host_record(1).id).await.unwrap().unwrap();
        assert_eq!(old.state, HostState::Enrolled, "before anybody approved");
        let presence = Presence::new(second(0));
        let back = approve(&mut tx, &presence, second(500), host.id, "admin");
        let back = back.await.unwrap();
        assert_eq!((back.id, back.key), (host_record(1).id, digest(9)));
        let key = "admin".to_owned();
        assert_eq!(back.admitted_by, Some(Admission::Operator { key }));
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
        assert_eq!(tx.hosts().await.unwrap().len(), 1, "a ghost stayed");
    });
}

/// Host 1, alive at second 450, whose hardware asks without a token at 480 and
/// is approved at once; then it asks again at each of `asks`, after `between`.
async fn approved_early(
    asks: &[i64],
    between: impl Fn(&mut Presence, &mut Applicant, i64),
) -> (MemoryStore, Vec<HostRecord>) {
    let store = MemoryStore::default();
    furnish(&store, &[host_record(1)], &[]).await;
    let mut tx = store.begin().await.unwrap();
    let mut presence = Presence::new(second(0));
    presence.answered(host_record(1).id, second(450));
    let mut again = Applicant {
        key: digest(9),
        token: None,
        ..applicant(1)
    };
    let fresh = HostId::from_bytes([9; 16]);
    enrol(&mut tx, &presence, second(480), fresh, &again)
        .await
        .unwrap();
    let approved = approve(&mut tx, &presence, second(481), fresh, "admin");
    let approved = approved.await.unwrap();
    assert_eq!(approved.state, HostState::Pending, "{}", approved.detail);
    assert!(approved.detail.contains("approved"), "{}", approved.detail);
    let mut answers = Vec::new();
    for at in asks {
        between(&mut presence, &mut again, *at);
        let asked = enrol(&mut tx, &presence, second(*at), fresh, &again).await;
        answers.push(asked.unwrap());
    }
    tx.commit().await.unwrap();
    (store, answers)
}

#[test]
fn an_approval_while_the_old_boot_may_live_waits_and_keeps_the_id() {
    run(async {
        let (store, answers) = approved_early(&[510, 540, 571], |_, _, _| {}).await;
        assert_eq!(answers[0].state, HostState::Pending);
        assert_eq!(answers[1].state, HostState::Pending);
        let back = &answers[2];
        assert_eq!(
            (back.id, back.key, back.state),
            (host_record(1).id, digest(9), HostState::Enrolled)
        );
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.hosts().await.unwrap().len(), 1, "a second id was made");
    });
}

#[test]
fn an_approved_twin_of_a_live_host_joins_beside_it() {
    run(async {
        let calls = |presence: &mut Presence, _: &mut Applicant, _| {
            presence.answered(host_record(1).id, second(490));
        };
        let (store, answers) = approved_early(&[510], calls).await;
        assert_eq!(answers[0].state, HostState::Enrolled);
        assert_eq!(answers[0].id, HostId::from_bytes([9; 16]));
        let other = host_record(1).id.to_string();
        assert!(
            answers[0].detail.contains(&other),
            "{} names no twin",
            answers[0].detail
        );
        let mut tx = store.read().await.unwrap();
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_some());
    });
}

#[test]
fn an_approval_is_for_the_machine_that_was_shown() {
    run(async {
        let changes = |_: &mut Presence, again: &mut Applicant, at| {
            if at == 510 {
                again.identity = host_record(2).identity;
            }
        };
        let (_, answers) = approved_early(&[510, 600], changes).await;
        for answer in answers {
            assert_eq!(answer.state, HostState::Pending, "{}", answer.detail);
            assert_eq!(answer.admitted_by, None);
        }
    });
}

#[test]
fn a_pending_machine_that_is_restarted_leaves_no_ghost() {
    run(async {
        let store = MemoryStore::default();
        let mut tx = store.begin().await.unwrap();
        let presence = Presence::new(second(0));
        for (n, at) in [(1, 0), (2, 60), (2, 120), (3, 400)] {
            let boot = Applicant {
                key: digest(n),
                token: None,
                ..applicant(1)
            };
            let id = HostId::from_bytes([n; 16]);
            enrol(&mut tx, &presence, second(at), id, &boot)
                .await
                .unwrap();
        }
        let hosts = tx.hosts().await.unwrap();
        assert_eq!(hosts.len(), 1, "{hosts:?}");
        assert_eq!(hosts[0].key, digest(3));
    });
}

/// Host 1 with a lease that runs there, called last at second 450; its
/// hardware asks with another key at each of `asks`, after `between`.
async fn asking(
    asks: &[i64],
    between: impl Fn(&mut Presence, i64),
) -> (MemoryStore, Vec<HostRecord>) {
    let store = MemoryStore::default();
    furnish(&store, &[host_record(1)], &[]).await;
    let mut tx = store.begin().await.unwrap();
    tx.put_token(&token_record(1, 1)).await.unwrap();
    let mut presence = Presence::new(second(0));
    presence.answered(host_record(1).id, second(450));
    let twin = Applicant {
        key: digest(9),
        ..applicant(1)
    };
    let fresh = HostId::from_bytes([9; 16]);
    let mut answers = Vec::new();
    for at in asks {
        between(&mut presence, *at);
        let asked = enrol(&mut tx, &presence, second(*at), fresh, &twin).await;
        answers.push(asked.unwrap());
    }
    tx.commit().await.unwrap();
    (store, answers)
}

#[test]
fn a_quick_reboot_waits_unspent_and_comes_back_as_the_same_host() {
    run(async {
        let (store, answers) = asking(&[480, 495, 570, 571, 572], |_, _| {}).await;
        let [first, second_, third, back, again] = answers.as_slice() else {
            panic!("five answers")
        };
        for waiting in [first, second_, third] {
            assert_eq!(waiting.state, HostState::Pending, "{}", waiting.detail);
        }
        for back in [back, again] {
            assert_eq!(
                (back.id, back.key, back.state),
                (host_record(1).id, digest(9), HostState::Enrolled)
            );
        }
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.hosts().await.unwrap().len(), 1, "a ghost stayed");
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_none());
        let token = tx.token(&digest(1)).await.unwrap().unwrap();
        assert_eq!(token.used, 1);
    });
}

#[test]
fn a_host_that_hung_up_is_followed_sooner() {
    run(async {
        let (_, answers) = asking(&[480, 511], |presence, at| {
            if at == 480 {
                presence.opened(host_record(1).id);
                presence.closed(host_record(1).id, second(450), true);
            }
        })
        .await;
        assert_eq!(answers[0].state, HostState::Pending);
        assert_eq!(answers[1].id, host_record(1).id);
    });
}

#[test]
fn a_machine_that_still_calls_is_not_replaced_and_its_twin_joins_beside_it() {
    run(async {
        let (store, answers) = asking(&[480, 495], |presence, at| {
            if at == 495 {
                presence.answered(host_record(1).id, second(490));
            }
        })
        .await;
        assert_eq!(answers[0].state, HostState::Pending);
        let twin = &answers[1];
        assert_eq!(twin.state, HostState::Enrolled);
        assert_eq!(twin.id, HostId::from_bytes([9; 16]));
        let mut tx = store.read().await.unwrap();
        assert!(tx.host_of_key(&digest(1)).await.unwrap().is_some());
    });
}

#[test]
fn hardware_that_waited_for_approval_comes_back_as_itself_with_a_token() {
    run(async {
        let (store, pending) = returned(false).await;
        let mut tx = store.begin().await.unwrap();
        let again = Applicant {
            key: digest(9),
            ..applicant(1)
        };
        let presence = Presence::new(second(0));
        let fresh = HostId::from_bytes([8; 16]);
        let host = enrol(&mut tx, &presence, second(501), fresh, &again)
            .await
            .unwrap();
        assert_eq!(host.id, host_record(1).id);
        assert!(tx.host(pending.id).await.unwrap().is_none());
    });
}

#[test]
fn hardware_that_was_turned_away_and_is_vouched_for_again_is_known_to_be_it() {
    run(async {
        let store = MemoryStore::default();
        furnish(&store, &[host_record(1)], &[]).await;
        let mut tx = store.begin().await.unwrap();
        tx.put_token(&token_record(1, 1)).await.unwrap();
        let mut presence = Presence::new(second(0));
        presence.answered(host_record(1).id, second(490));
        reject(&mut tx, host_record(1).id).await.unwrap();
        let again = Applicant {
            key: digest(9),
            ..applicant(1)
        };
        let fresh = HostId::from_bytes([9; 16]);
        let host = enrol(&mut tx, &presence, second(500), fresh, &again).await;
        assert_eq!(host.unwrap().state, HostState::Enrolled);
        let old = tx.host(host_record(1).id).await.unwrap().unwrap();
        assert_eq!(old.replaced_by, Some(fresh));
    });
}

/// Host 1 as the token let it in.
fn let_in() -> HostRecord {
    let token = token_record(1, 1);
    HostRecord {
        admitted_by: Some(Admission::Token {
            name: token.name,
            id: Some(token.id),
        }),
        ..host_record(1)
    }
}

/// What host 1's hardware hears that asks at second 500 with another key and
/// a spent token, and the register after it.
async fn on_a_spent_token(
    old: HostRecord,
    token: TokenRecord,
    last_call: i64,
) -> (Result<HostRecord, EnrolError>, Vec<HostRecord>) {
    let store = MemoryStore::default();
    furnish(&store, &[old], &[]).await;
    let mut tx = store.begin().await.unwrap();
    let spent = TokenRecord { used: 1, ..token };
    tx.put_token(&spent).await.unwrap();
    let mut presence = Presence::new(second(0));
    presence.answered(host_record(1).id, second(last_call));
    let again = Applicant {
        key: digest(9),
        ..applicant(1)
    };
    let fresh = HostId::from_bytes([9; 16]);
    let heard = enrol(&mut tx, &presence, second(500), fresh, &again).await;
    assert_eq!(tx.token(&spent.hash).await.unwrap(), Some(spent));
    (heard, tx.hosts().await.unwrap())
}

#[test]
fn a_host_is_not_counted_again_by_the_token_that_admitted_it() {
    run(async {
        let (heard, hosts) = on_a_spent_token(let_in(), token_record(1, 1), 100).await;
        let back = heard.unwrap();
        assert_eq!((back.id, back.key), (let_in().id, digest(9)));
        assert_eq!(back.admitted_by, let_in().admitted_by);
        assert_eq!(hosts, [back]);
    });
}

#[test]
fn on_a_spent_token_a_host_waits_while_its_old_boot_may_live() {
    run(async {
        let (heard, hosts) = on_a_spent_token(let_in(), token_record(1, 1), 450).await;
        let waits = heard.unwrap();
        assert_eq!(waits.state, HostState::Pending, "{}", waits.detail);
        assert!(waits.detail.contains("alive a moment ago"));
        assert!(hosts.contains(&let_in()), "{hosts:?}");
    });
}

#[test]
fn a_spent_token_brings_back_nobody_else() {
    run(async {
        let token = || token_record(1, 1);
        let tpm = HostRecord {
            key_storage: "tpm".to_owned(),
            ..let_in()
        };
        let approved = HostRecord {
            admitted_by: Some(Admission::Operator {
                key: "admin".to_owned(),
            }),
            ..let_in()
        };
        let unrecorded = HostRecord {
            admitted_by: Some(Admission::Token {
                name: token().name,
                id: None,
            }),
            ..let_in()
        };
        let rejected = HostRecord {
            state: HostState::Rejected,
            ..let_in()
        };
        let quarantined = HostRecord {
            state: HostState::Quarantined,
            ..let_in()
        };
        let other = HostRecord {
            identity: host_record(2).identity,
            ..let_in()
        };
        let namesake = TokenRecord {
            id: TokenId::from_bytes([2; 16]),
            ..token()
        };
        for (what, old, token) in [
            ("a key in a TPM", tpm, token()),
            ("an operator's host", approved, token()),
            ("no token's id", unrecorded, token()),
            ("turned away", rejected, token()),
            ("quarantined", quarantined, token()),
            ("other hardware", other, token()),
            ("another token of the same name", let_in(), namesake),
        ] {
            let (heard, hosts) = on_a_spent_token(old.clone(), token, 100).await;
            assert!(
                matches!(heard, Err(EnrolError::Token(TokenRefusal::Spent { .. }))),
                "{what}: {heard:?}"
            );
            assert_eq!(hosts, [old], "{what}");
        }
    });
}

#[test]
fn on_a_spent_token_no_twin_of_a_live_host_joins() {
    run(async {
        let store = MemoryStore::default();
        furnish(&store, &[let_in()], &[]).await;
        let mut tx = store.begin().await.unwrap();
        let spent = TokenRecord {
            used: 1,
            ..token_record(1, 1)
        };
        tx.put_token(&spent).await.unwrap();
        let mut presence = Presence::new(second(0));
        let twin = Applicant {
            key: digest(9),
            ..applicant(1)
        };
        let fresh = HostId::from_bytes([9; 16]);
        presence.answered(let_in().id, second(450));
        let waits = enrol(&mut tx, &presence, second(480), fresh, &twin).await;
        assert_eq!(waits.unwrap().state, HostState::Pending);
        presence.answered(let_in().id, second(490));
        let heard = enrol(&mut tx, &presence, second(495), fresh, &twin).await;
        assert!(
            matches!(heard, Err(EnrolError::Token(TokenRefusal::Spent { .. }))),
            "{heard:?}"
        );
        assert_eq!(tx.host(let_in().id).await.unwrap(), Some(let_in()));
    });
}

#[test]
fn only_so_many_wait_for_an_earlier_boot_to_fall_silent() {
    run(async {
        let store = MemoryStore::default();
        furnish(&store, &[let_in()], &[]).await;
        let mut tx = store.begin().await.unwrap();
        tx.put_token(&token_record(1, 1)).await.unwrap();
        let mut presence = Presence::new(second(0));
        presence.answered(let_in().id, second(450));
        for n in 0..=MAX_PENDING {
            let mut bytes = [255; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let id = HostId::from_u128(n as u128);
            let claimant = Applicant {
                key: Digest::from_sha256(bytes),
                ..applicant(1)
            };
            let asked = enrol(&mut tx, &presence, second(480), id, &claimant).await;
            assert_eq!(asked.is_ok(), n < MAX_PENDING, "{n}");
        }
    });
}

#[test]
fn only_so_many_hosts_may_wait_for_approval() {
    run(async {
        let store = MemoryStore::default();
        let mut tx = store.begin().await.unwrap();
        let presence = Presence::new(second(0));
        for n in 0..=MAX_PENDING {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            let id = HostId::from_u128(n as u128);
            let stranger = Applicant {
                key: Digest::from_sha256(bytes),
                token: None,
                ..applicant(1)
            };
            let asked = enrol(&mut tx, &presence, second(1), id, &stranger).await;
            assert_eq!(asked.is_ok(), n < MAX_PENDING, "{n}");
        }
    });
}

#[test]
fn a_machine_that_says_nothing_telling_joins_at_once() {
    run(async {
        let store = MemoryStore::default();
        let bare = HostRecord {
            identity: HardwareIdentity::default(),
            ..host_record(1)
        };
        furnish(&store, &[bare], &[]).await;
        let mut tx = store.begin().await.unwrap();
        tx.put_token(&token_record(1, 1)).await.unwrap();
        let lab = Applicant {
            key: digest(9),
            identity: HardwareIdentity::default(),
            ..applicant(1)
        };
        let fresh = HostId::from_bytes([9; 16]);
        let presence = Presence::new(second(500));
        let host = enrol(&mut tx, &presence, second(500), fresh, &lab)
            .await
            .unwrap();
        assert_eq!((host.id, host.state), (fresh, HostState::Enrolled));
    });
}

#[test]
fn one_late_request_of_a_former_boot_is_no_second_machine() {
    let mut host = host_record(1);
    let (old, new) = (host.boot.unwrap(), BootId::from_bytes([2; 16]));
    assert_eq!(see_boot(&mut host, new, address(2)), BootSeen::New);
    assert_eq!(see_boot(&mut host, old, address(1)), BootSeen::Former);
    assert_eq!(
        (see_boot(&mut host, new, address(2)), host.state),
        (BootSeen::Same, HostState::Enrolled)
    );
    assert_eq!(see_boot(&mut host, old, address(1)), BootSeen::Double);
    assert_eq!(host.state, HostState::Quarantined);
    for named in [
        "192.0.2.1 ",
        "192.0.2.2 ",
        &old.to_string(),
        &new.to_string(),
    ] {
        assert!(host.detail.contains(named), "{named}: {}", host.detail);
    }
}
