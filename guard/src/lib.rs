//! The guard: ends a guest at its deadline when the agent does not.
//!
//! ```text
//! agent ──writes──▶ /run/surplus/deadlines/<placement> ──read──▶ guard
//!   │ ends the guest at its end                                    │ a margin later
//!   └──────────────▶ libvirt ──▶ QEMU ◀────SIGKILL, by pidfd───────┘
//! ```
//!
//! A process of its own, without network, libvirt or TLS, so that what stops the
//! agent (a fault, SIGSTOP, a hung libvirt) does not stop it. The agent uses
//! [`deadline`] to say until when a guest may run; the rest is the guard's.
//!
//! What always holds:
//!
//! - A guest whose deadline passed is killed, again and again until it is gone,
//!   whatever the wall clock says and whoever else has died.
//! - Nothing is killed but a process that is the overdue guest's QEMU at the
//!   moment of the signal; a number that was given to another process is not.
//! - A deadline file that cannot be read ends nothing, and takes nothing from
//!   the other guests or from what was known before.
//! - The guard changes no file.

pub mod deadline;
pub mod guests;
pub mod log;
pub mod rounds;
pub mod watch;

pub use deadline::Deadline;

/// Milliseconds since the host booted, suspension included
/// (`CLOCK_BOOTTIME`): the clock that deadlines are on. It never jumps.
pub fn boot_millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}
