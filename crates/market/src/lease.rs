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
//! ```
//!
//! What always holds:
//!
//! - Once a ticket was given out the placement is freed by [`Event::Gone`]
//!   alone; an order to stop only drains.
//! - The reservation is released exactly once, on entering `Ended`.
//! - `Settled` is final, and nothing that comes later changes it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::ids::{BootId, Epoch};
use surplus_protocol::lease::{EndReason, LeaseState};

/// Where a lease stands and how it came there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub state: LeaseState,
    pub epoch: Epoch,
    /// The boot for which a ticket was given out.
    pub boot: Option<BootId>,
    /// Why it shall stop, once that was ordered.
    pub stop: Option<EndReason>,
    /// Until when the guest may still run while it is being reclaimed.
    pub reclaim_at: Option<Timestamp>,
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
            Active, Draining, Ended, Preparing, Quoted, Reclaiming, Reserved, Settled,
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
            (Active | Reclaiming, Event::Running { .. }) => vec![],
            (Draining, Event::Running { at }) => {
                self.started_at.get_or_insert(*at);
                vec![]
            }
            (Active, Event::Reclaim { deadline }) => {
                self.state = Reclaiming;
                self.reclaim_at = Some(*deadline);
                vec![]
            }
            (Reserved, Event::Stop { reason, at }) => {
                let mut actions = self.end(*reason, *at);
                actions.push(Action::TellHost);
                actions
            }
            (Preparing | Active | Reclaiming, Event::Stop { reason, .. }) => {
                self.state = Draining;
                self.stop = Some(*reason);
                vec![Action::TellHost]
            }
            (Draining, Event::Stop { .. }) => vec![],
            (
                Preparing | Active | Reclaiming | Draining,
                Event::Gone {
                    reason,
                    started_at,
                    at,
                },
            ) => {
                self.started_at = self.started_at.or(*started_at);
                let mut actions = self.end(*reason, *at);
                actions.push(Action::TellHost);
                actions
            }
            // A receipt that comes after a new boot already said so.
            (Ended | Settled, Event::Gone { .. } | Event::Stop { .. }) => vec![],
            (Ended, Event::Settle) => {
                self.state = Settled;
                vec![Action::CloseBill]
            }
            (Settled, Event::Settle) => vec![],
            (state, _) => return Err(InvalidTransition { state, event }),
        };
        Ok((self, actions))
    }

    fn end(&mut self, reason: EndReason, at: Timestamp) -> Vec<Action> {
        self.state = LeaseState::Ended;
        self.ended_at = Some(at);
        self.end_reason = Some(reason);
        vec![Action::Release]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    fn boot(n: u8) -> BootId {
        BootId::from_bytes([n; 16])
    }

    fn event() -> impl Strategy<Value = Event> {
        let time = (0_i64..1000).prop_map(second);
        prop_oneof![
            Just(Event::Take),
            time.clone().prop_map(|at| Event::QuoteExpired { at }),
            (0_u8..2).prop_map(|n| Event::Ticketed { boot: boot(n) }),
            time.clone().prop_map(|at| Event::Running { at }),
            time.clone()
                .prop_map(|deadline| Event::Reclaim { deadline }),
            time.clone().prop_map(|at| Event::Stop {
                reason: EndReason::Ended,
                at
            }),
            time.prop_map(|at| Event::Gone {
                reason: EndReason::GuestStopped,
                started_at: None,
                at
            }),
            Just(Event::Settle),
        ]
    }

    proptest! {
        #[test]
        fn random_events_keep_what_always_holds(events in prop::collection::vec(event(), 0..40)) {
            let mut lease = Lease::quoted();
            let mut ticketed = false;
            let mut released = 0;
            let mut closed = 0;
            for event in events {
                let before = lease.clone();
                let Ok((after, actions)) = lease.clone().step(event.clone()) else { continue };
                released += actions.iter().filter(|a| **a == Action::Release).count();
                closed += actions.iter().filter(|a| **a == Action::CloseBill).count();
                ticketed |= after.boot.is_some();

                if before.is_live() && !after.is_live() && ticketed {
                    prop_assert!(matches!(event, Event::Gone { .. }), "{event:?} freed a placement");
                }
                if before.state == LeaseState::Settled {
                    prop_assert_eq!(&after, &before);
                }
                prop_assert!(before.is_live() || !after.is_live(), "rose from the dead");
                prop_assert!(before.started_at.is_none() || after.started_at == before.started_at);
                prop_assert!(before.boot.is_none() || after.boot == before.boot);
                prop_assert_eq!(after.ended_at.is_some(), !after.is_live());
                prop_assert_eq!(after.end_reason.is_some(), !after.is_live());
                prop_assert_eq!(released, usize::from(!after.is_live()));
                prop_assert_eq!(closed, usize::from(after.state == LeaseState::Settled));
                lease = after;
            }
        }
    }

    #[test]
    fn an_order_to_stop_does_not_free_a_placed_lease() {
        let (lease, _) = Lease::quoted().step(Event::Take).unwrap();
        let (lease, _) = lease.step(Event::Ticketed { boot: boot(1) }).unwrap();
        let stop = Event::Stop {
            reason: EndReason::Ended,
            at: second(1),
        };
        let (lease, actions) = lease.step(stop).unwrap();
        assert_eq!(lease.state, LeaseState::Draining);
        assert_eq!(actions, [Action::TellHost]);
    }

    #[test]
    fn a_ticket_for_another_boot_is_refused() {
        let (lease, _) = Lease::quoted().step(Event::Take).unwrap();
        let (lease, _) = lease.step(Event::Ticketed { boot: boot(1) }).unwrap();
        assert!(lease.step(Event::Ticketed { boot: boot(2) }).is_err());
    }
}
