//! IPv6, of which guests behind their host have none.

use std::net::Ipv6Addr;

use crate::ethernet::{self, Mac, ethernet};
use crate::{Attack, Cast, mark};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const UDP: u8 = 17;
const ICMP: u8 = 58;

/// The address that a card gives itself (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        (a ^ 2) << 8 | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}

/// The card's address of a group.
fn group(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

fn packet(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    packet.extend(length.to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    packet
}

/// A message with its checksum left wrong: who listens on the wire hears it all
/// the same.
fn icmp(kind: u8, body: &[u8], name: &str) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(body);
    message.extend(mark::of(name));
    message
}

/// A router that takes all traffic.
pub(crate) fn router_advertisement(from: Mac, name: &str) -> Vec<u8> {
    let message = icmp(134, &[64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], name);
    let packet = packet(link_local(from), ALL_NODES, ICMP, &message);
    ethernet(group(ALL_NODES), from, ethernet::IPV6, &packet)
}

pub(crate) fn attacks(cast: &Cast) -> Vec<Attack> {
    let me = cast.me.mac_bytes();
    let (own, victim) = (link_local(me), link_local(cast.victim.mac_bytes()));
    let host = link_local(cast.host);
    let frame = |to: Mac, source, target, next, payload: &[u8]| {
        ethernet(
            to,
            me,
            ethernet::IPV6,
            &packet(source, target, next, payload),
        )
    };
    let neighbour = |name, kind, about: Ipv6Addr| {
        let mut body = vec![0x20, 0, 0, 0];
        body.extend(about.octets());
        let message = icmp(kind, &body, name);
        Attack::forged(
            name,
            frame(group(ALL_NODES), own, ALL_NODES, ICMP, &message),
        )
    };
    let udp = |name, to: Mac, source, target, from: u16, port: u16| {
        let mut datagram = Vec::new();
        datagram.extend(from.to_be_bytes());
        datagram.extend(port.to_be_bytes());
        datagram.extend([0, 64, 0, 0]);
        datagram.extend(mark::of(name));
        Attack::forged(name, frame(to, source, target, UDP, &datagram))
    };
    let listener = icmp(131, &ALL_NODES.octets(), "mld-report");
    vec![
        Attack::forged(
            "router-advertisement",
            router_advertisement(me, "router-advertisement"),
        ),
        neighbour("nd-advertisement-as-another-guest", 136, victim),
        neighbour("nd-advertisement-as-the-host", 136, host),
        neighbour("nd-solicitation", 135, host),
        neighbour("nd-redirect", 137, victim),
        udp("ipv6-to-the-host", cast.host, own, host, 9, 4242),
        udp("ipv6-as-another-guest", cast.host, victim, host, 9, 4242),
        udp(
            "dhcpv6-request",
            group(DHCP_SERVERS),
            own,
            DHCP_SERVERS,
            546,
            547,
        ),
        udp("dhcpv6-answer", group(ALL_NODES), own, ALL_NODES, 547, 546),
        Attack::forged(
            "mld-report",
            frame(group(ALL_NODES), own, ALL_NODES, ICMP, &listener),
        ),
    ]
}
