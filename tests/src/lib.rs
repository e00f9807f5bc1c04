//! The framework of the end-to-end tests: machines in QEMU, a marketplace
//! beside them, a small guest to rent.
//!
//! What always holds: a process started here does not outlive us; nothing
//! waits without a deadline; a failure says what was waited for and where the
//! logs lie. The tests themselves are in `tests/tests`, one QEMU at a time.

pub mod accel;
pub mod bill;
pub mod chance;
pub mod client;
pub mod guest;
pub mod interrupt;
pub mod lab;
pub mod machine;
pub mod marketplace;
pub mod medium;
pub mod netboot;
pub mod network;
pub mod packages;
pub mod process;
pub mod qmp;
pub mod rental;
pub mod secure_boot;
pub mod serial;
pub mod shell;
pub mod stage_line;
pub mod write_log;

use std::time::Duration;

pub use crate::chance::Chance;
pub use crate::client::Client;
pub use crate::lab::{Lab, test};
pub use crate::machine::{Disk, DiskBus, Firmware, Kernel, Machine, Medium, Nic, Plug};
pub use crate::marketplace::Marketplace;
pub use crate::netboot::BootServer;
pub use crate::netboot::signed::SignedServer;
pub use crate::network::Network;
pub use crate::network::trunk::Trunk;
pub use crate::stage_line::StageLine;

/// Whether everything is tried as large and as slow as it may really be
/// (`cargo xtask test --full`).
pub fn is_full() -> bool {
    std::env::var_os("SURPLUS_TEST_FULL").is_some()
}

/// A deadline for this computer: `SURPLUS_TEST_PATIENCE` (default 1) times as
/// long. Deadlines are meant for two quiet cores without KVM.
pub fn patience(within: Duration) -> Duration {
    let factor = std::env::var("SURPLUS_TEST_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok());
    within.mul_f64(
        factor
            .filter(|factor: &f64| factor.is_finite() && *factor > 0.0)
            .unwrap_or(1.0),
    )
}
