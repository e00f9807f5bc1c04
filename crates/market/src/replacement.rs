//! Leases that were lost with their host: each goes to another one, with the
//! next epoch, or ends.
//!
//! What always holds: only a lease under the `fence` clause is placed anew, for
//! `keep` promises that it never is. The old reservation is released and the
//! new one taken in one transaction, by the same rules as for a new lease.
//! After its start a marketplace places nothing anew until each host has either
//! been heard or must have stopped what is under such a clause: its store may
//! have been restored from a backup, and a host may run a later epoch than the
//! store knows of (see `sync::desk::recall`).
//! While so many hosts are silent that it is alarming, a lost lease is neither
//! placed nor given up before its time is over.

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::PriceBook;
use surplus_protocol::ids::{Epoch, HostId, LeaseId};
use surplus_protocol::lease::{EndReason, LeaseState, OnLostLink};
use surplus_safeguard::{Safeguard, stands};

use crate::lease::{Action, Event, InvalidTransition, PLACED_ANEW_AT_MOST};
use crate::placement::{self, Candidate, Nowhere, Wish};
use crate::presence::Presence;
use crate::records::{HostRecord, LeaseRecord};
use crate::rent::tell_host;
use crate::store::{StoreError, Tx};
use crate::sweep::FENCE_MARGIN;

/// How long a lost lease waits for hosts that do not know yet what they offer,
/// as its own does not after a reboot.
pub const UNDECIDED_FOR: SignedDuration = SignedDuration::from_mins(2);

/// A lease that another host takes from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub from: HostId,
    pub to: HostId,
}

/// What was done about lost leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    pub placed: Vec<Placed>,
    /// Hosts whose desired state changed.
    pub wake: Vec<HostId>,
    /// Leases that no host took.
    pub ended: Vec<LeaseId>,
}

/// What becomes of a lost lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate<'a> {
    Waits,
    Goes(&'a HostRecord),
    /// It ends, for this reason.
    Ends(String),
}

impl LeaseRecord {
    /// Its placement is surely gone through no act of buyer, guest or owner:
    /// where its clause says so it is lost now and will be placed anew, else it
    /// ended. `why` is one sentence without its full stop.
    ///
    /// # Errors
    ///
    /// [`InvalidTransition`] where it had no placement.
    pub fn lose(
        &mut self,
        reason: EndReason,
        started_at: Option<Timestamp>,
        at: Timestamp,
        why: &str,
    ) -> Result<Vec<Action>, InvalidTransition> {
        let before = self.life.state;
        let fenced = matches!(self.on_lost_link, OnLostLink::Fence { .. });
        let actions = self.apply(Event::Gone {
            reason,
            started_at,
            at,
            anew: fenced && at < self.ends_at,
        })?;
        if self.life.state == before {
            return Ok(actions);
        }
        why.clone_into(&mut self.detail);
        if self.life.state == LeaseState::Lost {
            self.phase = None;
            self.addresses.clear();
            self.forwards.clear();
        } else if self.life.former.len() == PLACED_ANEW_AT_MOST {
            self.detail = format!(
                "{why}; it was placed anew {PLACED_ANEW_AT_MOST} times, and no lease is more often"
            );
        }
        Ok(actions)
    }

    /// `host` takes it, in place of the one that lost it.
    fn place_anew(&mut self, host: &HostRecord) -> Result<Vec<Action>, InvalidTransition> {
        let actions = self.apply(Event::PlaceAnew { left: self.host })?;
        self.detail = format!("placed anew: {}", self.detail);
        self.host = host.id;
        self.site.clone_from(&host.site);
        Ok(actions)
    }

    /// It ends, for the reason for which it was lost.
    fn give_up(&mut self, now: Timestamp, why: &str) -> Result<Vec<Action>, InvalidTransition> {
        let lost = self.life.lost.map(|lost| lost.reason);
        let actions = self.apply(Event::Gone {
            reason: lost.unwrap_or(EndReason::LinkLost),
            started_at: None,
            at: now,
            anew: false,
        })?;
        self.detail = format!("{}; {why}", self.detail);
        Ok(actions)
    }

    /// Whether `host` holds or held it with that epoch, and got a ticket for it.
    pub fn was_on(&self, host: HostId, epoch: Epoch) -> bool {
        if epoch == self.life.epoch {
            return self.host == host && self.life.boot.is_some();
        }
        let mut former = self.life.former.iter();
        former.any(|former| (former.host, former.epoch) == (host, epoch))
    }
}

