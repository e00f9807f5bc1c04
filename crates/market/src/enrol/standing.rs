//! How a host that asks to join stands to those that have joined: new, the
//! same machine come back, or a second one that looks the same.
//!
//! What always holds: a machine that still calls is never replaced by one that
//! claims to be it.

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;

use crate::presence::Presence;
use crate::records::HostRecord;
use crate::store::{StoreError, Tx};

/// A call that was on its way when its machine was restarted comes no later.
const LATE_CALL: SignedDuration = SignedDuration::from_secs(5);

/// How one that asks stands to the hosts that have joined.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing<'a> {
    /// A machine that nobody knows.
    New,
    /// The same hardware as a host that called since this one began to ask:
    /// two machines.
    Beside(HostId),
    /// The same hardware as a host that may be alive still.
    Waits(HostId),
    /// This host, come back with another key.
    Back(&'a HostRecord),
}

pub(super) fn standing<'a>(
    hosts: &'a [HostRecord],
    asks: &HostRecord,
    presence: &Presence,
    now: Timestamp,
) -> Standing<'a> {
    let same = || {
        hosts
            .iter()
            .filter(|old| old.state == HostState::Enrolled && is_same(old, asks))
    };
    let gone = same().filter(|old| presence.is_gone(old, now));
    if let Some(old) = gone.max_by_key(|old| presence.last_seen(old)) {
        return Standing::Back(old);
    }
    // A machine that was restarted does not call under its old key again.
    let alive_beside = |old: &&HostRecord| {
        presence
            .last_call(old.id)
            .is_some_and(|at| at.duration_since(asks.enrolled_at) > LATE_CALL)
    };
    if let Some(old) = same().find(|old| !alive_beside(old)) {
        return Standing::Waits(old.id);
    }
    same()
        .next()
        .map_or(Standing::New, |old| Standing::Beside(old.id))
}

/// Whether both are one machine, as far as it says of itself. A UUID alone does
/// not tell: boards with the same one exist.
pub(super) fn is_same(old: &HostRecord, host: &HostRecord) -> bool {
    let telling = host.identity.system_uuid.is_some() && !host.identity.macs.is_empty();
    telling && old.id != host.id && old.identity == host.identity
}

/// Notes on hosts that were turned away that `host`, now vouched for, is their
/// hardware: its first sync says that their guests are gone.
pub(super) async fn inherit<T: Tx>(
    tx: &mut T,
    hosts: &[HostRecord],
    host: &HostRecord,
    presence: &Presence,
) -> Result<(), StoreError> {
    for old in hosts {
        let silent = presence
            .last_call(old.id)
            .is_none_or(|at| at <= host.enrolled_at);
        if old.state == HostState::Rejected && is_same(old, host) && silent {
            tx.put_host(&HostRecord {
                replaced_by: Some(host.id),
                ..old.clone()
            })
            .await?;
        }
    }
    Ok(())
}
