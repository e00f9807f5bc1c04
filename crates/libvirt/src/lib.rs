//! libvirt as the agent needs it: asynchronous, reconnecting, without raw
//! pointers. The one crate with unsafe code.
//!
//! Owns the connection to one libvirt daemon. What always holds:
//!
//! - One dedicated thread owns the connection and makes every call, since
//!   libvirt blocks; requests reach it by channel, in order. A thread whose call
//!   is past its deadline is left to it and replaced, a few times.
//! - A second thread runs libvirt's event loop, once a process. Lifecycle
//!   events come out of a broadcast channel; they are hints, never the truth.
//! - A connection that broke (the daemon was restarted) is made anew by the
//!   next request. Guests outlive the connection and the daemon.
//! - Only transient domains are made, without autodestroy: a reboot of the host
//!   starts nothing by itself, and the agent's death stops nothing.

mod connection;
mod domain;
mod error;
mod events;
mod look;

pub use connection::Libvirt;
pub use domain::{Domain, InterfaceBytes, State, Stats};
pub use error::{Error, Kind};
pub use events::{Lifecycle, Moment};
