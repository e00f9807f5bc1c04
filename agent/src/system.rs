//! The system around the agent: D-Bus, systemd, logind, networkd, the log.
//!
//! What always holds: the agent works without any of them. A missing bus or
//! service is said in the log and costs a feature, never the host.

pub mod bus;
pub mod inhibit;
pub mod logging;
pub mod networkd;
pub mod notify;
pub mod smt;
pub mod transient;
pub mod units;