/// Places the lost leases among `live` anew, or ends them; `live` is then as
/// the store holds it.
///
/// # Errors
///
/// Where the store fails.
pub(crate) async fn decide_lost<T: Tx>(
    tx: &mut T,
    hosts: &[HostRecord],
    live: &mut [LeaseRecord],
    presence: &Presence,
    now: Timestamp,
    book: &PriceBook,
    alarm: bool,
) -> Result<Decided, StoreError> {
    let mut done = Decided::default();
    if !live.iter().any(|lease| lease.life.lost.is_some()) {
        return Ok(done);
    }
    let mut candidates = placement::candidates(hosts, live, presence, now);
    for lease in live.iter_mut().filter(|lease| lease.life.lost.is_some()) {
        let from = lease.host;
        // What it holds there is its own to take again.
        give_back(&mut candidates, lease);
        let waits = alarm || !may_know_all(lease, presence.since(), now);
        let step = match fate(lease, &candidates, now, book, waits) {
            Fate::Waits => None,
            Fate::Goes(host) => Some(lease.place_anew(host)),
            Fate::Ends(why) => Some(lease.give_up(now, &why)),
        };
        if lease.life.is_live() {
            hold(&mut candidates, lease);
        }
        let Some(Ok(actions)) = step else { continue };
        tx.put_lease(lease).await?;
        let to = Some(lease.host).filter(|to| *to != from);
        for host in [Some(from), to].into_iter().flatten() {
            tell_host(tx, host, &actions).await?;
            done.wake.push(host);
        }
        if lease.life.is_live() {
            done.placed.push(Placed {
                lease: lease.id,
                epoch: lease.life.epoch,
                from,
                to: lease.host,
            });
        } else {
            done.ended.push(lease.id);
        }
    }
    Ok(done)
}

/// Whether a host with a later placement of the lease would have been heard by
/// now, or has stopped it by the clause: this process listens `since` then.
pub(crate) fn may_know_all(lease: &LeaseRecord, since: Timestamp, now: Timestamp) -> bool {
    let OnLostLink::Fence { after_seconds } = lease.on_lost_link else {
        return true;
    };
    let fence = SignedDuration::from_secs(after_seconds.into());
    now.duration_since(since) > fence + FENCE_MARGIN || !stands(Safeguard::Restart)
}

fn fate<'a>(
    lease: &LeaseRecord,
    candidates: &[Candidate<'a>],
    now: Timestamp,
    book: &PriceBook,
    waits: bool,
) -> Fate<'a> {
    let Some(loss) = lease.life.lost else {
        return Fate::Waits;
    };
    if lease.ends_at <= now {
        return Fate::Ends("its time was over before it was placed anew".to_owned());
    }
    if waits {
        return Fate::Waits;
    }
    let wish = Wish {
        resources: lease.resources,
        site: lease.wanted_site.as_deref(),
    };
    match placement::choose(candidates, wish, book) {
        Ok(host) => {
            let chosen = candidates.iter().find(|one| one.host.id == host);
            chosen.map_or(Fate::Waits, |one| Fate::Goes(one.host))
        }
        Err(_)
            if now.duration_since(loss.at) < UNDECIDED_FOR
                && candidates.iter().any(|one| one.is_undecided(wish)) =>
        {
            Fate::Waits
        }
        Err(nowhere) => Fate::Ends(no_room(&nowhere)),
    }
}

/// That no host had room, with the shortest of their reasons.
fn no_room(nowhere: &Nowhere) -> String {
    match nowhere.reasons.iter().min_by_key(|reason| reason.len()) {
        Some(reason) => format!("no host had room to place it anew: {reason}"),
        None => "no host was there to place it anew".to_owned(),
    }
}

/// Takes the lease's share off its host.
fn give_back(candidates: &mut [Candidate<'_>], lease: &LeaseRecord) {
    let host = candidates.iter_mut().find(|one| one.host.id == lease.host);
    if let Some(host) = host
        && let Some(at) = host.sold.iter().position(|sold| *sold == lease.resources)
    {
        host.sold.swap_remove(at);
    }
}

/// Puts the lease's share on its host.
fn hold(candidates: &mut [Candidate<'_>], lease: &LeaseRecord) {
    let host = candidates.iter_mut().find(|one| one.host.id == lease.host);
    if let Some(host) = host {
        host.sold.push(lease.resources);
    }
}

#[cfg(test)]
mod tests;
