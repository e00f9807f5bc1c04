//! Hosts and marketplace under simulated time, network and faults.
//!
//! The code under test is the real one: the agent's engine, planner, meter,
//! fences and sync session, the market's rules and store. Simulated are the
//! clocks, the network, libvirt, the disk, the power, buyers and operators.
//! Every run follows from its seed alone, and a judge who sees everything as it
//! truly is holds the promises against it.

pub mod agent;
pub mod clock;
pub mod deadlines;
pub mod host;
pub mod hub;
pub mod hypervisor;
pub mod judge;
pub mod queue;
pub mod weather;
pub mod workshop;
pub mod world;

pub use world::{Broken, Summary, World};

/// Runs the world of one seed to its end.
///
/// # Errors
///
/// The first promise that was broken.
pub fn run(seed: u64, trace: bool) -> anyhow::Result<Result<Summary, Broken>> {
    Ok(World::new(seed, trace)?.run())
}
