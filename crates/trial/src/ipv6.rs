//! IPv6: from wrong addresses, to wrong places, behind other headers.

mod neighbour;

use std::net::Ipv6Addr;

use surplus_seat::{HOST_LINK_LOCAL, HOST6};

pub(crate) use self::neighbour::solicitation;
use crate::ethernet::{self, Mac, ethernet};
use crate::{Attack, Cast, ipv4, mark};

/// Somewhere in the world (RFC 3849).
pub(crate) const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Kinds of headers.
const HOP_BY_HOP: u8 = 0;
const IPV4: u8 = 4;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMP: u8 = 58;
const NOTHING: u8 = 59;
const DESTINATION: u8 = 60;

/// The card's address of a group.
fn group(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

pub(crate) struct Packet {
    source: Ipv6Addr,
    target: Ipv6Addr,
    next: u8,
    hops: u8,
    payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length(&self.payload));
        packet.extend([self.next, self.hops]);
        packet.extend(self.source.octets());
        packet.extend(self.target.octets());
        packet.extend(&self.payload);
        packet
    }

    /// Another header between the packet's own and what it carries.
    fn behind(self, header: u8, mut body: Vec<u8>) -> Self {
        body.insert(0, self.next);
        body.extend(&self.payload);
        Self {
            next: header,
            payload: body,
            ..self
        }
    }

    /// The checksum over what it carries, which stands at this place of it.
    fn summed(mut self, place: usize) -> Self {
        let mut counted = self.source.octets().to_vec();
        counted.extend(self.target.octets());
        counted.extend(length(&self.payload));
        counted.extend([0, self.next]);
        counted.extend(&self.payload);
        let sum = ipv4::sum(&counted);
        self.payload[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }
}

