//! Neighbour discovery (RFC 4861), true and false.

use std::net::Ipv6Addr;

use surplus_seat::{HOST_LINK_LOCAL, HOST6};

use super::{ALL_NODES, Packet, card, group, icmp};
use crate::ethernet::{self, Mac, ethernet_then};
use crate::{Attack, Cast, mark};

/// Who asks for either of the host's addresses asks this group.
const HOSTS_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

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
    let mut attacks = questions(cast);
    attacks.extend(answers(cast));
    attacks
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

/// The same with its name behind the packet, which is full.
fn frame_then(cast: &Cast, packet: &Packet, name: &str) -> Vec<u8> {
    let header = (card(cast, packet), cast.me.mac_bytes(), ethernet::IPV6);
    ethernet_then(header, &packet.bytes(), &mark::of(name))
}
