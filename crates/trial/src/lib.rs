//! What a hostile guest sends, frame by frame, and who hears it.
//!
//! A host sends all of it to itself before it offers anything ([`network`]), and has
//! a program try what somebody could open who broke out of a guest ([`qemu`]). The
//! tests send it from guests of their own, with each guard out in turn.
//!
//! Each frame carries its attack's name, so that whoever hears it can say which
//! one came through. Frames are made byte by byte, for the kernel would put right
//! what is wrong on purpose.

mod arp;
mod ethernet;
mod ipv4;
mod ipv6;
pub mod leaving;
pub mod mark;
mod netlink;
pub mod network;
pub mod packet;
pub mod qemu;

use std::net::{Ipv4Addr, Ipv6Addr};

use surplus_seat::{HOST, HOST6, Seat};

use self::ethernet::{BROADCAST, Mac, ethernet, tagged};

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The guest that sends.
    pub me: Seat,
    /// A tenant beside it.
    pub victim: Seat,
    /// The host's address on the guests' bridge.
    pub host: [u8; 6],
    /// What the host has on the site's network, and a neighbour of it there.
    pub uplink: Ipv4Addr,
    pub management: Ipv4Addr,
    pub uplink6: Ipv6Addr,
    pub management6: Ipv6Addr,
}

/// Whose promise an attack tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is sent as somebody else, or in a way that no guest has to: nothing of
    /// it may come so far as the bridge.
    Forged,
    /// It is sent rightly to where it has no business: the host's packet filter
    /// ends it.
    Trespass,
    /// No attack: what a guest may do.
    Allowed,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Attack {
    pub name: &'static str,
    pub kind: Kind,
    pub frame: Vec<u8>,
}

impl Attack {
    fn forged(name: &'static str, frame: Vec<u8>) -> Self {
        let kind = Kind::Forged;
        Self { name, kind, frame }
    }

    fn trespass(name: &'static str, frame: Vec<u8>) -> Self {
        let kind = Kind::Trespass;
        Self { name, kind, frame }
    }

    fn allowed(name: &'static str, frame: Vec<u8>) -> Self {
        let kind = Kind::Allowed;
        Self { name, kind, frame }
    }
}

/// Everything that a guest is seen to try.
pub fn all(cast: &Cast) -> Vec<Attack> {
    let mut all = link_layer(cast);
    all.extend(arp::attacks(cast));
    all.extend(ipv4::attacks(cast));
    all.extend(ipv6::attacks(cast));
    all
}

/// What the host's side of the bridge might send to everybody, and is for one
/// seat that is empty: no guest may hear it.
pub fn flooded(cast: &Cast, empty: Seat) -> Vec<Attack> {
    let to = empty.mac_bytes();
    let packet = |name| ipv4::udp(HOST, empty.ipv4(), (9, 9), name);
    let frame = |name| ethernet(to, cast.host, ethernet::IPV4, &packet(name));
    let who_has = arp::request((cast.host, HOST), empty.ipv4(), "flooded-arp-request");
    let router = ipv6::router_advertisement(cast.host, "flooded-router-advertisement");
    let name = "flooded-solicitation";
    let solicitation = ipv6::solicitation(cast.host, empty.ipv6(), name);
    let name6 = "flooded-unicast-6";
    let packet6 = ipv6::udp(HOST6, empty.ipv6(), (9, 9), name6).bytes();
    let unicast6 = ethernet(to, cast.host, ethernet::IPV6, &packet6);
    vec![
        Attack::forged("flooded-unicast", frame("flooded-unicast")),
        Attack::forged("flooded-arp-request", who_has),
        Attack::forged("flooded-router-advertisement", router),
        Attack::forged(name, solicitation),
        Attack::forged(name6, unicast6),
    ]
}

/// Frames that are neither ARP nor IP, and those from another's address.
fn link_layer(cast: &Cast) -> Vec<Attack> {
    let (me, host) = (cast.me.mac_bytes(), cast.host);
    let outside = |name| ipv4::udp(cast.me.ipv4(), ipv4::OUTSIDE, (9, 9), name);
    let from = |name, source: Mac| {
        Attack::forged(name, ethernet(host, source, ethernet::IPV4, &outside(name)))
    };
    let raw =
        |name, to: Mac, kind: u16| Attack::forged(name, ethernet(to, me, kind, &mark::of(name)));
    let vlan = |name, tags: &[(u16, u16)]| {
        Attack::forged(name, tagged(host, me, tags, ethernet::IPV4, &outside(name)))
    };
    vec![
        from("mac-of-another-guest", cast.victim.mac_bytes()),
        from("mac-of-the-host", host),
        from("mac-of-nobody", [0x02, 0, 0, 0, 0, 0x99]),
        from("mac-of-a-group", [0x01, 0, 0x5e, 0, 0, 1]),
        vlan("vlan", &[(ethernet::VLAN, 7)]),
        vlan("vlan-priority", &[(ethernet::VLAN, 0xe000)]),
        vlan("vlan-of-a-provider", &[(ethernet::PROVIDER_VLAN, 7)]),
        vlan(
            "vlan-in-vlan",
            &[(ethernet::PROVIDER_VLAN, 7), (ethernet::VLAN, 8)],
        ),
        vlan(
            "vlan-in-equal-vlan",
            &[(ethernet::VLAN, 1), (ethernet::VLAN, 8)],
        ),
        // IEEE 802.1D: a bridge that would be the root.
        Attack::forged(
            "stp",
            ethernet::llc([0x01, 0x80, 0xc2, 0, 0, 0], me, 0x42, "stp"),
        ),
        Attack::forged(
            "pvst",
            ethernet::llc([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd], me, 0xaa, "pvst"),
        ),
        raw("lldp", [0x01, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc),
        raw("lacp", [0x01, 0x80, 0xc2, 0, 0, 0x02], 0x8809),
        raw("eapol", [0x01, 0x80, 0xc2, 0, 0, 0x03], 0x888e),
        raw("pppoe-discovery", BROADCAST, 0x8863),
        raw("mpls", host, 0x8847),
        raw("reverse-arp", BROADCAST, 0x8035),
        raw("fibre-channel", host, 0x8906),
        raw("no-such-protocol", BROADCAST, 0xffff),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn cast() -> Cast {
        Cast {
            me: Seat::try_from(1).unwrap(),
            victim: Seat::try_from(2).unwrap(),
            host: [2, 0, 0, 0, 0, 1],
            uplink: Ipv4Addr::new(10, 77, 0, 1),
            management: Ipv4Addr::new(10, 77, 0, 2),
            uplink6: Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1),
            management6: Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 2),
        }
    }

    #[test]
    fn each_frame_carries_its_own_name_and_fits_a_network() {
        let cast = cast();
        let mut all = all(&cast);
        all.extend(flooded(&cast, Seat::try_from(3).unwrap()));
        let mut names = BTreeSet::new();
        for attack in &all {
            assert!(names.insert(attack.name), "{} twice", attack.name);
            assert_eq!(mark::find(&attack.frame), Some(attack.name));
            assert!((60..=1514).contains(&attack.frame.len()), "{}", attack.name);
        }
    }
}
