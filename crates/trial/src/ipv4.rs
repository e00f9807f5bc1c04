//! IPv4: from wrong addresses, to wrong places, in pieces.

use std::net::Ipv4Addr;

use surplus_seat::HOST;

use crate::ethernet::{self, BROADCAST, Mac, ethernet};
use crate::{Attack, Cast, mark};

/// Somewhere in the world (RFC 5737).
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

const UDP: u8 = 17;
const ICMP: u8 = 1;
/// More fragments follow.
const MORE: u16 = 0x2000;

/// The checksum of IP and of what it carries (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

struct Header {
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: u8,
    /// Flags and offset.
    fragment: u16,
    options: Vec<u8>,
}

impl Header {
    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = u16::try_from(words * 4 + payload.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x40 | u8::try_from(words).unwrap_or(5), 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0x53, 0x55]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.target.octets());
        packet.extend(&self.options);
        let sum = sum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

fn header(source: Ipv4Addr, target: Ipv4Addr, protocol: u8) -> Header {
    Header {
        source,
        target,
        protocol,
        fragment: 0,
        options: Vec::new(),
    }
}

/// Without a checksum, which UDP over IPv4 may leave out.
pub(crate) fn datagram((from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A UDP packet; `ports` are the sender's and the receiver's.
pub(crate) fn udp(source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16), name: &str) -> Vec<u8> {
    let payload = datagram(ports, &mark::of(name));
    header(source, target, UDP).packet(&payload)
}

/// An echo request (8), whose answer (0) says the same.
fn ping(source: Ipv4Addr, target: Ipv4Addr, kind: u8, name: &str) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    message.extend(mark::of(name));
    let sum = sum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    header(source, target, ICMP).packet(&message)
}

/// A request or an answer of DHCP, for the client `mac`.
fn dhcp(operation: u8, mac: Mac, name: &str) -> Vec<u8> {
    let mut message = vec![operation, 1, 6, 0];
    message.extend(*b"SURP");
    message.extend([0; 20]);
    message.extend(mac);
    message.extend([0; 10 + 64 + 128]);
    message.extend([0x63, 0x82, 0x53, 0x63]);
    // Message type: discover or offer; then the name, as a vendor's class.
    message.extend([53, 1, operation]);
    let mark = mark::of(name);
    message.push(60);
    message.push(u8::try_from(mark.len()).unwrap_or(u8::MAX));
    message.extend(mark);
    message.push(255);
    message
}

pub(crate) fn attacks(cast: &Cast) -> Vec<Attack> {
    let mut attacks = forged(cast);
    attacks.extend(trespasses(cast));
    attacks.extend(dhcp_attacks(cast));
    attacks.extend(allowed(cast));
    attacks
}

fn to_host(cast: &Cast, packet: &[u8]) -> Vec<u8> {
    ethernet(cast.host, cast.me.mac_bytes(), ethernet::IPV4, packet)
}

fn forged(cast: &Cast) -> Vec<Attack> {
    let from = |name, source| {
        let packet = udp(source, OUTSIDE, (9, 9), name);
        Attack::forged(name, to_host(cast, &packet))
    };
    let beginning = Header {
        fragment: MORE,
        ..header(cast.victim.ipv4(), OUTSIDE, UDP)
    };
    let later = Header {
        fragment: 2,
        ..header(cast.victim.ipv4(), OUTSIDE, UDP)
    };
    let name = "fragment-of-another-guest";
    let first = beginning.packet(&datagram((9, 9), &mark::of(name)));
    let next_name = "later-fragment-of-another-guest";
    let next = later.packet(&mark::of(next_name));
    vec![
        from("ipv4-of-another-guest", cast.victim.ipv4()),
        from("ipv4-of-the-host", HOST),
        from("ipv4-of-the-uplink", cast.uplink),
        from("ipv4-of-the-world", Ipv4Addr::new(198, 51, 100, 1)),
        from("ipv4-of-nobody", Ipv4Addr::UNSPECIFIED),
        from("ipv4-of-itself", Ipv4Addr::LOCALHOST),
        from("ipv4-of-everybody", Ipv4Addr::BROADCAST),
        Attack::forged(name, to_host(cast, &first)),
        Attack::forged(next_name, to_host(cast, &next)),
    ]
}

