//! The agent's engine in a process of its own, which is killed.
//!
//! ```text
//!   this process: the world                    a child: the agent
//!  ┌──────────────────────────┐   a socket   ┌──────────────────────────┐
//!  │ clock, marketplace,      │◄────────────►│ the real engine, planner,│
//!  │ hypervisor, judge        │              │ ledger, workshop         │
//!  └──────────────────────────┘              └────────────┬─────────────┘
//!                 the host's directory, on a real file system
//! ```
//!
//! Before the agent does anything that outlives it, and after it, it says so
//! and waits: that is a *point*. There the world answers, lets it fail, or sends
//! SIGKILL. A run without faults counts the points, so that a new step of the
//! engine is covered without anybody thinking of it. What always holds is in
//! [`judge`]; the life that the agent is led through, in [`story`].

pub mod agent;
pub mod fault;
pub mod judge;
pub mod run;
pub mod story;
pub mod wire;
pub mod world;

pub use fault::{Case, Way};
pub use run::{Outcome, points, run};
