//! Waiting for a lease to get somewhere, with each change told.
//!
//! What always holds: a step is told once; the wait ends when the goal is
//! reached or can no longer be reached, and at the latest at its deadline.

use std::time::Duration;

use surplus_protocol::api::Lease;
use surplus_protocol::ids::LeaseId;
use surplus_protocol::lease::{EndReason, GuestPhase, LeaseState};

use super::Session;
use crate::clock;
use crate::failure::Failure;
use crate::units::show_seconds;
use crate::view::lease_state;

const PAUSE: Duration = Duration::from_millis(500);

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The guest runs, or has run.
    Running,
    /// The guest is gone.
    Ended,
}

/// Where a wait stands after one more look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Reached,
    OutOfReach,
}

fn judge(goal: Goal, lease: &Lease) -> Verdict {
    let over = matches!(lease.state, LeaseState::Ended | LeaseState::Settled);
    match goal {
        Goal::Ended if over => Verdict::Reached,
        Goal::Running if over => match (lease.started_at, lease.end_reason) {
            // A guest that did its work and left between two looks.
            (Some(_), reason) if reason != Some(EndReason::StartFailed) => Verdict::Reached,
            _ => Verdict::OutOfReach,
        },
        Goal::Running
            if lease.state == LeaseState::Active && lease.phase == Some(GuestPhase::Running) =>
        {
            Verdict::Reached
        }
        _ => Verdict::GoOn,
    }
}

/// Looks at the lease until the goal is reached.
///
/// # Errors
///
/// The lease ended before its guest ran; the deadline passed; the marketplace
/// refused or could not be reached for longer than a request is retried.
pub(crate) async fn wait(
    session: &Session,
    id: LeaseId,
    goal: Goal,
    limit: Option<Duration>,
) -> Result<Lease, Failure> {
    let begin = clock::instant();
    let spinner = session.out.spinner();
    let mut told = String::new();
    loop {
        let lease: Lease = session.api.poll(&format!("/leases/{id}")).await?;
        let step = step(&lease);
        if step != told {
            let elapsed = begin.elapsed();
            spinner.suspend(|| {
                session
                    .out
                    .note(&format!("{:>6.1}s  {step}", elapsed.as_secs_f32()))
            });
            spinner.set_message(lease_state(&lease));
            told = step;
        }
        match judge(goal, &lease) {
            Verdict::GoOn => {}
            Verdict::Reached => {
                spinner.finish_and_clear();
                return Ok(lease);
            }
            Verdict::OutOfReach => {
                spinner.finish_and_clear();
                return Err(out_of_reach(&lease));
            }
        }
        if let Some(limit) = limit.filter(|limit| begin.elapsed() >= *limit) {
            spinner.finish_and_clear();
            return Err(too_long(&lease, limit));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One line on where the lease stands.
fn step(lease: &Lease) -> String {
    let state = lease_state(lease);
    if lease.detail.is_empty() {
        state
    } else {
        format!("{state}: {}", lease.detail)
    }
}

fn document(lease: &Lease) -> serde_json::Value {
    serde_json::to_value(lease).unwrap_or_default()
}

fn out_of_reach(lease: &Lease) -> Failure {
    let why = lease.end_reason.map_or("it ended", crate::view::end_reason);
    let failure = Failure::new(
        format!(
            "the guest of lease {} ({}) never ran: {why}",
            lease.id, lease.name
        ),
        format!(
            "`surplus console {}` shows what the guest said, if it came so far; nothing is billed",
            lease.id
        ),
    );
    let failure = if lease.detail.is_empty() {
        failure
    } else {
        failure.because(lease.detail.clone())
    };
    failure.showing(document(lease))
}

fn too_long(lease: &Lease, limit: Duration) -> Failure {
    Failure::new(
        format!(
            "lease {} ({}) is still {} after {}",
            lease.id,
            lease.name,
            lease_state(lease),
            show_seconds(limit.as_secs())
        ),
        format!(
            "it goes on: `surplus leases {0}` shows where it stands, `surplus end {0}` gives it up",
            lease.id
        ),
    )
    .showing(document(lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples::lease;

    #[test]
    fn a_guest_runs_only_when_its_host_says_so() {
        let mut seen = lease(0);
        assert_eq!(judge(Goal::Running, &seen), Verdict::Reached);
        seen.phase = Some(GuestPhase::Preparing);
        assert_eq!(judge(Goal::Running, &seen), Verdict::GoOn);
        seen.state = LeaseState::Reserved;
        seen.phase = None;
        assert_eq!(judge(Goal::Running, &seen), Verdict::GoOn);
    }

    #[test]
    fn a_guest_that_left_at_once_did_run_and_a_failed_start_did_not() {
        let mut seen = lease(0);
        seen.state = LeaseState::Ended;
        seen.end_reason = Some(EndReason::GuestStopped);
        assert_eq!(judge(Goal::Running, &seen), Verdict::Reached);
        seen.end_reason = Some(EndReason::StartFailed);
        assert_eq!(judge(Goal::Running, &seen), Verdict::OutOfReach);
        seen.end_reason = Some(EndReason::Ended);
        seen.started_at = None;
        assert_eq!(judge(Goal::Running, &seen), Verdict::OutOfReach);
        assert_eq!(judge(Goal::Ended, &seen), Verdict::Reached);
    }

    #[test]
    fn a_failure_carries_the_hosts_reason() {
        let mut seen = lease(0);
        seen.state = LeaseState::Settled;
        seen.end_reason = Some(EndReason::StartFailed);
        seen.detail = "the image's hash is wrong".into();
        assert!(
            out_of_reach(&seen)
                .text()
                .contains("why: the image's hash is wrong")
        );
    }
}
