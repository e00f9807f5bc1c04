//! The program on a host, as a library so that its parts can be tested.
//!
//! [`daemon`] wires the parts in the order of a boot: site file, network,
//! enrolment, then inventory, guests and syncing beside each other. Nothing on
//! the way to enrolment waits for libvirt, the KVM probe or the inventory.

pub mod backoff;
pub mod capacity;
pub mod clock;
pub mod daemon;
pub mod enrol;
#[cfg(test)]
mod fake_marketplace;
pub mod guests;
pub mod hub;
pub mod identity;
pub mod inventory;
pub mod network;
pub mod self_test;
pub mod site;
pub mod stages;
pub mod status;
pub mod storage;
pub mod survey;
pub mod sync;
pub mod sysroot;
pub mod system;
pub mod uplink;
