//! ARP (RFC 826), true and false.

use std::net::Ipv4Addr;

use surplus_seat::HOST;

use crate::ethernet::{self, BROADCAST, Mac, ethernet};
use crate::{Attack, Cast, mark};

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NOBODY: Mac = [0; 6];

/// What stands in an ARP packet.
struct Packet {
    hardware: u16,
    protocol: u16,
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

impl Packet {
    fn frame(&self, to: Mac, from: Mac, name: &str) -> Vec<u8> {
        let mut packet = Vec::new();
        packet.extend(self.hardware.to_be_bytes());
        packet.extend(self.protocol.to_be_bytes());
        packet.extend([6, 4]);
        packet.extend(self.operation.to_be_bytes());
        for (mac, address) in [self.sender, self.target] {
            packet.extend(mac);
            packet.extend(address.octets());
        }
        packet.extend(mark::of(name));
        ethernet(to, from, ethernet::ARP, &packet)
    }
}

fn packet(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Packet {
    Packet {
        hardware: 1,
        protocol: ethernet::IPV4,
        operation,
        sender,
        target,
    }
}

/// Who has an address?
pub(crate) fn request(sender: (Mac, Ipv4Addr), wanted: Ipv4Addr, name: &str) -> Vec<u8> {
    packet(REQUEST, sender, (NOBODY, wanted)).frame(BROADCAST, sender.0, name)
}

pub(crate) fn attacks(cast: &Cast) -> Vec<Attack> {
    let (me, mine) = (cast.me.mac_bytes(), cast.me.ipv4());
    let (victim, theirs) = (cast.victim.mac_bytes(), cast.victim.ipv4());
    let host = (cast.host, HOST);
    let to = |mac: Mac, name, packet: Packet| Attack::forged(name, packet.frame(mac, me, name));
    let nobody = Ipv4Addr::UNSPECIFIED;
    let announce = packet(REQUEST, (me, theirs), (NOBODY, theirs));
    let other_hardware = Packet {
        hardware: 6,
        ..packet(REQUEST, (me, mine), (NOBODY, HOST))
    };
    let other_protocol = Packet {
        protocol: ethernet::IPV6,
        ..packet(REQUEST, (me, mine), (NOBODY, HOST))
    };
    vec![
        Attack::allowed("arp-request", request((me, mine), HOST, "arp-request")),
        Attack::allowed("arp-probe", request((me, nobody), mine, "arp-probe")),
        to(
            cast.host,
            "arp-reply-as-another-guest",
            packet(REPLY, (me, theirs), host),
        ),
        to(
            victim,
            "arp-reply-as-the-host",
            packet(REPLY, (me, HOST), (victim, theirs)),
        ),
        to(BROADCAST, "arp-announcement-as-another-guest", announce),
        to(
            cast.host,
            "arp-reply-with-another-mac",
            packet(REPLY, (victim, mine), host),
        ),
        to(
            BROADCAST,
            "arp-probe-for-another-guest",
            packet(REQUEST, (me, nobody), (NOBODY, theirs)),
        ),
        to(
            BROADCAST,
            "arp-reply-as-nobody",
            packet(REPLY, (me, nobody), (victim, mine)),
        ),
        to(
            BROADCAST,
            "arp-reverse-request",
            packet(3, (me, mine), (victim, theirs)),
        ),
        to(
            BROADCAST,
            "arp-inverse-request",
            packet(8, (me, mine), (victim, theirs)),
        ),
        to(BROADCAST, "arp-of-another-hardware", other_hardware),
        to(BROADCAST, "arp-of-another-protocol", other_protocol),
    ]
}
