//! Decides what to do next, from what is desired, remembered and seen.
//!
//! A pure function: no clock, no I/O. What always holds of a plan:
//!
//! - Nothing starts without a ticket for this host and this boot, of the
//!   highest epoch seen, before its `not_after`.
//! - Nothing stops because something is missing from what is desired: a stop
//!   has a tombstone, the lease's end, a newer epoch, or the guest's own doing
//!   behind it.
//! - What libvirt could not be asked about is not judged.
//! - Removing comes before adding.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::agent::Tombstone;
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{EndReason, EndReceipt, Ticket};
use surplus_safeguard::{Safeguard, stands};
use surplus_seat::Seat;

use super::domain_xml;
use super::hypervisor::{DomainState, ObservedDomain};
use super::overhead::footprint;
use super::placement::Placement;
use super::record::{Ending, Record, Stage};
use super::store::Ledger;

/// What shall be, as the marketplace last said. Tickets are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub tickets: Vec<Ticket>,
    pub tombstones: Vec<Tombstone>,
    /// When a fence clause stops a guest at the latest unless the marketplace
    /// answers again, in milliseconds since boot.
    pub fenced_by: BTreeMap<Placement, u64>,
}

/// How far the making of a guest has come in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Making {
    /// Image, disk and seed are being made.
    Working,
    /// All is there: the domain can be made.
    Ready,
    /// It failed and is tried again at this time.
    Failed { retry_at: Timestamp, detail: String },
    /// It failed for good.
    Hopeless { detail: String },
}

/// Everything that a plan depends on.
#[derive(Debug)]
pub struct World<'a> {
    pub now: Timestamp,
    /// The same on the boot-time clock.
    pub boot_millis: u64,
    pub host: HostId,
    pub boot: BootId,
    pub desired: &'a Desired,
    pub ledger: &'a Ledger,
    pub records: &'a BTreeMap<Placement, Record>,
    /// Receipts that are on their way, and those that arrived.
    pub receipts: &'a BTreeMap<Placement, EndReceipt>,
    pub kept: &'a BTreeMap<Placement, EndReceipt>,
    /// Our domains; `None` when libvirt could not be asked.
    pub domains: Option<&'a [ObservedDomain]>,
    pub making: &'a BTreeMap<Placement, Making>,
    /// Placements that have files on this host.
    pub guest_dirs: &'a [Placement],
    /// What all guests together may take; `None`: not known yet.
    pub sellable: Option<Resources>,
    /// How long a guest has to power off by itself.
    pub grace: SignedDuration,
}

/// One thing to do. Doing it twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// End a domain that no ticket stands behind.
    DestroyStray {
        domain: String,
        why: String,
    },
    /// Remove files that no record stands behind.
    RemoveLeftover(Placement),
    /// Ask the guest to power off, and remember when it is destroyed.
    BeginStop {
        placement: Placement,
        why: Ending,
        kill_at: Timestamp,
    },
    Destroy(Placement),
    /// The domain is gone: remove its files and write the receipt.
    Finish {
        placement: Placement,
        why: Ending,
    },
    /// A stop came for what never was here, or of which nothing is left: write
    /// the receipt.
    Close {
        tombstone: Tombstone,
    },
    /// The ticket cannot be fulfilled: write the receipt.
    Reject {
        ticket: Box<Ticket>,
        why: Ending,
    },
    /// The domain runs: go on from there.
    Adopt(Placement),
    /// The domain runs, but its record is lost: make one from its metadata.
    AdoptOrphan {
        ticket: Box<Ticket>,
        seat: Seat,
    },
    Accept(Box<Ticket>),
    /// The same placement's ticket was signed anew: it may start for longer.
    Refresh(Box<Ticket>),
    /// Make image, disk and seed.
    Prepare(Placement),
    /// Make the domain.
    Start(Placement),
}

/// What to do, what was refused, and when to look again at the latest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub problems: Vec<String>,
    pub wake_at: Option<Timestamp>,
}

