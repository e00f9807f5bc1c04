//! The host's addresses that guests' packets leave it under, as the kernel says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};

/// Addresses that have to be routed, and that nobody has (RFC 5737, RFC 3849).
const WORLD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const WORLD6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The one of each family, where guests have a way out. Nothing is sent. Marking
/// packets takes CAP_NET_ADMIN; who has it not is told of none.
pub fn addresses() -> Vec<IpAddr> {
    [WORLD, WORLD6].into_iter().filter_map(towards).collect()
}

fn towards(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // As the packet filter marks theirs.
    setsockopt(&socket, sockopt::Mark, &surplus_seat::way::MARK).ok()?;
    socket.connect((target, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
