//! What the journal promises, on a disk in memory that loses what was not synced
//! and fails when told to, and on a real one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "promises/damage.rs"]
mod damage;
#[path = "promises/faults.rs"]
mod faults;
#[path = "promises/files.rs"]
mod files;
#[path = "promises/host.rs"]
mod host;
#[path = "promises/power.rs"]
mod power;
#[path = "promises/rolling.rs"]
mod rolling;
#[path = "promises/segments.rs"]
mod segments;
