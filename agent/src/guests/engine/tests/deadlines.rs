//! The guard is told in time, of everything, and no longer than needed.
//!
//! The tests' clock stands at 1200 s, 100 s after the boot; tickets end at
//! 5000 s, which is 3900 s after the boot.

use std::fs;

use super::*;

const END: u64 = 3_900_000;

#[tokio::test]
async fn a_guest_is_made_only_after_its_deadline_is_written_and_it_goes_with_the_guest() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    assert_eq!(rig.asked("create"), 1);
    assert_eq!(rig.asked("unguarded"), 0);
    assert_eq!(rig.deadlines(), [(Placement::of(&ticket), Some(END))]);
    // The same to the millisecond, however often it is looked at.
    rig.pass(30).await;
    assert_eq!(rig.deadlines(), [(Placement::of(&ticket), Some(END))]);
    rig.bury(&ticket);
    rig.settle().await;
    rig.pass(11).await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_guest_whose_deadline_cannot_be_written_is_not_started_until_it_can() {
    let mut rig = Rig::new();
    let run = rig.config.deadlines_dir.parent().unwrap().to_owned();
    fs::write(&run, "in the way").unwrap();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    assert_eq!(rig.asked("create"), 0);
    let status = rig.report().leases[0].clone();
    assert_eq!(status.phase, GuestPhase::Retrying);
    assert!(
        status.detail.contains("tells the guard") && status.detail.contains("deadlines"),
        "{}",
        status.detail
    );
    assert!(!rig.report().problems.is_empty());

    fs::remove_file(&run).unwrap();
    rig.pass(5).await;
    assert_eq!(rig.domains(), [Placement::of(&ticket).domain_name()]);
    assert_eq!(rig.asked("unguarded"), 0);
}

#[tokio::test]
async fn a_guest_that_is_asked_to_stop_must_be_gone_when_it_would_be_destroyed() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.bury(&ticket);
    rig.settle().await;
    assert_eq!(rig.asked("shutdown"), 1);
    let placement = Placement::of(&ticket);
    assert_eq!(rig.deadlines(), [(placement, Some(110_000))]);
    // So does the next agent see it.
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.deadlines(), [(placement, Some(110_000))]);
}

#[tokio::test]
async fn a_fence_is_a_deadline_that_each_answer_moves_and_never_past_the_end() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    let placement = Placement::of(&ticket);
    let desire = |rig: &mut Rig, fenced_by: u64| {
        rig.engine.set_desired(Desired {
            tickets: vec![ticket.clone()],
            fenced_by: BTreeMap::from([(placement, fenced_by)]),
            ..Desired::default()
        });
    };
    for (fenced_by, deadline) in [
        (160_000, 170_000),
        (220_000, 230_000),
        (190_000, 200_000),
        (END, END),
    ] {
        desire(&mut rig, fenced_by);
        rig.settle().await;
        assert_eq!(rig.deadlines(), [(placement, Some(deadline))]);
    }
}

#[tokio::test]
async fn a_deadline_that_was_lost_or_damaged_is_written_anew_and_leftovers_go() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    let placement = Placement::of(&ticket);
    let file = rig.config.deadlines_dir.join(placement.to_string());
    fs::write(&file, "{").unwrap();
    rig.pass(1).await;
    assert_eq!(rig.deadlines(), [(placement, Some(END))]);
    fs::remove_dir_all(&rig.config.deadlines_dir).unwrap();
    // An agent that takes over, too.
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.deadlines(), [(placement, Some(END))]);

    let former = Placement::of(&super::ticket(2, 1));
    fs::copy(&file, rig.config.deadlines_dir.join(former.to_string())).unwrap();
    rig.hypervisor.state().unreachable = true;
    rig.pass(1).await;
    assert_eq!(rig.deadlines().len(), 2, "whether it is gone is not known");
    rig.hypervisor.state().unreachable = false;
    rig.pass(1).await;
    assert_eq!(rig.deadlines(), [(placement, Some(END))]);
}

/// The guard killed it at its deadline; the agent, which was stopped itself,
/// hears of it a minute later.
#[tokio::test]
async fn time_after_the_deadline_is_not_billed_to_a_guest_that_the_guard_ended() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    let placement = Placement::of(&ticket);
    rig.engine.set_desired(Desired {
        tickets: vec![ticket.clone()],
        fenced_by: BTreeMap::from([(placement, 130_000)]),
        ..Desired::default()
    });
    rig.settle().await;
    rig.pass(10).await;
    rig.clock.advance(90_000);
    rig.hypervisor.state().domains.clear();
    rig.engine.domain_stopped(placement.domain_name());
    rig.settle().await;
    let receipt = rig.receipt();
    assert_eq!(receipt.reason, EndReason::LinkLost);
    // From 100 s to the deadline at 140 s.
    assert_eq!(receipt.usage.running_millis, 40_000);
    rig.assert_clean();
}
