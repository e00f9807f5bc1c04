//! A guest's place on its host: a number, and every name that follows from it.
//!
//! Interface, MAC address, IP addresses and user of a guest are functions of its
//! seat alone. So the packet filter and the DHCP server know all of them before
//! the first guest is there: both are written when the image is built, nothing
//! is learned or changed while guests come and go, and an agent that is dead or
//! starts anew changes nothing about who may send what.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub mod connections;
pub mod floating;
pub mod forwards;
pub mod rates;
pub mod render;
pub mod way;

/// Seats on a host. A guest takes a whole vCPU at least, so that only a server of
/// more processors can want for one. Each costs the host's start some time.
pub const SEATS: u16 = 250;

/// The guests' bridge.
pub const BRIDGE: &str = "surplus0";

/// The host's own address on it, and the length of the network's prefix.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 121, 0, 1);
pub const PREFIX: u8 = 16;

/// The same of IPv6: a network of unique local addresses (RFC 4193), drawn once.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfdc9, 0x50a5, 0x3ed9, 0, 0, 0, 0, 1);
pub const PREFIX6: u8 = 64;

/// What the host has on the bridge's cable alone: it asks for guests from there.
pub const HOST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The first of the host's ports that are handed on, and how many are a seat's.
const FIRST_PORT: u16 = 16_384;
pub const PORTS: u16 = 16;

/// User ids are counted from here: beyond what Debian and systemd give away
/// (<https://systemd.io/UIDS-GIDS/>).
const FIRST_UID: u32 = 200_000;

/// One seat, from 1 to [`SEATS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Seat(u16);

/// No host has a seat of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchSeat(u16);

impl Seat {
    /// Every seat, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=SEATS).map(Self)
    }

    /// The first one after `last` that will do, going round: a seat that was left is
    /// taken again as late as can be, so that what the outside still sends to it has
    /// died away.
    pub fn free(last: Option<Self>, will_do: impl Fn(Self) -> bool) -> Option<Self> {
        let begin = last.map_or(0, |seat| seat.0);
        let round = (begin..SEATS).chain(0..begin);
        round.map(|index| Self(index + 1)).find(|it| will_do(*it))
    }

    pub fn number(self) -> u16 {
        self.0
    }

    /// The guest's interface on the host.
    pub fn interface(self) -> String {
        format!("sg{}", self.0)
    }

    /// The guest's MAC address: locally administered, unicast.
    pub fn mac(self) -> String {
        self.mac_bytes().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// See [`mac`](Self::mac).
    pub fn mac_bytes(self) -> [u8; 6] {
        let [high, low] = self.0.to_be_bytes();
        [0x02, b'S', b'U', b'R', high, low]
    }

    /// The guest's address behind its host.
    pub fn ipv4(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, 121, 1 + high, low)
    }

    /// See [`ipv4`](Self::ipv4).
    pub fn ipv6(self) -> Ipv6Addr {
        let [a, b, c, ..] = HOST6.segments();
        Ipv6Addr::new(a, b, c, 0, 0, 0, 1, self.0)
    }

    /// What its card gives itself (RFC 4291, appendix A), where the guest's system
    /// does not make up another.
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac_bytes();
        let pair = |high, low| u16::from_be_bytes([high, low]);
        let card = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
        Ipv6Addr::new(0xfe80, 0, 0, 0, card[0], card[1], card[2], card[3])
    }

    /// The host's ports that may be the guest's: as many as any guest may have.
    /// Below those that the kernel takes for connections of its own.
    pub fn host_ports(self) -> impl Iterator<Item = u16> {
        let first = FIRST_PORT + (self.0 - 1) * PORTS;
        first..first + PORTS
    }

    /// The user that the guest's QEMU runs as.
    pub fn uid(self) -> u32 {
        FIRST_UID + u32::from(self.0)
    }
}

impl TryFrom<u16> for Seat {
    type Error = NoSuchSeat;

    fn try_from(number: u16) -> Result<Self, NoSuchSeat> {
        let exists = (1..=SEATS).contains(&number);
        exists.then_some(Self(number)).ok_or(NoSuchSeat(number))
    }
}

impl From<Seat> for u16 {
    fn from(seat: Seat) -> Self {
        seat.0
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NoSuchSeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is no seat: they are numbered from 1 to {SEATS}",
            self.0
        )
    }
}

impl std::error::Error for NoSuchSeat {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_seats_share_a_name() {
        let count = usize::from(SEATS);
        let all = |name: fn(Seat) -> String| Seat::all().map(name).collect::<BTreeSet<_>>().len();
        assert_eq!(all(Seat::interface), count);
        assert_eq!(all(Seat::mac), count);
        assert_eq!(all(|seat| seat.ipv4().to_string()), count);
        assert_eq!(all(|seat| seat.ipv6().to_string()), count);
        assert_eq!(all(|seat| seat.link_local().to_string()), count);
        assert_eq!(all(|seat| seat.uid().to_string()), count);
        let ports: BTreeSet<_> = Seat::all().flat_map(Seat::host_ports).collect();
        assert_eq!(ports.len(), count * usize::from(PORTS));
        // ip_local_port_range's beginning.
        assert!(ports.iter().all(|port| *port < 32_768));
        // What the kernel takes as an interface's name, and the network's bounds.
        assert!(Seat::all().all(|seat| seat.interface().len() < 16));
        let network = |address: Ipv4Addr| u32::from(address) >> (32 - u32::from(PREFIX));
        assert!(Seat::all().all(|seat| network(seat.ipv4()) == network(HOST)));
        assert!(Seat::all().all(|seat| seat.ipv4() != HOST));
        let network = |address: Ipv6Addr| u128::from(address) >> (128 - u32::from(PREFIX6));
        assert!(Seat::all().all(|seat| network(seat.ipv6()) == network(HOST6)));
        assert!(Seat::all().all(|seat| seat.ipv6() != HOST6));
        assert!(Seat::all().all(|seat| seat.link_local() != HOST_LINK_LOCAL));
    }

    #[test]
    fn a_seat_that_was_left_is_taken_again_last() {
        let seat = |number| Seat::try_from(number).unwrap();
        assert_eq!(Seat::free(None, |_| true), Some(seat(1)));
        assert_eq!(Seat::free(Some(seat(4)), |_| true), Some(seat(5)));
        assert_eq!(Seat::free(Some(seat(4)), |it| it != seat(5)), Some(seat(6)));
        assert_eq!(Seat::free(Some(seat(SEATS)), |_| true), Some(seat(1)));
        assert_eq!(Seat::free(Some(seat(4)), |it| it == seat(4)), Some(seat(4)));
        assert_eq!(Seat::free(Some(seat(4)), |_| false), None);
    }

    #[test]
    fn a_seat_is_written_as_its_number_and_no_other_number_is_read() {
        let seat = Seat::try_from(SEATS).unwrap();
        assert_eq!(serde_json::to_string(&seat).unwrap(), "250");
        assert_eq!(serde_json::from_str::<Seat>("250").unwrap(), seat);
        for wrong in ["0", "251", "-1", "\"1\""] {
            assert!(serde_json::from_str::<Seat>(wrong).is_err(), "{wrong}");
        }
    }
}