/// The plan for this world.
pub fn plan(world: &World<'_>) -> Plan {
    let mut planner = Planner {
        world,
        plan: Plan::default(),
    };
    let seen = planner.domains();
    planner.strays(&seen);
    for record in world.records.values() {
        planner.record(record, seen.get(&record.placement()).copied());
    }
    planner.tombstones();
    planner.tickets();
    planner.plan.steps.sort_by_key(Step::rank);
    planner.plan
}

struct Planner<'a> {
    world: &'a World<'a>,
    plan: Plan,
}

type Seen<'a> = BTreeMap<Placement, &'a ObservedDomain>;

impl<'a> Planner<'a> {
    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    fn wake(&mut self, at: Timestamp) {
        if at > self.world.now {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Our domains by placement. One whose metadata cannot be read is left
    /// alone and reported.
    fn domains(&mut self) -> Seen<'a> {
        let mut seen = Seen::new();
        for domain in self.world.domains.unwrap_or_default() {
            match domain_xml::ticket_of(&domain.metadata) {
                Ok(ticket) => {
                    seen.insert(Placement::of(&ticket), domain);
                }
                Err(error) => {
                    let name = &domain.name;
                    self.plan
                        .problems
                        .push(format!("domain {name} is left alone: {error}"));
                }
            }
        }
        seen
    }

    fn strays(&mut self, seen: &Seen<'a>) {
        for (placement, domain) in seen {
            if self.world.records.contains_key(placement) {
                continue;
            }
            let newest = self
                .world
                .ledger
                .get(&placement.lease)
                .is_none_or(|seen| seen.epoch <= placement.epoch);
            let ticket = domain_xml::ticket_of(&domain.metadata);
            match (ticket, domain_xml::seat_of(&domain.metadata)) {
                // Its record is lost, yet the guest is under a ticket: it runs on.
                (Ok(ticket), Ok(seat)) if newest && self.is_for_us(&ticket) => {
                    let ticket = Box::new(ticket);
                    self.step(Step::AdoptOrphan { ticket, seat });
                }
                _ => self.step(Step::DestroyStray {
                    domain: domain.name.clone(),
                    why: "a later epoch of its lease was here".into(),
                }),
            }
        }
        // Without a look at the domains nobody knows whose files these are.
        if self.world.domains.is_none() {
            return;
        }
        for placement in self.world.guest_dirs {
            let known = self.world.records.contains_key(placement);
            if !known && !seen.contains_key(placement) {
                self.step(Step::RemoveLeftover(*placement));
            }
        }
    }

    fn record(&mut self, record: &Record, domain: Option<&ObservedDomain>) {
        let placement = record.placement();
        match &record.stage {
            _ if record.ticket.boot != self.world.boot => {
                let why = Ending::new(EndReason::HostRebooted, "the host rebooted");
                self.step(Step::Finish { placement, why });
            }
            Stage::Accepted | Stage::Starting { .. } => match domain {
                Some(_) => self.step(Step::Adopt(placement)),
                None => self.unstarted(record),
            },
            Stage::Running => self.running(record, domain),
            Stage::Stopping { why, kill_at } => match domain {
                Some(_) if *kill_at <= self.world.now => self.step(Step::Destroy(placement)),
                Some(_) => self.wake(*kill_at),
                None if self.world.domains.is_some() => {
                    self.step(Step::Finish {
                        placement,
                        why: why.clone(),
                    });
                }
                None => self.overdue(record, *kill_at),
            },
        }
    }

    /// A lease that has no domain yet.
    fn unstarted(&mut self, record: &Record) {
        let placement = record.placement();
        // Whether a domain is on its way is known only by looking.
        if matches!(record.stage, Stage::Starting { .. }) && self.world.domains.is_none() {
            return;
        }
        let making = self.world.making.get(&placement);
        if let Some(mut why) = self.order_to_stop(record) {
            if let Some(Making::Failed { detail, .. }) = making {
                why.detail = format!("{}; it had not started: {detail}", why.detail);
            }
            return self.step(Step::Finish { placement, why });
        }
        // An agent that was stopped for long has not heard of its fence yet, and
        // another host may have the lease.
        if self.is_fenced(placement) {
            let detail = "the marketplace was silent for longer than the lease allows";
            let why = Ending::new(EndReason::LinkLost, detail);
            return self.step(Step::Finish { placement, why });
        }
        let not_after = self.not_after(record);
        if not_after < self.world.now && stands(Safeguard::NotAfter) {
            let mut detail = String::from("it could not be started before its ticket ran out");
            if let Some(Making::Failed { detail: last, .. }) = making {
                detail = format!("{detail}: {last}");
            }
            let why = Ending::new(EndReason::StartFailed, detail);
            return self.step(Step::Finish { placement, why });
        }
        self.wake(record.ticket.ends_at);
        self.wake(
            not_after
                .saturating_add(SignedDuration::from_millis(1))
                .unwrap_or(Timestamp::MAX),
        );
        match making {
            None => self.step(Step::Prepare(placement)),
            Some(Making::Working) => {}
            Some(Making::Ready) if self.world.domains.is_some() => {
                self.step(Step::Start(placement));
            }
            Some(Making::Ready) => {}
            Some(Making::Failed { retry_at, .. }) if *retry_at <= self.world.now => {
                self.step(Step::Prepare(placement));
            }
            Some(Making::Failed { retry_at, .. }) => self.wake(*retry_at),
            Some(Making::Hopeless { detail }) => {
                let why = Ending::new(EndReason::StartFailed, detail.clone());
                self.step(Step::Finish { placement, why });
            }
        }
    }

    /// Whether its fence clause has stopped the guest by now, whoever did it.
    fn is_fenced(&self, placement: Placement) -> bool {
        let fenced_by = self.world.desired.fenced_by.get(&placement);
        fenced_by.is_some_and(|fenced| *fenced <= self.world.boot_millis)
    }

    /// Until when the guest may start, by what is remembered and desired.
    fn not_after(&self, record: &Record) -> Timestamp {
        let remembered = record.ticket.not_after;
        let mut tickets = self.world.desired.tickets.iter();
        tickets
            .find(|ticket| self.refreshes(ticket, record))
            .map_or(remembered, |ticket| ticket.not_after)
    }

    /// Whether it is the record's ticket, valid for longer.
    fn refreshes(&self, ticket: &Ticket, record: &Record) -> bool {
        Placement::of(ticket) == record.placement()
            && self.is_for_us(ticket)
            && ticket.guest == record.ticket.guest
            && ticket.not_after > record.ticket.not_after
    }

    fn running(&mut self, record: &Record, domain: Option<&ObservedDomain>) {
        let (placement, now) = (record.placement(), self.world.now);
        let ends_at = record.ticket.ends_at;
        let Some(domain) = domain else {
            if self.world.domains.is_some() {
                let (reason, detail) = if ends_at <= now {
                    (EndReason::Expired, "the lease's window was over")
                } else if self.is_fenced(placement) {
                    // The guard was there before us.
                    let detail = "the marketplace was silent for longer than the lease allows";
                    (EndReason::LinkLost, detail)
                } else {
                    (EndReason::GuestStopped, "the guest stopped by itself")
                };
                let why = Ending::new(reason, detail);
                return self.step(Step::Finish { placement, why });
            }
            return self.overdue(record, ends_at);
        };
        if domain.state == DomainState::Dead {
            return self.step(Step::Destroy(placement));
        }
        if let Some(why) = self.order_to_stop(record) {
            let kill_at = now
                .saturating_add(self.world.grace)
                .unwrap_or(now)
                .min(ends_at);
            return self.step(Step::BeginStop {
                placement,
                why,
                kill_at,
            });
        }
        // The guest is asked in time, so that it is gone at the end.
        let ask_at = ends_at
            .saturating_sub(self.grace_before_end(record))
            .unwrap_or(ends_at);
        if ask_at <= now {
            let why = Ending::new(EndReason::Expired, "the lease's window was over");
            return self.step(Step::BeginStop {
                placement,
                why,
                kill_at: ends_at,
            });
        }
        self.wake(ask_at);
    }

    /// The grace, at most a tenth of the lease's time.
    fn grace_before_end(&self, record: &Record) -> SignedDuration {
        let from = record.started_at.unwrap_or(record.ticket.issued_at);
        let tenth = record.ticket.ends_at.duration_since(from) / 10;
        self.world.grace.min(tenth).max(SignedDuration::ZERO)
    }

    fn overdue(&mut self, record: &Record, end: Timestamp) {
        self.wake(end);
        if end <= self.world.now {
            let placement = record.placement();
            self.plan.problems.push(format!(
                "lease {placement} is past its end, and libvirt cannot be asked whether it runs"
            ));
            // What cannot be seen may still be ended.
            self.step(Step::Destroy(placement));
        }
    }

    /// Why a lease that has not ended shall stop, if it shall.
    fn order_to_stop(&self, record: &Record) -> Option<Ending> {
        let Placement { lease, epoch } = record.placement();
        let desired = self.world.desired;
        let tombstone = desired
            .tombstones
            .iter()
            .find(|stone| stone.lease == lease && epoch <= stone.epoch);
        if let Some(stone) = tombstone {
            return Some(Ending::new(stone.reason, "the marketplace ended it"));
        }
        if record.ticket.ends_at <= self.world.now {
            return Some(Ending::new(
                EndReason::Expired,
                "the lease's window was over",
            ));
        }
        let newer = desired.tickets.iter().find(|ticket| {
            ticket.lease == lease && ticket.epoch > epoch && self.is_for_us(ticket)
        })?;
        let detail = format!("it was placed anew, as epoch {}", newer.epoch);
        Some(Ending::new(EndReason::Reclaimed, detail))
    }

    fn tombstones(&mut self) {
        for tombstone in &self.world.desired.tombstones {
            let placement = Placement::new(tombstone.lease, tombstone.epoch);
            let known = self.world.records.contains_key(&placement)
                || self.world.receipts.contains_key(&placement)
                || self.world.kept.contains_key(&placement);
            if !known {
                self.step(Step::Close {
                    tombstone: tombstone.clone(),
                });
            }
        }
    }

    fn tickets(&mut self) {
        let mut taken = self
            .world
            .records
            .values()
            .fold(Resources::default(), |sum, record| {
                sum.saturating_add(footprint(record.ticket.guest.resources))
            });
        for ticket in &self.world.desired.tickets {
            let placement = Placement::of(ticket);
            if let Some(record) = self.world.records.get(&placement) {
                let unstarted = matches!(record.stage, Stage::Accepted | Stage::Starting { .. });
                if unstarted && self.refreshes(ticket, record) {
                    self.step(Step::Refresh(Box::new(ticket.clone())));
                }
                continue;
            }
            if let Some(refusal) = self.refusal(ticket) {
                // A ticket that was seen through to its end may still be
                // desired while the receipt travels; that is no problem.
                if !refusal.is_empty() {
                    self.plan
                        .problems
                        .push(format!("ticket {placement} is refused: {refusal}"));
                }
                continue;
            }
            if self.stopped_by_tombstone(placement) {
                continue;
            }
            let mut older = self
                .world
                .records
                .values()
                .filter(|it| it.ticket.lease == ticket.lease);
            if older.next().is_some() {
                continue;
            }
            let needed = taken.saturating_add(footprint(ticket.guest.resources));
            match self.world.sellable {
                Some(all) if !fits(all, needed, ticket) => {
                    let why = Ending::new(EndReason::StartFailed, misfit(all, taken, ticket));
                    self.step(Step::Reject {
                        ticket: Box::new(ticket.clone()),
                        why,
                    });
                }
                _ => {
                    taken = needed;
                    self.step(Step::Accept(Box::new(ticket.clone())));
                }
            }
        }
    }

    fn stopped_by_tombstone(&self, placement: Placement) -> bool {
        let mut stones = self.world.desired.tombstones.iter();
        stones.any(|stone| stone.lease == placement.lease && placement.epoch <= stone.epoch)
    }

    fn is_for_us(&self, ticket: &Ticket) -> bool {
        ticket.host == self.world.host && ticket.boot == self.world.boot
    }

    /// Why nothing may run under this ticket; an empty text where that needs no
    /// mention.
    fn refusal(&self, ticket: &Ticket) -> Option<String> {
        if ticket.host != self.world.host {
            return Some(format!("it is for host {}", ticket.host));
        }
        if ticket.boot != self.world.boot {
            return Some(format!("it is for boot {} of this host", ticket.boot));
        }
        let seen = self.world.ledger.get(&ticket.lease);
        match seen.filter(|_| stands(Safeguard::Epoch)) {
            Some(seen) if seen.epoch > ticket.epoch => Some(format!(
                "epoch {} of the lease was here already",
                seen.epoch
            )),
            Some(seen) if seen.epoch == ticket.epoch => Some(String::new()),
            _ => None,
        }
    }
}

/// Whether a guest fits that brings what is `needed` to so much. Addresses may have
/// gone that others were sold; who wants none is not asked for them.
fn fits(all: Resources, needed: Resources, ticket: &Ticket) -> bool {
    let addressed = ticket.guest.resources.addresses == 0 || needed.addresses <= all.addresses;
    addressed && all.checked_sub(needed).is_some()
}

/// Why a guest does not fit beside those that are here.
fn misfit(all: Resources, taken: Resources, ticket: &Ticket) -> String {
    let free = |all: u64, taken: u64| all.saturating_sub(taken);
    let needed = footprint(ticket.guest.resources);
    format!(
        "the guest does not fit: it takes {} vCPUs, {} bytes of memory, {} bytes of disk and {} \
         own addresses, its overhead included; {}, {}, {} and {} are free",
        needed.vcpus,
        needed.memory_bytes,
        needed.disk_bytes,
        needed.addresses,
        free(all.vcpus.into(), taken.vcpus.into()),
        free(all.memory_bytes, taken.memory_bytes),
        free(all.disk_bytes, taken.disk_bytes),
        free(all.addresses.into(), taken.addresses.into()),
    )
}

impl Step {
    /// Removing comes before adopting, adopting before adding.
    fn rank(&self) -> u8 {
        match self {
            Self::DestroyStray { .. } | Self::Destroy(_) => 0,
            Self::BeginStop { .. } => 1,
            Self::Finish { .. } | Self::Close { .. } | Self::RemoveLeftover(_) => 2,
            Self::Adopt(_) | Self::AdoptOrphan { .. } | Self::Refresh(_) => 3,
            Self::Accept(_) | Self::Reject { .. } => 4,
            Self::Prepare(_) => 5,
            Self::Start(_) => 6,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DestroyStray { domain, why } => write!(f, "destroy stray {domain}: {why}"),
            Self::RemoveLeftover(placement) => write!(f, "remove leftovers of {placement}"),
            Self::BeginStop {
                placement,
                why,
                kill_at,
            } => {
                write!(
                    f,
                    "ask {placement} to stop until {kill_at}: {:?}, {}",
                    why.reason, why.detail
                )
            }
            Self::Destroy(placement) => write!(f, "destroy {placement}"),
            Self::Finish { placement, why } => {
                write!(f, "finish {placement}: {:?}, {}", why.reason, why.detail)
            }
            Self::Close { tombstone } => {
                write!(f, "close {}.{}", tombstone.lease, tombstone.epoch)
            }
            Self::Reject { ticket, why } => {
                write!(f, "reject {}: {}", Placement::of(ticket), why.detail)
            }
            Self::Adopt(placement) => write!(f, "adopt {placement}"),
            Self::AdoptOrphan { ticket, seat } => {
                write!(f, "adopt orphan {} in seat {seat}", Placement::of(ticket))
            }
            Self::Accept(ticket) => write!(f, "accept {}", Placement::of(ticket)),
            Self::Refresh(ticket) => write!(f, "refresh {}", Placement::of(ticket)),
            Self::Prepare(placement) => write!(f, "prepare {placement}"),
            Self::Start(placement) => write!(f, "start {placement}"),
        }
    }
}

#[cfg(test)]
mod tests;