fn trespasses(cast: &Cast) -> Vec<Attack> {
    let me = cast.me.ipv4();
    let to = |name, target| {
        let packet = udp(me, target, (9, 4242), name);
        Attack::trespass(name, to_host(cast, &packet))
    };
    let victim = ethernet(
        cast.victim.mac_bytes(),
        cast.me.mac_bytes(),
        ethernet::IPV4,
        &udp(me, cast.victim.ipv4(), (9, 4242), "to-a-guest"),
    );
    let group = ethernet(
        [0x01, 0, 0x5e, 0, 0, 0xfb],
        cast.me.mac_bytes(),
        ethernet::IPV4,
        &udp(
            me,
            Ipv4Addr::new(224, 0, 0, 251),
            (5353, 5353),
            "to-a-group",
        ),
    );
    let everybody = ethernet(
        BROADCAST,
        cast.me.mac_bytes(),
        ethernet::IPV4,
        &udp(me, Ipv4Addr::BROADCAST, (9, 4242), "to-everybody"),
    );
    // Loose source route (RFC 791): by way of the host to the site's network.
    let [a, b, c, d] = cast.management.octets();
    let routed = Header {
        options: vec![0x83, 7, 4, a, b, c, d, 0],
        ..header(me, HOST, UDP)
    };
    let routed = routed.packet(&datagram((9, 4242), &mark::of("source-routed")));
    // The ports come in the second piece only.
    let tiny = Header {
        fragment: MORE,
        ..header(me, cast.management, UDP)
    };
    let tiny_name = "tiny-fragment-to-the-management-network";
    let tiny = tiny.packet(&datagram((9, 53), &mark::of(tiny_name))[..]);
    vec![
        Attack::trespass("to-a-guest", victim),
        Attack::trespass("to-a-group", group),
        Attack::trespass("to-everybody", everybody),
        to("to-a-guest-by-the-host", cast.victim.ipv4()),
        to("to-the-host", HOST),
        to("to-the-hosts-uplink", cast.uplink),
        to("to-the-management-network", cast.management),
        to("to-a-metadata-service", Ipv4Addr::new(169, 254, 169, 254)),
        to("to-loopback", Ipv4Addr::LOCALHOST),
        to("to-a-private-network", Ipv4Addr::new(192, 168, 1, 1)),
        to("to-a-carriers-network", Ipv4Addr::new(100, 64, 0, 1)),
        Attack::trespass(
            "ping-to-the-host",
            to_host(cast, &ping(me, HOST, 8, "ping-to-the-host")),
        ),
        // To who never asked: nothing that its connections know of.
        Attack::trespass(
            "unasked-answer",
            to_host(cast, &ping(me, OUTSIDE, 0, "unasked-answer")),
        ),
        Attack::trespass("source-routed", to_host(cast, &routed)),
        Attack::trespass(tiny_name, to_host(cast, &tiny)),
    ]
}

fn dhcp_attacks(cast: &Cast) -> Vec<Attack> {
    let (me, victim) = (cast.me.mac_bytes(), cast.victim.mac_bytes());
    let nobody = Ipv4Addr::UNSPECIFIED;
    let frame = |source, ports, message: &[u8]| {
        let packet = header(source, Ipv4Addr::BROADCAST, UDP).packet(&datagram(ports, message));
        ethernet(BROADCAST, me, ethernet::IPV4, &packet)
    };
    let request = |name, mac| frame(nobody, (68, 67), &dhcp(1, mac, name));
    let answer = |name, source| frame(source, (67, 68), &dhcp(2, victim, name));
    let own = cast.me.ipv4();
    let name = "dhcp-renewal-as-another-guest";
    let renewal = header(own, HOST, UDP).packet(&datagram((68, 67), &dhcp(1, victim, name)));
    let renewal = ethernet(cast.host, me, ethernet::IPV4, &renewal);
    // A request that comes in pieces: the client's address is not in this one.
    let pieces_name = "pieces";
    let mut pieces = mark::of(pieces_name);
    pieces.resize(24, 0);
    let first = Header {
        fragment: MORE,
        ..header(own, HOST, UDP)
    };
    let first = first.packet(&datagram((68, 67), &pieces));
    let first = ethernet(cast.host, me, ethernet::IPV4, &first);
    vec![
        Attack::forged(name, renewal),
        Attack::forged(pieces_name, first),
        Attack::allowed("dhcp-request", request("dhcp-request", me)),
        Attack::forged(
            "dhcp-request-as-another-guest",
            request("dhcp-request-as-another-guest", victim),
        ),
        Attack::forged(
            "dhcp-offer-as-the-host",
            answer("dhcp-offer-as-the-host", HOST),
        ),
        // From its own address it comes as far as the host, which is no client.
        Attack::trespass("dhcp-offer", answer("dhcp-offer", own)),
    ]
}

fn allowed(cast: &Cast) -> Vec<Attack> {
    let to = |name, target, port| {
        let packet = udp(cast.me.ipv4(), target, (9999, port), name);
        Attack::allowed(name, to_host(cast, &packet))
    };
    vec![
        to("to-the-world", OUTSIDE, 443),
        to("to-the-sites-name-server", cast.management, 53),
    ]
}
