//! The judge: sees everything as it truly is, and says what was broken.
//!
//! Its word is the last: a run fails with the first promise that is broken.

use std::collections::{BTreeMap, BTreeSet};

use surplus_agent::guests::Placement;
use surplus_agent::guests::overhead::footprint;
use surplus_market::records::LeaseRecord;
use surplus_protocol::agent::SyncResponse;
use surplus_protocol::api::Bill;
use surplus_protocol::ids::{Epoch, HostId, LeaseId};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{LeaseState, OnLostLink, Ticket};

use crate::agent::{SAMPLE, ticket};
use crate::clock::{Millis, millis};
use crate::host::{Host, offer};
use crate::hub::{Hub, is_placed_on};

/// How late a guest may be gone with everything at work, and otherwise.
pub const LATE: Millis = 2_000;
pub const LATE_IMPAIRED: Millis = 5_000;

/// How long before its end a guest may be asked to power off.
const GRACE: Millis = 10_000;

/// How long a guest may be ordered before it is made.
const ORDERED: Millis = 90_000;

/// How late a ticket may be used: the host's clock lags by an answer's way.
const STALE: Millis = 2_000;

/// A guest that runs.
#[derive(Clone, Debug)]
struct Run {
    host: HostId,
    since: Millis,
    ticket: Ticket,
    /// Somebody meters it.
    seen: bool,
    /// Its fence fell, and it was to be stopped, whatever was heard later.
    fell: bool,
    /// It was ordered to stop, with reason.
    stopping: bool,
}

/// What the judge remembers.
#[derive(Debug, Default)]
pub struct Judge {
    running: BTreeMap<Placement, Run>,
    /// True time in which each placement ran.
    ran: BTreeMap<LeaseId, Millis>,
    /// Placements that ran, were seen to, and are gone.
    ended: BTreeSet<Placement>,
    /// Where each placement ran last.
    places: BTreeMap<Placement, HostId>,
    /// Placements of which their host has lost every trace.
    traceless: BTreeSet<Placement>,
    /// Since when hosts speak to the marketplace as it is now, and not only to one
    /// that was restored since.
    heard: BTreeMap<HostId, Millis>,
    /// Where each lease ever ran.
    been: BTreeSet<(LeaseId, HostId)>,
    /// Of that time, what may be missing on the bill, and why it is honest.
    excused: BTreeMap<LeaseId, Millis>,
    /// The highest epoch that ever ran.
    newest: BTreeMap<LeaseId, Epoch>,
    tombstoned: BTreeSet<Placement>,
    ticketed: BTreeMap<(HostId, LeaseId), Epoch>,
    /// Until when each placement may start, by the latest ticket that arrived.
    not_after: BTreeMap<Placement, Millis>,
    /// When each host asked for the last answer that it got.
    answered: BTreeMap<HostId, Millis>,
    /// Leases of which the marketplace forgot something.
    forgotten: BTreeSet<LeaseId>,
    broken: Option<String>,
}

