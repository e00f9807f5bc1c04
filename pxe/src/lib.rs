//! The boot server: one command beside an existing DHCP server.
//!
//! Answers as proxy-DHCP, serves the first stage by TFTP, the artefacts by HTTP
//! and the site file by TLS, and shows who boots. What always holds: no
//! address is ever given out, no secret leaves by anything but TLS, and
//! whoever is to be left alone is.

pub mod board;
pub mod descriptors;
pub mod dhcp;
mod efi;
pub mod hardware;
pub mod identity;
pub mod interface;
pub mod netboot;
pub mod places;
mod ports;
pub mod site;
pub mod tftp;
pub mod watch;

pub use netboot::{Config, Netboot, RunError, StartError};
