//! A lease's life as a value.
//!
//! ```text
//!              Take           Ticketed           Running
//!   Quoted ───────────▶ Reserved ─────────▶ Preparing ─────────▶ Active
//!     │                    │                   │               │     │ Reclaim
//!     │ QuoteExpired       │ Stop         Stop │          Stop │     ▼
//!     │                    │ (no ticket        │               │  Reclaiming
//!     │                    │  was given)       ▼               ▼     │ Stop
//!     │                    │               Draining ◀────────────────┘
//!     ▼                    ▼                   │
//!   Ended ◀────────────────┴───────────────────┘ Gone: receipt, new boot
//!     │ Settle                                   without the guest, confirmed
//!     ▼                                          power-off, fence expired;
//!   Settled                                      from any placed state
//!
//!                        Gone, anew          PlaceAnew
//!   Preparing or Active ────────────▶ Lost ─────────────▶ Reserved,
//!                                       │                 with the next epoch
//!                                       │ Stop, Gone
//!                                       ▼
//!                                     Ended
//! ```
//!
//! [`Event::Overtaken`] is left out: it makes any live lease `Preparing`, or
//! leaves it `Draining`, under the later epoch that a host has a ticket for.
//!
//! What always holds:
//!
//! - Once a ticket was given out the placement is freed by [`Event::Gone`]
//!   alone; an order to stop only drains.
//! - A lease is placed anew only after its placement is gone, and never once
//!   it was ordered to stop or the owner wants the capacity back.
//! - The epoch never falls, and each placement before the present one is
//!   remembered.
//! - Each reservation is released exactly once: on entering `Ended`, or with
//!   the next one. A lease that is lost holds the one that it had.
//! - `Settled` is final, and nothing that comes later changes it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::ids::{BootId, Epoch, HostId};
use surplus_protocol::lease::{EndReason, LeaseState};

/// How often a lease is placed anew at most. A guest that takes its hosts down
/// with it is kept from the next ones, and no placement need be forgotten.
pub const PLACED_ANEW_AT_MOST: usize = 16;

/// A placement that was lost, and the lease placed anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerPlacement {
    pub epoch: Epoch,
    pub host: HostId,
    /// The boot for which its ticket was given out.
    pub boot: BootId,
    pub reason: EndReason,
    /// When it was known to be gone.
    pub gone_at: Timestamp,
}

/// How the present placement was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub reason: EndReason,
    /// When it was known to be gone.
    pub at: Timestamp,
}

/// Where a lease stands and how it came there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub state: LeaseState,
    /// Counts the placements.
    pub epoch: Epoch,
    /// The boot for which a ticket was given out.
    pub boot: Option<BootId>,
    /// The placements before this one, oldest first.
    pub former: Vec<FormerPlacement>,
    /// Set exactly while it is lost.
    pub lost: Option<Loss>,
    /// Why it shall stop, once that was ordered.
    pub stop: Option<EndReason>,
    /// Until when the guest may still run while it is being reclaimed.
    pub reclaim_at: Option<Timestamp>,
    /// When the guest ran first, in whichever placement.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub end_reason: Option<EndReason>,
}

/// What happens to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The buyer took the quote.
    Take,
    /// The quote ran out.
    QuoteExpired { at: Timestamp },
    /// A ticket for this boot is about to be given out.
    Ticketed { boot: BootId },
    /// The host says that the guest runs.
    Running { at: Timestamp },
    /// The owner wants the capacity back by the deadline.
    Reclaim { deadline: Timestamp },
    /// It shall stop.
    Stop { reason: EndReason, at: Timestamp },
    /// The guest is surely gone: the host's receipt, a new boot without it, a
    /// confirmed power-off or an expired fence deadline say so.
    Gone {
        reason: EndReason,
        started_at: Option<Timestamp>,
        at: Timestamp,
        /// By its clause the lease is placed anew after this. One that was
        /// ordered to stop ends all the same.
        anew: bool,
    },
    /// A host takes it, in the place of the one that lost it.
    PlaceAnew { left: HostId },
    /// A later placement than this store knows of turned up, on a host that
    /// shows its ticket: the store was restored from a backup. `left` is the
    /// host of the placement that was thought to be the last.
    Overtaken {
        epoch: Epoch,
        boot: BootId,
        left: HostId,
        at: Timestamp,
    },
    /// No more usage is waited for.
    Settle,
}

/// What follows from a step, for the caller to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The host's desired state changed: count its generation up and wake it.
    TellHost,
    /// The reservation is free again.
    Release,
    /// A reservation is taken on the host that the lease goes to.
    Reserve,
    /// The bill will not change any more.
    CloseBill,
}

/// An event that cannot happen in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease that is {state:?} cannot take the event {event:?}")]
pub struct InvalidTransition {
    pub state: LeaseState,
    pub event: Event,
}

impl Lease {
    /// A fresh quote.
    pub fn quoted() -> Self {
        Self {
            state: LeaseState::Quoted,
            epoch: 1,
            boot: None,
            former: Vec::new(),
            lost: None,
            stop: None,
            reclaim_at: None,
            started_at: None,
            ended_at: None,
            end_reason: None,
        }
    }