impl Judge {
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub fn breaks(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    pub fn runs(&self) -> usize {
        self.running.len()
    }

    /// The marketplace's answer reached the host, which had asked at `asked`.
    pub fn hears(&mut self, host: HostId, asked: Millis, now: Millis, answer: &SyncResponse) {
        let before = self.answered.insert(host, asked).unwrap_or(0);
        for run in self.running.values_mut().filter(|run| run.host == host) {
            run.fell |= is_fenced(&run.ticket, before, now);
        }
        for stone in &answer.tombstones {
            for epoch in 1..=stone.epoch {
                self.tombstoned.insert(Placement::new(stone.lease, epoch));
            }
        }
        for ticket in answer.tickets.iter().filter_map(ticket) {
            let newest = self.ticketed.entry((host, ticket.lease)).or_default();
            *newest = ticket.epoch.max(*newest);
            let until = self.not_after.entry(Placement::of(&ticket)).or_default();
            *until = millis(ticket.not_after).max(*until);
        }
    }

    /// A guest was started.
    pub fn made(&mut self, host: &Host, ticket: &Ticket, now: Millis) {
        let placement = Placement::of(ticket);
        let beside = self.running.iter();
        let twin = beside
            .filter(|(other, _)| other.lease == placement.lease)
            .map(|(other, run)| format!("{other} on {}", run.host))
            .next();
        if let Some(twin) = twin {
            self.breaks(|| format!("{placement} was started while {twin} runs"));
        }
        if ticket.host != host.id || host.boot.as_ref().is_none_or(|boot| boot.id != ticket.boot) {
            self.breaks(|| format!("{placement} was started under another host's ticket"));
        }
        let until = self.not_after.get(&placement).copied().unwrap_or(0);
        if now > until + STALE {
            self.breaks(|| format!("{placement} was started after its ticket ran out"));
        }
        if self.ended.contains(&placement) && !self.nobody_knew(placement, now) {
            self.breaks(|| format!("{placement} was started again after it had ended"));
        }
        let newest = self.newest.get(&placement.lease).copied().unwrap_or(0);
        let later = (placement.epoch + 1..=newest).map(|it| Placement::new(placement.lease, it));
        if !later.clone().all(|later| self.nobody_knew(later, now)) {
            self.breaks(|| format!("{placement} was started after epoch {newest} had run"));
        }
        self.newest
            .insert(placement.lease, newest.max(placement.epoch));
        self.places.insert(placement, host.id);
        self.traceless.remove(&placement);
        let run = Run {
            host: host.id,
            since: now,
            ticket: ticket.clone(),
            seen: false,
            fell: false,
            stopping: false,
        };
        self.been.insert((placement.lease, host.id));
        self.running.insert(placement, run);
        self.check_capacity(host);
    }

    /// Whether a placement was forgotten by the marketplace, and its host has lost
    /// it too or was not heard when the next one was ordered: then nobody could know
    /// that its number was used.
    fn nobody_knew(&self, placement: Placement, now: Millis) -> bool {
        let host = self.places.get(&placement);
        let heard = host.and_then(|host| self.heard.get(host));
        let unheard = heard.is_none_or(|since| now < since + ORDERED);
        self.forgotten.contains(&placement.lease)
            && (unheard || self.traceless.contains(&placement))
    }

    /// The marketplace hears the host.
    pub fn speaks(&mut self, host: HostId, now: Millis) {
        self.heard.entry(host).or_insert(now);
    }

    /// The host has only memory, and lost it.
    pub fn memory_lost(&mut self, host: HostId) {
        let here = self.places.iter().filter(|(_, on)| **on == host);
        self.traceless.extend(here.map(|(placement, _)| *placement));
    }

    fn check_capacity(&mut self, host: &Host) {
        let here = self.running.values().filter(|run| run.host == host.id);
        let taken = here.fold(Resources::default(), |sum, run| {
            sum.saturating_add(footprint(run.ticket.guest.resources))
        });
        let all = offer(host.number).1.sellable;
        if all.checked_sub(taken).is_none() || taken.addresses > all.addresses {
            self.breaks(|| format!("host {} runs {taken:?} of {all:?}", host.id));
        }
    }

    /// The agent has looked at everything.
    pub fn turned(&mut self, host: HostId, now: Millis) {
        for run in self.running.values_mut().filter(|run| run.host == host) {
            if !std::mem::replace(&mut run.seen, true) {
                *self.excused.entry(run.ticket.lease).or_default() += now - run.since;
            }
        }
    }

    /// The agent orders a stop: it needs a reason.
    pub fn stops(&mut self, placement: Placement, now: Millis) {
        let Some(run) = self.running.get(&placement) else {
            return;
        };
        if run.stopping {
            return;
        }
        let Run { host, ticket, .. } = run;
        let over = now + GRACE + LATE >= millis(ticket.ends_at);
        let ordered = self.tombstoned.contains(&placement);
        let newer = self.ticketed.get(&(*host, placement.lease));
        let newer = newer.is_some_and(|epoch| *epoch > placement.epoch);
        let answered = self.answered.get(host).copied().unwrap_or(0);
        let fenced = run.fell || is_fenced(ticket, answered, now);
        if !(over || ordered || newer || fenced) {
            self.breaks(|| format!("{placement} was stopped without any reason"));
        }
        if let Some(run) = self.running.get_mut(&placement) {
            run.stopping = true;
        }
    }

    /// A guest is gone.
    pub fn gone(&mut self, placement: Placement, host: &Host, now: Millis) {
        let Some(run) = self.running.remove(&placement) else {
            return;
        };
        *self.ran.entry(placement.lease).or_default() += now - run.since;
        let looked = host.boot.as_ref().map_or(now, |boot| boot.looked_at);
        if !host.is_at_work() {
            // Nobody saw when it ended: it is metered until the last look.
            let unseen = now.saturating_sub(looked.max(run.since)) + sample();
            self.excuse(placement.lease, unseen);
        }
        if run.seen {
            self.ended.insert(placement);
        } else {
            self.excuse(placement.lease, now - run.since);
        }
    }

    /// The host's agent has died: of what it had not written down since its last
    /// look, a look's time is lost.
    pub fn agent_died(&mut self, host: HostId) {
        let here = self.been.iter().filter(|(_, on)| *on == host);
        for lease in here.map(|(lease, _)| *lease).collect::<Vec<_>>() {
            self.excuse(lease, sample());
        }
    }

    /// That much of the lease's time cannot be known to the bill.
    pub fn excuse(&mut self, lease: LeaseId, time: Millis) {
        *self.excused.entry(lease).or_default() += time;
    }

    /// True time in which a lease's guests ran.
    pub fn ran(&self, lease: LeaseId, now: Millis) -> Millis {
        let here = self.running.iter();
        let here = here.filter(|(placement, _)| placement.lease == lease);
        let running: Millis = here.map(|(_, run)| now - run.since).sum();
        running + self.ran.get(&lease).copied().unwrap_or(0)
    }

    /// Whether the lease ever ran there.
    pub fn was_on(&self, lease: LeaseId, host: HostId) -> bool {
        self.been.contains(&(lease, host))
    }

    /// The guests that run on a host.
    pub fn running_on(&self, host: HostId) -> Vec<Placement> {
        let running = self.running.iter();
        running
            .filter(|(_, run)| run.host == host)
            .map(|(placement, _)| *placement)
            .collect()
    }

    /// Whether a guest that runs has its end before then.
    pub fn ends_before(&self, then: Millis) -> bool {
        let mut running = self.running.values();
        running.any(|run| millis(run.ticket.ends_at) < then)
    }

    /// No guest runs past its end.
    pub fn check_ends(&mut self, hosts: &[Host], now: Millis) {
        for (placement, run) in self.running.clone() {
            let end = millis(run.ticket.ends_at);
            let host = hosts.iter().find(|host| host.id == run.host);
            let impaired = host
                .and_then(|host| host.boot.as_ref()?.impaired_at)
                .is_some_and(|at| at + GRACE + LATE_IMPAIRED > end);
            let late = if impaired { LATE_IMPAIRED } else { LATE };
            if now > end + late {
                self.breaks(|| format!("{placement} runs {} ms past its end", now - end));
            }
        }
    }

    /// The marketplace's store is an older one from now on. Of what it forgot it
    /// learns from its hosts, but not at once, nor all that was to be billed.
    pub fn restored(&mut self, present: &[(LeaseRecord, Millis)], hub: &Hub) {
        self.heard.clear();
        for (lease, stored) in present {
            let old = hub.lease(lease.id);
            let same = old.is_some_and(|old| old.life == lease.life);
            if !same || hub.stored(lease.id) != *stored {
                self.forgotten.insert(lease.id);
            }
        }
    }

    /// What runs is known to run: a placement is freed only once it is gone.
    pub fn check_placed(&mut self, hub: &Hub) {
        for (placement, run) in self.running.clone() {
            let record = hub.lease(placement.lease);
            let placed =
                record.is_some_and(|lease| is_placed_on(&lease, run.host, placement.epoch));
            if !placed && !self.forgotten.contains(&placement.lease) {
                self.breaks(|| format!("{placement} was freed while it runs on {}", run.host));
            }
        }
    }

    /// With so many hosts silent at once the fault is the marketplace's own, and
    /// nobody's lease is lost by it.
    pub fn check_brake(&mut self, before: &[LeaseRecord], hub: &Hub) {
        for lease in before.iter().filter(|lease| lease.life.is_placed()) {
            let after = hub.lease(lease.id);
            let kept = after.is_some_and(|after| {
                after.life.is_placed() && after.life.epoch == lease.life.epoch
            });
            if !kept {
                self.breaks(|| format!("lease {} was fenced while everybody was silent", lease.id));
            }
        }
    }

    /// All is said and done: the bill is what the guest ran.
    pub fn check_bill(&mut self, lease: &LeaseRecord, bill: &Bill) {
        if lease.life.state != LeaseState::Settled {
            let state = lease.life.state;
            return self
                .breaks(|| format!("lease {} is {state:?} at the end of all days", lease.id));
        }
        let billed: Millis = bill.usage.iter().map(|record| record.running_millis).sum();
        let ran = self.ran.get(&lease.id).copied().unwrap_or(0);
        let excused = self.excused.get(&lease.id).copied().unwrap_or(0);
        // Each placement's counters are cut to whole milliseconds.
        let rounding = lease.life.epoch;
        if billed > ran + rounding {
            self.breaks(|| format!("lease {}: {billed} ms are billed of {ran}", lease.id));
        }
        if billed + excused + rounding < ran && !self.forgotten.contains(&lease.id) {
            let id = lease.id;
            self.breaks(|| {
                format!("lease {id}: {billed} ms are billed of {ran}, {excused} excused")
            });
        }
    }
}

/// Whether the lease's clause stops its guest, so long after the last answer's
/// question.
fn is_fenced(ticket: &Ticket, answered: Millis, now: Millis) -> bool {
    match ticket.guest.on_lost_link {
        OnLostLink::Keep => false,
        OnLostLink::Fence { after_seconds } => {
            now.saturating_sub(answered) >= u64::from(after_seconds) * 1000
        }
    }
}

fn sample() -> Millis {
    u64::try_from(SAMPLE.as_millis()).unwrap_or(u64::MAX) + 1_000
}
