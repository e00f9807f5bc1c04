use proptest::prelude::*;

use super::*;

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

fn boot(n: u8) -> BootId {
    BootId::from_bytes([n; 16])
}

fn host(n: u8) -> HostId {
    HostId::from_bytes([n; 16])
}

fn event() -> impl Strategy<Value = Event> {
    let time = (0_i64..1000).prop_map(second);
    prop_oneof![
        Just(Event::Take),
        time.clone().prop_map(|at| Event::QuoteExpired { at }),
        (0_u8..2).prop_map(|n| Event::Ticketed { boot: boot(n) }),
        time.clone().prop_map(|at| Event::Running { at }),
        time.clone()
            .prop_map(|deadline| Event::Reclaim { deadline }),
        time.clone().prop_map(|at| Event::Stop {
            reason: EndReason::Ended,
            at
        }),
        (time, any::<bool>()).prop_map(|(at, anew)| Event::Gone {
            reason: EndReason::GuestStopped,
            started_at: None,
            at,
            anew,
        }),
        (0_u8..3).prop_map(|n| Event::PlaceAnew { left: host(n) }),
        Just(Event::Settle),
    ]
}

/// What one step may do.
fn check_step(before: &Lease, event: &Event, after: &Lease) -> Result<(), TestCaseError> {
    let anew = matches!(event, Event::PlaceAnew { .. });
    if before.is_placed() && !after.is_placed() {
        prop_assert!(
            matches!(event, Event::Gone { .. }),
            "{event:?} freed a placement"
        );
    }
    if after.state == LeaseState::Lost && before.state != LeaseState::Lost {
        prop_assert!(before.is_placed() && before.stop.is_none() && before.reclaim_at.is_none());
    }
    if anew {
        prop_assert_eq!(before.state, LeaseState::Lost);
        prop_assert_eq!(after.epoch, before.epoch + 1);
        prop_assert_eq!(after.former.len(), before.former.len() + 1);
        prop_assert_eq!(after.boot, None);
        let left = after.former.last().unwrap();
        prop_assert_eq!((left.epoch, Some(left.boot)), (before.epoch, before.boot));
    } else {
        prop_assert_eq!(after.epoch, before.epoch);
        prop_assert!(before.boot.is_none() || after.boot == before.boot);
    }
    prop_assert!(after.former.starts_with(&before.former), "forgotten");
    prop_assert!(after.former.len() <= PLACED_ANEW_AT_MOST);
    if before.state == LeaseState::Settled {
        prop_assert_eq!(after, before);
    }
    prop_assert!(before.is_live() || !after.is_live(), "rose from the dead");
    prop_assert!(before.started_at.is_none() || after.started_at == before.started_at);
    Ok(())
}

proptest! {
    #[test]
    fn random_events_keep_what_always_holds(events in prop::collection::vec(event(), 0..80)) {
        let mut lease = Lease::quoted();
        let (mut reserved, mut released, mut closed) = (1, 0, 0);
        for event in events {
            let Ok((after, actions)) = lease.clone().step(event.clone()) else { continue };
            check_step(&lease, &event, &after)?;
            let count = |action| actions.iter().filter(|a| **a == action).count();
            reserved += count(Action::Reserve);
            released += count(Action::Release);
            closed += count(Action::CloseBill);
            prop_assert_eq!(reserved, released + usize::from(after.is_live()));
            prop_assert_eq!(reserved, after.former.len() + 1);
            prop_assert_eq!(closed, usize::from(after.state == LeaseState::Settled));
            prop_assert_eq!(after.ended_at.is_some(), !after.is_live());
            prop_assert_eq!(after.end_reason.is_some(), !after.is_live());
            prop_assert_eq!(after.lost.is_some(), after.state == LeaseState::Lost);
            lease = after;
        }
    }
}

/// A lease that waits for its first ticket.
fn taken() -> Lease {
    Lease::quoted().step(Event::Take).unwrap().0
}

/// A lease after these events.
fn after(mut lease: Lease, events: impl IntoIterator<Item = Event>) -> Lease {
    for event in events {
        lease = lease.step(event).unwrap().0;
    }
    lease
}

