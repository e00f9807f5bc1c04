//! IPv6: from wrong addresses, to wrong places, behind other headers.

use std::net::Ipv6Addr;

use surplus_seat::{HOST_LINK_LOCAL, HOST6};

use crate::ethernet::{self, Mac, ethernet, ethernet_then};
use crate::{Attack, Cast, ipv4, mark};

/// Somewhere in the world (RFC 3849).
pub(crate) const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);

pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Who asks for either of the host's addresses asks this group.
const HOSTS_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

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

#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) source: Ipv6Addr,
    pub(crate) target: Ipv6Addr,
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

/// A question for a neighbour or an answer to one (RFC 4861, sections 4.3, 4.4).
#[derive(Clone)]
struct Neighbour {
    source: Ipv6Addr,
    target: Ipv6Addr,
    kind: u8,
    code: u8,
    flags: u8,
    about: Ipv6Addr,
    /// The option: its kind, and the card's address.
    card: Option<(u8, Mac)>,
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options: the sender's card, and that of whom it is about.
const SOURCE_CARD: u8 = 1;
const TARGET_CARD: u8 = 2;

impl Neighbour {
    fn packet(&self) -> Packet {
        let mut body = vec![self.flags, 0, 0, 0];
        body.extend(self.about.octets());
        if let Some((kind, mac)) = self.card {
            body.extend([kind, 1]);
            body.extend(mac);
        }
        icmp(self.source, self.target, (self.kind, self.code), &body)
    }
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

/// Where somebody is whom the host looks for.
pub(crate) fn solicitation(from: Mac, about: Ipv6Addr, name: &str) -> Vec<u8> {
    let [.., a, b, c] = about.octets();
    let target =
        u128::from(HOSTS_GROUP) & !0xff_ffff | u128::from(u32::from_be_bytes([0, a, b, c]));
    let question = Neighbour {
        source: HOST_LINK_LOCAL,
        target: target.into(),
        kind: SOLICITATION,
        code: 0,
        flags: 0,
        about,
        card: Some((SOURCE_CARD, from)),
    };
    let packet = question.packet();
    ethernet_then(
        (group(packet.target), from, ethernet::IPV6),
        &packet.bytes(),
        &mark::of(name),
    )
}

pub(crate) fn attacks(cast: &Cast) -> Vec<Attack> {
    let mut attacks = forged(cast);
    attacks.extend(behind_headers(cast));
    attacks.extend(questions(cast));
    attacks.extend(answers(cast));
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

/// The same with its name behind the packet, which is full.
fn frame_then(cast: &Cast, packet: &Packet, name: &str) -> Vec<u8> {
    let header = (card(cast, packet), cast.me.mac_bytes(), ethernet::IPV6);
    ethernet_then(header, &packet.bytes(), &mark::of(name))
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

/// Where somebody is.
fn questions(cast: &Cast) -> Vec<Attack> {
    let (own, me) = (cast.me.ipv6(), cast.me.mac_bytes());
    let right = Neighbour {
        source: own,
        target: HOSTS_GROUP,
        kind: SOLICITATION,
        code: 0,
        flags: 0,
        about: HOST6,
        card: Some((SOURCE_CARD, me)),
    };
    let forged = |name, question: Neighbour| {
        Attack::forged(name, frame_then(cast, &question.packet(), name))
    };
    let name = "nd-solicitation-from-afar";
    let afar = Packet {
        hops: 254,
        ..right.packet()
    };
    let afar = Attack::forged(name, frame_then(cast, &afar, name));
    let allowed = |name, question: &Neighbour| {
        Attack::allowed(name, frame_then(cast, &question.packet(), name))
    };
    let by_cable = Neighbour {
        source: cast.me.link_local(),
        target: HOST_LINK_LOCAL,
        about: HOST_LINK_LOCAL,
        ..right.clone()
    };
    let theirs = cast.victim.ipv6();
    let other = |change: &dyn Fn(&mut Neighbour)| {
        let mut question = right.clone();
        change(&mut question);
        question
    };
    vec![
        allowed("nd-solicitation", &right),
        allowed("nd-solicitation-by-cable", &by_cable),
        afar,
        forged(
            "nd-solicitation-as-another-guest",
            other(&|it| it.source = theirs),
        ),
        forged("nd-solicitation-with-another-card", {
            let card = Some((SOURCE_CARD, cast.victim.mac_bytes()));
            other(&|it| it.card = card)
        }),
        forged(
            "nd-solicitation-without-a-card",
            other(&|it| it.card = None),
        ),
        forged(
            "nd-solicitation-with-another-option",
            other(&|it| it.card = Some((5, me))),
        ),
        forged(
            "nd-solicitation-for-another-guest",
            other(&|it| it.about = theirs),
        ),
        forged(
            "nd-solicitation-to-everybody",
            other(&|it| it.target = ALL_NODES),
        ),
        forged("nd-solicitation-of-another-code", other(&|it| it.code = 1)),
        // Whether the host's address is free, and its own.
        forged(
            "nd-probe-for-the-host",
            other(&|it| {
                (it.source, it.card) = (Ipv6Addr::UNSPECIFIED, None);
            }),
        ),
        forged(
            "nd-probe",
            other(&|it| {
                (it.source, it.card, it.about) = (Ipv6Addr::UNSPECIFIED, None, own);
            }),
        ),
    ]
}

/// Where it is itself.
fn answers(cast: &Cast) -> Vec<Attack> {
    let (own, me) = (cast.me.ipv6(), cast.me.mac_bytes());
    let right = Neighbour {
        source: own,
        target: HOST_LINK_LOCAL,
        kind: ADVERTISEMENT,
        code: 0,
        flags: 0x60,
        about: own,
        card: Some((TARGET_CARD, me)),
    };
    let forged =
        |name, answer: Neighbour| Attack::forged(name, frame_then(cast, &answer.packet(), name));
    let allowed =
        |name, answer: &Neighbour| Attack::allowed(name, frame_then(cast, &answer.packet(), name));
    let name = "nd-advertisement-from-afar";
    let afar = Packet {
        hops: 254,
        ..right.packet()
    };
    let afar = Attack::forged(name, frame_then(cast, &afar, name));
    let other = |change: &dyn Fn(&mut Neighbour)| {
        let mut answer = right.clone();
        change(&mut answer);
        answer
    };
    let (theirs, victim) = (cast.victim.ipv6(), cast.victim.mac_bytes());
    vec![
        allowed("nd-advertisement", &right),
        allowed(
            "nd-advertisement-without-a-card",
            &other(&|it| it.card = None),
        ),
        afar,
        forged(
            "nd-advertisement-as-another-guest",
            other(&|it| it.about = theirs),
        ),
        forged(
            "nd-advertisement-as-the-host",
            other(&|it| it.about = HOST6),
        ),
        forged(
            "nd-advertisement-from-another-guest",
            other(&|it| it.source = theirs),
        ),
        forged("nd-advertisement-with-another-card", {
            other(&|it| it.card = Some((TARGET_CARD, victim)))
        }),
        forged(
            "nd-advertisement-with-another-option",
            other(&|it| it.card = Some((5, me))),
        ),
        forged(
            "nd-advertisement-to-everybody",
            other(&|it| it.target = ALL_NODES),
        ),
        forged("nd-advertisement-of-another-code", other(&|it| it.code = 1)),
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
    let ping = |name, target, kind| {
        let packet = message(own, target, kind, &[0, 7, 0, 1], name);
        Attack::trespass(name, frame(cast, &packet))
    };
    vec![
        Attack::allowed("to-the-world-6", to("to-the-world-6", OUTSIDE, 443)),
        Attack::trespass(name, victim),
        trespass("to-a-guest-by-the-host-6", cast.victim.ipv6()),
        trespass("to-the-host-6", HOST6),
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
