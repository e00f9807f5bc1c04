//! How guests' packets leave their host, where they have a network of their own for
//! that: by its interfaces alone, or not at all.
//!
//! networkd puts interfaces into groups (ip-link(8)), and the packet filter knows
//! nothing of interfaces but their groups. So it is complete when the image is built,
//! whatever an owner's cards and VLANs are called, and an interface that nobody has
//! put into a group is none of the guests'.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{HOST, HOST6, PREFIX, PREFIX6};

/// Group of the interfaces that host and guests share.
pub const SHARED: u32 = 121;

/// Group of the interfaces that are the guests' alone.
pub const OWN: u32 = 122;

/// What the packet filter marks guests' packets with, and what comes by the guests'
/// own interfaces: what the host answers there is marked alike.
pub const MARK: u32 = 121;

/// So many bits of a mark tell that. Those above tell whose packet it is
/// ([`floating`](crate::floating)).
pub const MARK_BITS: u32 = 8;

/// The table of the routes that lead out by the guests' own interfaces.
pub const TABLE: u32 = 121;

/// Rules of routing for systemd-networkd (systemd.network(5)): what is for a guest, or
/// for the cable that it came from, goes there before it is asked whose it is.
pub fn near_rules() -> String {
    let inside = Ipv4Addr::from(u32::from(HOST) & !(u32::MAX >> PREFIX));
    let inside6 = Ipv6Addr::from(u128::from(HOST6) & !(u128::MAX >> PREFIX6));
    let near = [
        format!("{inside}/{PREFIX}"),
        format!("{inside6}/{PREFIX6}"),
        "fe80::/64".to_owned(),
    ];
    let near = near.map(|network| rule(10, &format!("To={network}\nTable=main")));
    near.concat()
}

/// … and what is marked takes the guests' own routes; where those lead nowhere it ends.
pub fn rules() -> String {
    let mask = (1 << MARK_BITS) - 1;
    let marked = format!("Family=both\nFirewallMark={MARK}/{mask}");
    rule(14, &format!("{marked}\nTable={TABLE}"))
        + &rule(15, &format!("{marked}\nType=unreachable"))
}

/// The one that an own interface needs beside: what the host itself says there, as to
/// renew its lease, takes the same routes.
pub fn rule_from(interface: &str) -> String {
    rule(
        16,
        &format!("Family=both\nOutgoingInterface={interface}\nTable={TABLE}"),
    )
}

pub(crate) fn rule(priority: u32, terms: &str) -> String {
    format!("[RoutingPolicyRule]\nPriority={priority}\n{terms}\n")
}
