//! The boot artefacts of one directory, served by plain HTTP to firmware, iPXE
//! and the initramfs.
//!
//! They are public, and what matters of them is verified by hash on the host.
//! What always holds: only names on the list are served, never a path; nothing
//! is written; a file is never in memory as a whole, unless it was made there.

pub mod artefacts;
mod range;
pub mod server;
pub mod sums;
mod transfer;

pub use artefacts::{Artefacts, OpenError};
pub use server::serve;
pub use transfer::{Observer, Transfer};

/// What a host may need on its way from firmware to a running root.
pub const NAMES: &[&str] = &[
    "boot.ipxe",
    "vmlinuz",
    "initrd",
    "root.img",
    "surplus.efi",
    "undionly.kpxe",
    "snponly.efi",
    sums::FILE,
];