/// Its placement is gone, and its clause has it placed anew.
fn lost(at: i64) -> Event {
    Event::Gone {
        reason: EndReason::LinkLost,
        started_at: None,
        at: second(at),
        anew: true,
    }
}

#[test]
fn a_lost_lease_starts_over_with_the_next_epoch_and_remembers_where_it_was() {
    let ran = [
        Event::Ticketed { boot: boot(1) },
        Event::Running { at: second(5) },
        lost(60),
    ];
    let lease = after(taken(), ran);
    assert!(!lease.is_placed() && !lease.shall_run() && lease.is_live());
    let (lease, actions) = lease.step(Event::PlaceAnew { left: host(1) }).unwrap();
    assert_eq!(
        actions,
        [Action::Release, Action::Reserve, Action::TellHost]
    );
    assert_eq!((lease.state, lease.epoch), (LeaseState::Reserved, 2));
    assert_eq!(
        lease.former,
        [FormerPlacement {
            epoch: 1,
            host: host(1),
            boot: boot(1),
            reason: EndReason::LinkLost,
            gone_at: second(60),
        }]
    );
    let runs = [
        Event::Ticketed { boot: boot(2) },
        Event::Running { at: second(90) },
    ];
    let lease = after(lease, runs);
    assert_eq!(lease.state, LeaseState::Active);
    assert_eq!(lease.started_at, Some(second(5)), "the first start stays");
}

#[test]
fn a_lease_whose_stop_was_ordered_is_not_placed_anew() {
    let stop = Event::Stop {
        reason: EndReason::Ended,
        at: second(2),
    };
    let reclaim = Event::Reclaim {
        deadline: second(9),
    };
    for order in [stop, reclaim] {
        let ran = [
            Event::Ticketed { boot: boot(1) },
            Event::Running { at: second(1) },
            order,
            lost(60),
        ];
        let lease = after(taken(), ran);
        assert_eq!(lease.state, LeaseState::Ended);
        assert!(lease.step(Event::PlaceAnew { left: host(1) }).is_err());
    }
}

#[test]
fn a_lost_lease_may_be_given_up_and_the_hosts_later_word_counts() {
    let lease = after(taken(), [Event::Ticketed { boot: boot(1) }, lost(60)]);
    let stopped = Event::Gone {
        reason: EndReason::GuestStopped,
        started_at: Some(second(3)),
        at: second(50),
        anew: false,
    };
    let ended = after(lease.clone(), [stopped]);
    assert_eq!(ended.end_reason, Some(EndReason::GuestStopped));
    assert_eq!(ended.started_at, Some(second(3)));
    let stop = Event::Stop {
        reason: EndReason::Ended,
        at: second(61),
    };
    assert_eq!(after(lease, [stop]).end_reason, Some(EndReason::Ended));
}

#[test]
fn a_lease_that_loses_host_after_host_ends() {
    let mut lease = taken();
    for _ in 0..PLACED_ANEW_AT_MOST {
        let round = [
            Event::Ticketed { boot: boot(1) },
            lost(60),
            Event::PlaceAnew { left: host(1) },
        ];
        lease = after(lease, round);
    }
    let lease = after(lease, [Event::Ticketed { boot: boot(1) }, lost(60)]);
    assert_eq!(lease.state, LeaseState::Ended);
}

#[test]
fn an_order_to_stop_does_not_free_a_placed_lease() {
    let lease = after(taken(), [Event::Ticketed { boot: boot(1) }]);
    let stop = Event::Stop {
        reason: EndReason::Ended,
        at: second(1),
    };
    let (lease, actions) = lease.step(stop).unwrap();
    assert_eq!(lease.state, LeaseState::Draining);
    assert_eq!(actions, [Action::TellHost]);
}

#[test]
fn a_ticket_for_another_boot_is_refused() {
    let lease = after(taken(), [Event::Ticketed { boot: boot(1) }]);
    assert!(lease.step(Event::Ticketed { boot: boot(2) }).is_err());
}
