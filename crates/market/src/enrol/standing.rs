//! How a host that asks to join stands to those that have joined: new, the
//! same machine come back, or a second one that looks the same.
//!
//! What always holds: a machine that still calls is never replaced by one that
//! claims to be it.

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;
use surplus_protocol::inventory::HardwareIdentity;

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
/// not tell: boards with the same one exist. Nor does one common MAC: a service
/// processor's card has the same one in many machines.
pub(super) fn is_same(old: &HostRecord, host: &HostRecord) -> bool {
    old.id != host.id && is_one_machine(&old.identity, &host.identity)
}

/// A card may appear late or be taken out, so where a serial number helps to
/// tell, one list of cards may lie within the other. A machine asks over one of
/// its own cards: for another to pass for it, that card's MAC must be double
/// too.
fn is_one_machine(one: &HardwareIdentity, other: &HardwareIdentity) -> bool {
    let board = |of: &HardwareIdentity| HardwareIdentity {
        macs: Vec::new(),
        ..of.clone()
    };
    let has = |all: &[String], some: &[String]| some.iter().all(|mac| all.contains(mac));
    let (a, b) = (&one.macs, &other.macs);
    let has_serial = one.system_serial.is_some() || one.board_serial.is_some();
    let telling = one.system_uuid.is_some() && !a.is_empty() && !b.is_empty();
    let cards_fit = a == b || has_serial && (has(a, b) || has(b, a));
    telling && cards_fit && board(one) == board(other)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(serial: Option<&str>, macs: &[&str]) -> HardwareIdentity {
        HardwareIdentity {
            system_uuid: Some("uuid".to_owned()),
            system_serial: serial.map(str::to_owned),
            macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
            ..HardwareIdentity::default()
        }
    }

    #[test]
    fn a_card_more_or_less_makes_no_other_machine_and_one_common_card_no_same_one() {
        let with = |macs: &[&str]| machine(Some("serial"), macs);
        let bare = |macs: &[&str]| machine(None, macs);
        let no_uuid = HardwareIdentity {
            system_uuid: None,
            ..with(&["a"])
        };
        for (one, other, same) in [
            (with(&["a", "b"]), with(&["a", "b"]), true),
            (bare(&["a", "b"]), bare(&["a", "b"]), true),
            (with(&["a"]), with(&["a", "b"]), true),
            // Boards of one batch, each with the same service card.
            (with(&["a", "service"]), with(&["b", "service"]), false),
            (bare(&["a"]), bare(&["a", "b"]), false),
            (with(&["a"]), machine(Some("other"), &["a"]), false),
            (with(&["a"]), bare(&["a"]), false),
            (with(&[]), with(&["a"]), false),
            (with(&[]), with(&[]), false),
            (no_uuid.clone(), no_uuid, false),
        ] {
            assert_eq!(is_one_machine(&one, &other), same, "{one:?} {other:?}");
            assert_eq!(is_one_machine(&other, &one), same, "{other:?} {one:?}");
        }
    }
}
