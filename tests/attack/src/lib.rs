//! What is tried on a host from the outside and the inside: the frames of
//! [`surplus_trial`], sent by guests of a test's own, and what somebody tries who
//! broke out of a guest ([`escape`]), up to the host's [`kernel`].

pub mod escape;
pub mod kernel;
mod seccomp;

pub use surplus_trial::{Attack, Cast, Kind, all, flooded, mark, network, packet};
