//! What time alone brings about: quotes run out, windows end, bills close.
//!
//! What always holds: a silent host's placement is not freed. Only a lease
//! under the `fence` clause is, once its host must have stopped it; and not
//! while so many hosts are silent at once that the fault is more likely ours.

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;
use surplus_protocol::lease::{EndReason, LeaseState, OnLostLink};

use crate::lease::Event;
use crate::presence::Presence;
use crate::records::{HostRecord, LeaseRecord};
use crate::rent::tell_host;
use crate::store::{LeaseFilter, StoreError, Tx};

/// Added to a fence clause before its placement counts as free: a host may
/// count a little later than we do.
pub const FENCE_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// How long late usage is waited for where no receipt came.
pub const SETTLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

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
    /// More than 30 % of the hosts are silent at once: nothing was fenced.
    pub alarm: bool,
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
        alarm: is_alarming(silent, enrolled().count()),
        ..Swept::default()
    };

    let mut leases = tx.leases(LeaseFilter::Live).await?;
    leases.extend(tx.leases(LeaseFilter::Unsettled).await?);
    for mut lease in leases {
        let host = hosts.iter().find(|host| host.id == lease.host);
        let before = lease.clone();
        let Some(event) = due(&lease, host, presence, now, swept.alarm) else {
            continue;
        };
        let Ok(actions) = lease.apply(event) else {
            continue;
        };
        let never_placed = !lease.life.is_live() && lease.life.boot.is_none();
        if never_placed && lease.apply(Event::Settle).is_ok() {
            "its time ran out before any host ran it".clone_into(&mut lease.detail);
        }
        if lease == before {
            continue;
        }
        tx.put_lease(&lease).await?;
        tell_host(tx, &lease, &actions).await?;
        swept.changed += 1;
        if !actions.is_empty() {
            swept.wake.push(lease.host);
        }
    }
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

/// Two hosts may both be silent by chance; of three or more, over 30 % hardly.
fn is_alarming(silent: usize, enrolled: usize) -> bool {
    enrolled > 2 && silent * 10 > enrolled * 3
}

/// What the time demands of a lease, if anything.
fn due(
    lease: &LeaseRecord,
    host: Option<&HostRecord>,
    presence: &Presence,
    now: Timestamp,
    alarm: bool,
) -> Option<Event> {
    if let Some(after) = lease.life.ended_at
        && lease.life.state == LeaseState::Ended
    {
        return (now.duration_since(after) >= SETTLE_AFTER).then_some(Event::Settle);
    }
    if lease.life.state == LeaseState::Quoted {
        let over = lease.quote_expires_at <= now;
        return over.then_some(Event::QuoteExpired { at: now });
    }
    if let OnLostLink::Fence { after_seconds } = lease.on_lost_link
        && lease.life.is_placed()
        && !alarm
        && let Some(host) = host
    {
        let silence = now.duration_since(presence.last_possible(host));
        let deadline = SignedDuration::from_secs(after_seconds.into()) + FENCE_MARGIN;
        if silence > deadline {
            let (reason, at) = (EndReason::LinkLost, now);
            return Some(Event::Gone {
                reason,
                started_at: None,
                at,
            });
        }
    }
    let reclaimed = lease.life.reclaim_at.is_some_and(|at| at <= now);
    let reason = if reclaimed {
        EndReason::Reclaimed
    } else {
        EndReason::Expired
    };
    let over = lease.ends_at <= now || reclaimed;
    (over && lease.life.state != LeaseState::Draining).then_some(Event::Stop { reason, at: now })
}

#[cfg(test)]
mod tests;
