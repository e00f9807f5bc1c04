//! When the bill of an ended lease is closed though receipts are missing.
//!
//! A receipt closes it at once. Without one the guest's last usage may still be
//! on its way: a host that was cut off brings it days later. What always holds:
//! a bill is closed without a host's receipt only when none will come (the boot
//! that ran the guest is over, and the host has been heard of for long enough
//! since), or after so long that nobody waits any more.

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::{BootId, Epoch, HostId};

use crate::presence::Presence;
use crate::records::{HostRecord, LeaseRecord};

/// How long a host that may still send a receipt is listened to after the end.
pub const SETTLE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// After how long a lost host's word is not waited for any more.
pub const SETTLE_AT_LAST: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Whether the bill of a lease that ended at `ended_at` can be closed, with
/// receipts for the epochs `received`.
pub(crate) fn is_over(
    lease: &LeaseRecord,
    ended_at: Timestamp,
    received: &[Epoch],
    hosts: &[HostRecord],
    presence: &Presence,
    now: Timestamp,
) -> bool {
    let since = now.duration_since(ended_at);
    if since >= SETTLE_AT_LAST {
        return true;
    }
    let life = &lease.life;
    let present = life.boot.map(|boot| (life.epoch, lease.host, boot));
    let former = life.former.iter().map(|it| (it.epoch, it.host, it.boot));
    let placements: Vec<_> = former.chain(present).collect();
    // A boot sends what it has in order: after a later receipt no earlier one
    // comes.
    let heard = |(epoch, host, boot): &(Epoch, HostId, BootId)| {
        let mut later = placements.iter().filter(|(later, ..)| later >= epoch);
        later.any(|(later, on, by)| (on, by) == (host, boot) && received.contains(later))
    };
    let mut silent = placements.iter().filter(|placement| !heard(placement));
    since >= SETTLE_AFTER
        && silent.all(|(_, host, boot)| will_send_nothing(*host, *boot, ended_at, hosts, presence))
}

/// Whether the boot that ran a guest is over, and its host had the time to send
/// what it may have kept of it.
fn will_send_nothing(
    host: HostId,
    boot: BootId,
    ended_at: Timestamp,
    hosts: &[HostRecord],
    presence: &Presence,
) -> bool {
    let Some(host) = hosts.iter().find(|record| record.id == host) else {
        return true;
    };
    // Nobody speaks for a host that was turned away or replaced.
    if host.state == HostState::Rejected {
        return true;
    }
    let heard = presence.last_call(host.id).max(host.last_seen_at);
    let listened = heard.is_some_and(|at| at.duration_since(ended_at) >= SETTLE_AFTER);
    host.boot != Some(boot) && listened
}
