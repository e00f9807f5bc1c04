//! What time alone brings about: quotes run out, windows end, bills close, and
//! leases that were lost with their host go to another.
//!
//! What always holds: a silent host's placement is not freed. Only a lease
//! under the `fence` clause is, once its host must have stopped it; and not
//! while so many hosts are silent at once that the fault is more likely ours,
//! nor is any lease placed anew then.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::{HostState, PriceBook, is_alarming};
use surplus_protocol::ids::{HostId, LeaseId};
use surplus_protocol::lease::{EndReason, LeaseState, OnLostLink};
use surplus_safeguard::{Safeguard, stands};

use crate::lease::{Action, Event, InvalidTransition};
use crate::presence::Presence;
use crate::records::{HostRecord, LeaseRecord};
use crate::rent::tell_host;
use crate::replacement::{Placed, decide_lost};
use crate::settlement;
use crate::store::{LeaseFilter, StoreError, Tx};

/// Added to a fence clause before its placement counts as free: a host may
/// count a little later than we do.
pub const FENCE_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// How long a quote that ran out is told from one that never was.
const QUOTES_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// After how long a host that does not ask any more waits no longer.
const PENDING_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Hosts whose desired state changed.
    pub wake: Vec<HostId>,
    pub changed: usize,
    /// More than 30 % of the hosts are silent at once: nothing was fenced or
    /// placed anew.
    pub alarm: bool,
    /// Leases that another host took over.
    pub placed: Vec<Placed>,
    /// Leases that were lost and that no host took.
    pub given_up: Vec<LeaseId>,
}

/// Carries out what the time demands.
///
/// # Errors
///
/// Where the store fails.
pub async fn sweep<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    book: &PriceBook,
) -> Result<Swept, StoreError> {
    let hosts = tx.hosts().await?;
    let enrolled = || {
        hosts
            .iter()
            .filter(|host| host.state == HostState::Enrolled)
    };
    let silent = enrolled()
        .filter(|host| presence.is_unreachable(host, now))
        .count();
    let mut swept = Swept {
        alarm: is_alarming(silent, enrolled().count()) && stands(Safeguard::Brake),
        ..Swept::default()
    };

    let mut live = tx.leases(LeaseFilter::Live).await?;
    let mut unsettled = tx.leases(LeaseFilter::Unsettled).await?;
    let mut changed = BTreeSet::new();
    for lease in live.iter_mut().chain(&mut unsettled) {
        let host = hosts.iter().find(|host| host.id == lease.host);
        let due = match lease.life.ended_at {
            Some(at) if lease.life.state == LeaseState::Ended => {
                let received = tx.receipts(lease.id).await?;
                let over = settlement::is_over(lease, at, &received, &hosts, presence, now);
                over.then_some(Due::Step(Event::Settle))
            }
            _ => due(lease, host, presence, now, swept.alarm),
        };
        let Some(due) = due else {
            continue;
        };
        let before = lease.clone();
        let Ok(actions) = carry_out(lease, due, now) else {
            continue;
        };
        if *lease == before {
            continue;
        }
        tx.put_lease(lease).await?;
        tell_host(tx, lease.host, &actions).await?;
        changed.insert(lease.id);
        if !actions.is_empty() {
            swept.wake.push(lease.host);
        }
    }
    let alarm = swept.alarm;
    let done = decide_lost(tx, &hosts, &mut live, presence, now, book, alarm).await?;
    changed.extend(done.placed.iter().map(|placed| placed.lease));
    changed.extend(&done.ended);
    swept.changed = changed.len();
    swept.wake.extend(done.wake);
    (swept.placed, swept.given_up) = (done.placed, done.ended);
    for host in hosts.iter().filter(|host| host.state == HostState::Pending) {
        let asked = host.last_seen_at.unwrap_or(host.enrolled_at);
        if now.duration_since(asked) > PENDING_KEPT && tx.delete_host(host.id).await? {
            swept.changed += 1;
        }
    }
    let purged = tx
        .purge_quotes(now.saturating_sub(QUOTES_KEPT).unwrap_or(Timestamp::MIN))
        .await?;
    swept.changed += usize::try_from(purged).unwrap_or(usize::MAX);
    swept.wake.sort();
    swept.wake.dedup();
    Ok(swept)
}

/// What the time demands of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    /// This happens to it.
    Step(Event),
    /// Its host must have stopped it by its clause.
    Fence,
}

/// What the time demands of a lease that has not ended, if anything.
fn due(
    lease: &LeaseRecord,
    host: Option<&HostRecord>,
    presence: &Presence,
    now: Timestamp,
    alarm: bool,
) -> Option<Due> {
    match lease.life.state {
        // Decided on with its kind, once each lease was looked at.
        LeaseState::Lost => return None,
        LeaseState::Quoted => {
            let over = lease.quote_expires_at <= now;
            return over.then_some(Due::Step(Event::QuoteExpired { at: now }));
        }
        _ => {}
    }
    if let OnLostLink::Fence { after_seconds } = lease.on_lost_link
        && lease.life.is_placed()
        && !alarm
        && let Some(host) = host
    {
        let silence = now.duration_since(presence.last_possible(host));
        let deadline = SignedDuration::from_secs(after_seconds.into()) + FENCE_MARGIN;
        if silence > deadline {
            return Some(Due::Fence);
        }
    }
    let reclaimed = lease.life.reclaim_at.is_some_and(|at| at <= now);
    let reason = if reclaimed {
        EndReason::Reclaimed
    } else {
        EndReason::Expired
    };
    let over = lease.ends_at <= now || reclaimed;
    let draining = lease.life.state == LeaseState::Draining;
    (over && !draining).then_some(Due::Step(Event::Stop { reason, at: now }))
}

/// Does to the lease what is due; what follows.
fn carry_out(
    lease: &mut LeaseRecord,
    due: Due,
    now: Timestamp,
) -> Result<Vec<Action>, InvalidTransition> {
    let actions = match due {
        Due::Step(event) => lease.apply(event)?,
        Due::Fence => {
            let why = "its host was silent for longer than its fence clause allows";
            lease.lose(EndReason::LinkLost, None, now, why)?
        }
    };
    let never_placed = !lease.life.is_live() && !lease.life.was_placed();
    if never_placed && lease.apply(Event::Settle).is_ok() {
        "its time ran out before any host ran it".clone_into(&mut lease.detail);
    }
    Ok(actions)
}

#[cfg(test)]
mod tests;
