//! What lies on a boot medium, as the initramfs and `surplus-image` read it.
//!
//! [`iso9660`] finds files on a CD or on its copy on a USB stick, [`area`] is
//! the reserved place in which the site file lies; [`cpio`] writes the initramfs
//! itself, and [`pieces`] what it knows of a root that comes over the network.
//! Small on purpose: the readers go into the initramfs.
//!
//! What always holds: a medium is untrusted input. No bytes make these parsers
//! panic, allocate without bound, or read outside what they were given.

pub mod area;
pub mod cpio;
pub mod iso9660;
pub mod pieces;
