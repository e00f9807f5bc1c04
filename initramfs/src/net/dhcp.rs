//! DHCP of both protocols: one conversation ([`client`]), what is said in it
//! ([`v4`], [`v6`]), and the sockets.

use std::time::Duration;

pub(crate) mod client;
pub(crate) mod socket;
pub(crate) mod v4;
pub(crate) mod v6;

/// Class by which boot servers know this program.
const CLASS: &[u8] = b"surplus-init";
/// The longest time that a lease is taken for, also where it names none.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
const SHORTEST: Duration = Duration::from_secs(30);