fn length(payload: &[u8]) -> [u8; 2] {
    u16::try_from(payload.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
}

/// A UDP packet; `ports` are the sender's and the receiver's.
pub(crate) fn udp(source: Ipv6Addr, target: Ipv6Addr, ports: (u16, u16), name: &str) -> Packet {
    let packet = Packet {
        source,
        target,
        next: UDP,
        hops: 64,
        payload: ipv4::datagram(ports, &mark::of(name)),
    };
    packet.summed(6)
}

/// A message about the network; what it says begins behind its checksum.
fn icmp(source: Ipv6Addr, target: Ipv6Addr, (kind, code): (u8, u8), body: &[u8]) -> Packet {
    let mut payload = vec![kind, code, 0, 0];
    payload.extend(body);
    let packet = Packet {
        source,
        target,
        next: ICMP,
        hops: 255,
        payload,
    };
    packet.summed(2)
}

/// The same with its name, where nothing has to stand at a certain place.
fn message(source: Ipv6Addr, target: Ipv6Addr, kind: u8, fields: &[u8], name: &str) -> Packet {
    let mut body = fields.to_vec();
    body.extend(mark::of(name));
    icmp(source, target, (kind, 0), &body)
}

/// A router that takes all traffic.
fn advertisement(source: Ipv6Addr, target: Ipv6Addr, name: &str) -> Packet {
    let fields = [64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    message(source, target, 134, &fields, name)
}

pub(crate) fn router_advertisement(from: Mac, name: &str) -> Vec<u8> {
    let packet = advertisement(HOST_LINK_LOCAL, ALL_NODES, name);
    ethernet(group(ALL_NODES), from, ethernet::IPV6, &packet.bytes())
}

pub(crate) fn attacks(cast: &Cast) -> Vec<Attack> {
    let mut attacks = forged(cast);
    attacks.extend(behind_headers(cast));
    attacks.extend(neighbour::attacks(cast));
    attacks.extend(messages(cast));
    attacks.extend(trespasses(cast));
    attacks
}

/// Whose card it is for: the host leads everywhere.
fn card(cast: &Cast, packet: &Packet) -> Mac {
    if packet.target.is_multicast() {
        group(packet.target)
    } else {
        cast.host
    }
}

/// A frame of the guest's own card.
fn frame(cast: &Cast, packet: &Packet) -> Vec<u8> {
    let me = cast.me.mac_bytes();
    ethernet(card(cast, packet), me, ethernet::IPV6, &packet.bytes())
}

fn forged(cast: &Cast) -> Vec<Attack> {
    let from = |name, source| {
        let packet = udp(source, OUTSIDE, (9, 9), name);
        Attack::forged(name, frame(cast, &packet))
    };
    let to = |name, target, ports| {
        let packet = udp(cast.me.ipv6(), target, ports, name);
        Attack::forged(name, frame(cast, &packet))
    };
    let cable = cast.me.link_local();
    let dhcp = udp(cable, DHCP_SERVERS, (546, 547), "dhcpv6-request");
    let answer = udp(cable, ALL_NODES, (547, 546), "dhcpv6-answer");
    let names = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    vec![
        from("ipv6-of-another-guest", cast.victim.ipv6()),
        from("ipv6-of-the-host", HOST6),
        from("ipv6-of-the-uplink", cast.uplink6),
        from(
            "ipv6-of-the-world",
            Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 1),
        ),
        from("ipv6-of-nobody", Ipv6Addr::UNSPECIFIED),
        from("ipv6-of-itself", Ipv6Addr::LOCALHOST),
        from("ipv6-of-everybody", ALL_NODES),
        from(
            "ipv6-that-is-another-guests-ipv4",
            cast.victim.ipv4().to_ipv6_mapped(),
        ),
        from("ipv6-of-the-cable", cable),
        to("to-a-group-6", names, (5353, 5353)),
        to("to-everybody-6", ALL_NODES, (9, 4242)),
        Attack::forged("dhcpv6-request", frame(cast, &dhcp)),
        Attack::forged("dhcpv6-answer", frame(cast, &answer)),
    ]
}

/// What rules would not see the same as who receives it.
fn behind_headers(cast: &Cast) -> Vec<Attack> {
    let own = cast.me.ipv6();
    let behind = |name, target, header, body: &[u8]| {
        let packet = udp(own, target, (9, 4242), name).behind(header, body.to_vec());
        Attack::forged(name, frame(cast, &packet))
    };
    let padding = [0, 1, 4, 0, 0, 0, 0];
    // Type 0 (RFC 2460, deprecated by RFC 5095): by way of the host.
    let mut routing = vec![2, 0, 1, 0, 0, 0, 0];
    routing.extend(cast.management6.octets());
    let first = [0, 0, 1, b'S', b'U', b'R', b'P'];
    let later = [0, 0, 0x10, b'S', b'U', b'R', b'P'];
    let hidden = |name, header, body: &[u8]| {
        let packet = advertisement(cast.me.link_local(), ALL_NODES, name);
        Attack::forged(name, frame(cast, &packet.behind(header, body.to_vec())))
    };
    let carried = |name, kind, payload| {
        let packet = Packet {
            source: own,
            target: OUTSIDE,
            next: kind,
            hops: 64,
            payload,
        };
        Attack::forged(name, frame(cast, &packet))
    };
    let theirs = cast.victim.ipv6();
    let within = udp(theirs, OUTSIDE, (9, 9), "ipv6-in-ipv6").bytes();
    let old = ipv4::udp(cast.victim.ipv4(), ipv4::OUTSIDE, (9, 9), "ipv4-in-ipv6");
    vec![
        behind("hop-by-hop-6", OUTSIDE, HOP_BY_HOP, &padding),
        behind("destination-options-6", OUTSIDE, DESTINATION, &padding),
        behind("source-routed-6", HOST6, ROUTING, &routing),
        behind("fragment-6", OUTSIDE, FRAGMENT, &first),
        behind("later-fragment-6", OUTSIDE, FRAGMENT, &later),
        behind(
            "whole-fragment-6",
            OUTSIDE,
            FRAGMENT,
            &[0, 0, 0, 0, 0, 0, 7],
        ),
        hidden("router-advertisement-behind-options", DESTINATION, &padding),
        hidden("router-advertisement-behind-hops", HOP_BY_HOP, &padding),
        hidden(
            "router-advertisement-in-a-fragment",
            FRAGMENT,
            &[0, 0, 0, 0, 0, 0, 7],
        ),
        carried("ipv6-in-ipv6", IPV6, within),
        carried("ipv4-in-ipv6", IPV4, old),
        carried("nothing-in-ipv6", NOTHING, mark::of("nothing-in-ipv6")),
        carried("no-such-header-6", 253, mark::of("no-such-header-6")),
    ]
}

/// What tells others about networks and groups.
fn messages(cast: &Cast) -> Vec<Attack> {
    let (own, cable) = (cast.me.ipv6(), cast.me.link_local());
    let message = |name, source, target, kind, fields: &[u8]| {
        let packet = message(source, target, kind, fields, name);
        Attack::forged(name, frame(cast, &packet))
    };
    let about = |address: Ipv6Addr| [&[0; 4], &address.octets()[..]].concat();
    let redirect = [about(HOST6), OUTSIDE.octets().to_vec()].concat();
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let name = "router-advertisement-to-the-host";
    let to_host = frame(cast, &advertisement(own, HOST6, name));
    let name_of_all = "router-advertisement";
    let to_all = frame(cast, &advertisement(cable, ALL_NODES, name_of_all));
    vec![
        Attack::forged(name, to_host),
        Attack::forged(name_of_all, to_all),
        message("router-solicitation", cable, routers, 133, &[0; 4]),
        message("nd-redirect", own, HOST6, 137, &redirect),
        message("mld-query", cable, ALL_NODES, 130, &about(ALL_NODES)),
        message("mld-report", cable, ALL_NODES, 131, &about(ALL_NODES)),
        message("mld-report-of-version-2", own, HOST6, 143, &[0; 4]),
        message("router-renumbering", own, HOST6, 138, &[0; 12]),
        message("node-information", own, HOST6, 139, &[0; 12]),
        message("multicast-router-advertisement", own, HOST6, 151, &[0; 4]),
        message("ping-to-everybody-6", own, ALL_NODES, 128, &[0, 7, 0, 1]),
        message("ping-by-cable", cable, HOST_LINK_LOCAL, 128, &[0, 7, 0, 1]),
    ]
}

fn trespasses(cast: &Cast) -> Vec<Attack> {
    let own = cast.me.ipv6();
    let to = |name, target, port| frame(cast, &udp(own, target, (9999, port), name));
    let trespass = |name, target: Ipv6Addr| Attack::trespass(name, to(name, target, 4242));
    let parsed = |a, b, rest: [u16; 2]| Ipv6Addr::new(a, b, 0, 0, 0, 0, rest[0], rest[1]);
    let [high, low] = {
        let [a, b, c, d] = cast.management.octets();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    };
    let name = "to-a-guest-6";
    let victim = udp(own, cast.victim.ipv6(), (9, 4242), name).bytes();
    let victim = ethernet(
        cast.victim.mac_bytes(),
        cast.me.mac_bytes(),
        ethernet::IPV6,
        &victim,
    );
    let dhcp = udp(own, HOST6, (68, 67), "dhcp-over-ipv6");
    let ping = |name, target, kind| {
        let packet = message(own, target, kind, &[0, 7, 0, 1], name);
        Attack::trespass(name, frame(cast, &packet))
    };
    vec![
        Attack::allowed("to-the-world-6", to("to-the-world-6", OUTSIDE, 443)),
        Attack::trespass(name, victim),
        trespass("to-a-guest-by-the-host-6", cast.victim.ipv6()),
        trespass("to-the-host-6", HOST6),
        Attack::trespass("dhcp-over-ipv6", frame(cast, &dhcp)),
        trespass("to-the-hosts-cable-6", HOST_LINK_LOCAL),
        trespass("to-the-hosts-uplink-6", cast.uplink6),
        trespass("to-the-management-network-6", cast.management6),
        trespass("to-loopback-6", Ipv6Addr::LOCALHOST),
        trespass("to-a-cable-6", parsed(0xfe80, 0, [0, 2])),
        trespass("to-a-private-network-6", parsed(0xfd77, 0, [0, 1])),
        trespass("to-a-sites-network-6", parsed(0xfec0, 0, [0, 1])),
        trespass("to-a-mapped-address", cast.management.to_ipv6_mapped()),
        trespass("to-a-translated-address", parsed(0x64, 0xff9b, [high, low])),
        trespass(
            "to-a-relayed-address",
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ),
        trespass(
            "to-a-tunnelled-address",
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0, 1),
        ),
        ping("ping-to-the-host-6", HOST6, 128),
        // To who never asked: nothing that its connections know of.
        ping("unasked-answer-6", OUTSIDE, 129),
    ]
}
