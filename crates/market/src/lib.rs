//! The market as pure logic over a store: who may join, what a host has left,
//! what a lease does next, what it costs.
//!
//! No clock, no randomness, no network: time and fresh ids are arguments, and
//! the world is reached through [`store::Store`] (what is kept) and
//! [`sync::Notary`] (signatures). So the same code runs in the marketplace over
//! SQL and in a simulation over [`memory::MemoryStore`], whose futures are
//! always ready.
//!
//! Every operation takes a transaction and leaves committing to its caller. An
//! operation that returns an error has changed nothing that must stay; the
//! caller drops the transaction.

pub mod admission;
pub mod bill;
pub mod bounds;
pub mod capacity;
pub mod enrol;
pub mod images;
pub mod lease;
pub mod memory;
pub mod placement;
pub mod presence;
pub mod pricing;
pub mod records;
pub mod rent;
pub mod replacement;
pub mod settlement;
pub mod store;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod sweep;
pub mod sync;
pub mod token;
pub mod view;
