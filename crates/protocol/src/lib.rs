//! Wire types and ids that host, marketplace and command line share.
//!
//! Owns what travels between programs and nothing else: no clock, no I/O, no
//! policy. All sizes are bytes, all times are UTC, all money is integer
//! micro-units of one currency. Times travel as RFC 3339.

pub mod admission;
pub mod agent;
pub mod api;
pub mod digest;
pub mod enrol;
pub mod ids;
pub mod inventory;
pub mod lease;
pub mod money;
pub mod problem;

pub use digest::Digest;
pub use money::Money;
pub use problem::Problem;
