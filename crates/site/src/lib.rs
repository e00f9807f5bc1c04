//! The site file and the reserved area of a medium that carries it.
//!
//! [`Site`] is what a host must know of the place it stands in: where the
//! marketplace is, whom to trust, how to join, how the network is set up.
//! [`area`] is the 64 KiB piece of a medium in which the file lies; a
//! [`Pointer`] is where a kernel command line says that it can be fetched.
//!
//! What always holds: a [`Site`] has passed every check that can be made
//! without the network; its token is printed by [`Site::to_toml`] alone;
//! nothing read from an area is believed before its checksum is.

pub use surplus_medium::area;

pub use self::error::SiteError;
pub use self::network::{Addressing, Bond, BondMode, Interface, Network, Static, Uplink};
pub use self::pointer::{Pointer, PointerError, SiteUrl};
pub use self::site::{
    DiskRate, Guests, Marketplace, Place, Reserve, Site, Storage, Testing, Time, Trust,
};
pub use self::size::format_size;

mod error;
mod network;
mod pointer;
mod reader;
mod render;
mod site;
mod size;
mod text;