    /// Whether it still holds its reservation.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, LeaseState::Ended | LeaseState::Settled)
    }

    /// Whether a host may be running it: a ticket was given out and the guest
    /// is not known to be gone.
    pub fn is_placed(&self) -> bool {
        use LeaseState::{Active, Draining, Preparing, Reclaiming};
        matches!(self.state, Preparing | Active | Reclaiming | Draining)
    }

    /// Whether a ticket was ever given out for it.
    pub fn was_placed(&self) -> bool {
        self.boot.is_some() || !self.former.is_empty()
    }

    /// Whether its host shall run it now.
    pub fn shall_run(&self) -> bool {
        use LeaseState::{Active, Preparing, Reclaiming, Reserved};
        matches!(self.state, Reserved | Preparing | Active | Reclaiming)
    }

    /// The lease after `event`, and what follows from it.
    ///
    /// # Errors
    ///
    /// [`InvalidTransition`] where the diagram has no such arrow.
    pub fn step(mut self, event: Event) -> Result<(Self, Vec<Action>), InvalidTransition> {
        use LeaseState::{
            Active, Draining, Ended, Lost, Preparing, Quoted, Reclaiming, Reserved, Settled,
        };
        let actions = match (self.state, &event) {
            (Quoted, Event::Take) => {
                self.state = Reserved;
                vec![Action::TellHost]
            }
            (Quoted, Event::QuoteExpired { at }) => self.end(EndReason::QuoteExpired, *at),
            (Reserved, Event::Ticketed { boot }) => {
                self.state = Preparing;
                self.boot = Some(*boot);
                vec![]
            }
            (Preparing | Active | Reclaiming | Draining, Event::Ticketed { boot })
                if self.boot == Some(*boot) =>
            {
                vec![]
            }
            (Preparing, Event::Running { at }) => {
                self.state = Active;
                self.started_at.get_or_insert(*at);
                vec![]
            }
            (Active | Reclaiming | Draining, Event::Running { at }) => {
                self.started_at.get_or_insert(*at);
                vec![]
            }
            (Active, Event::Reclaim { deadline }) => {
                self.state = Reclaiming;
                self.reclaim_at = Some(*deadline);
                vec![]
            }
            (Reserved | Lost, Event::Stop { reason, at }) => {
                [self.end(*reason, *at), vec![Action::TellHost]].concat()
            }
            (Preparing | Active | Reclaiming, Event::Stop { reason, .. }) => {
                self.state = Draining;
                self.stop = Some(*reason);
                vec![Action::TellHost]
            }
            (Draining, Event::Stop { .. }) | (Settled, Event::Settle) => vec![],
            (
                Preparing | Active | Reclaiming | Draining | Lost,
                Event::Gone {
                    reason,
                    started_at,
                    at,
                    anew,
                },
            ) => {
                self.started_at = self.started_at.or(*started_at);
                self.gone(*reason, *at, *anew)
            }
            (state @ Lost, Event::PlaceAnew { left }) => {
                let Some(actions) = self.start_over(*left) else {
                    return Err(InvalidTransition { state, event });
                };
                actions
            }
            (
                Reserved | Preparing | Active | Reclaiming | Draining | Lost,
                Event::Overtaken {
                    epoch,
                    boot,
                    left,
                    at,
                },
            ) if *epoch > self.epoch => {
                self.overtaken(*left, *at);
                self.epoch = *epoch;
                self.boot = Some(*boot);
                vec![Action::Release, Action::Reserve, Action::TellHost]
            }
            // A receipt that comes after a new boot already said so.
            (Ended | Settled, Event::Gone { .. } | Event::Stop { .. }) => vec![],
            (Ended, Event::Settle) => {
                self.state = Settled;
                vec![Action::CloseBill]
            }
            (state, _) => return Err(InvalidTransition { state, event }),
        };
        Ok((self, actions))
    }

    /// The placement is gone: the lease is lost, or ends.
    fn gone(&mut self, reason: EndReason, at: Timestamp, anew: bool) -> Vec<Action> {
        use LeaseState::{Active, Lost, Preparing};
        let more = self.former.len() < PLACED_ANEW_AT_MOST;
        let mut actions = match self.state {
            Lost if anew => return vec![],
            Preparing | Active if anew && more => {
                self.state = Lost;
                self.lost = Some(Loss { reason, at });
                vec![]
            }
            _ => self.end(reason, at),
        };
        actions.push(Action::TellHost);
        actions
    }

    /// Turns the lost placement on `host` into a former one, and waits for the
    /// first ticket of the next epoch.
    fn start_over(&mut self, host: HostId) -> Option<Vec<Action>> {
        let (loss, boot) = self.lost.zip(self.boot)?;
        self.former.push(FormerPlacement {
            epoch: self.epoch,
            host,
            boot,
            reason: loss.reason,
            gone_at: loss.at,
        });
        self.state = LeaseState::Reserved;
        self.epoch = self.epoch.saturating_add(1);
        self.lost = None;
        self.boot = None;
        Some(vec![Action::Release, Action::Reserve, Action::TellHost])
    }

    /// The present placement turns out to be a former one. An order to stop
    /// is meant for the later one, too.
    fn overtaken(&mut self, host: HostId, at: Timestamp) {
        let lost = self.lost.take().unwrap_or(Loss {
            reason: EndReason::LinkLost,
            at,
        });
        if let Some(boot) = self.boot {
            self.former.push(FormerPlacement {
                epoch: self.epoch,
                host,
                boot,
                reason: lost.reason,
                gone_at: lost.at,
            });
        }
        if self.state != LeaseState::Draining {
            self.state = LeaseState::Preparing;
        }
    }

    fn end(&mut self, reason: EndReason, at: Timestamp) -> Vec<Action> {
        self.state = LeaseState::Ended;
        self.lost = None;
        self.ended_at = Some(at);
        self.end_reason = Some(reason);
        vec![Action::Release]
    }
}

#[cfg(test)]
mod tests;
