//! Addresses that are a guest's alone ("floating": one to one, and nothing of it is
//! set up in the guest).
//!
//! A host's first seats have one each, as many as its owner wants. The address lies on
//! an interface of the seat's, which stands on what guests leave by and has a MAC
//! address of its own, so that the site's DHCP server serves it as it does any machine.
//! What comes to it is for the seat's guest, and what that guest sends leaves by it or
//! not at all. As everything of a seat, interface, mark and table of routes follow from
//! its number: the packet filter is complete when the image is built.

use std::fmt::Write as _;

use crate::{Seat, way};

/// The most seats of a host that may have an address of their own. The others are left
/// to guests without.
pub const MOST: u16 = 100;

/// Group of the interfaces that are one guest's alone.
pub const GROUP: u32 = 123;

/// Their names begin with this.
pub const PREFIX: &str = "sf";

/// The seats that have an address of their own, where a host's owner wants so many.
pub fn seats(count: u16) -> impl Iterator<Item = Seat> {
    Seat::all().take(count.into())
}

impl Seat {
    /// Whether it has an address of its own, where so many seats have.
    pub fn has_own_address(self, count: u16) -> bool {
        self.number() <= count
    }

    /// The interface with the guest's own address.
    pub fn own_interface(self) -> String {
        format!("{PREFIX}{}", self.number())
    }

    /// The seat whose own address lies on the interface of this name.
    pub fn of_own_interface(name: &str) -> Option<Self> {
        let number: u16 = name.strip_prefix(PREFIX)?.parse().ok()?;
        let seat = Self::try_from(number).ok()?;
        (seat.own_interface() == name).then_some(seat)
    }

    /// What the packet filter marks the guest's packets with. Without an own address
    /// they are routed as all others: by [`way::MARK`], which is a part of it.
    pub fn mark(self) -> u32 {
        way::MARK | u32::from(self.number()) << way::MARK_BITS
    }

    /// The table of the routes that lead out by its own interface.
    pub fn table(self) -> u32 {
        1000 + u32::from(self.number())
    }
}

/// Rules of routing for systemd-networkd (systemd.network(5)): what is for or from the
/// own addresses of so many seats goes by their tables, and where those lead nowhere it
/// ends.
pub fn rules(count: u16) -> String {
    seats(count)
        .map(|seat| {
            let (mark, table) = (seat.mark(), seat.table());
            let marked = format!("Family=both\nFirewallMark={mark}");
            way::rule(11, &format!("{marked}\nTable={table}"))
                + &way::rule(12, &format!("{marked}\nType=unreachable"))
        })
        .collect()
}

/// The one that the interface needs beside: what the host itself says there, as to
/// renew the address, takes the same routes.
pub fn rule_from(seat: Seat) -> String {
    let (interface, table) = (seat.own_interface(), seat.table());
    way::rule(
        13,
        &format!("Family=both\nOutgoingInterface={interface}\nTable={table}"),
    )
}

/// Elements of the sets and maps of the packet filter: `marks` and `marks6` (the mark
/// of what a guest sends, by its address), `doors` (the same, by the interface that its
/// own address lies on), `owners` (that interface and the mark), `behind` and `behind6`
/// (whose address lies on an interface).
pub(crate) fn packet_filter() -> String {
    let mut text = String::new();
    let mut add = |table: &str, name: &str, element: fn(Seat) -> String| {
        let elements: Vec<_> = seats(MOST).map(element).collect();
        let elements = elements.join(",\n\t");
        _ = writeln!(text, "add element inet {table} {name} {{\n\t{elements}\n}}");
    };
    let host = "surplus_host";
    add(host, "marks", |it| format!("{} : {}", it.ipv4(), it.mark()));
    add(host, "marks6", |it| {
        format!("{} : {}", it.ipv6(), it.mark())
    });
    add(host, "doors", |it| {
        format!("{} : {}", it.own_interface(), it.mark())
    });
    add(host, "owners", |it| {
        format!("{} . {}", it.own_interface(), it.mark())
    });
    let forwards = "surplus_forwards";
    add(forwards, "behind", |it| {
        format!("{} : {}", it.own_interface(), it.ipv4())
    });
    add(forwards, "behind6", |it| {
        format!("{} : {}", it.own_interface(), it.ipv6())
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(number: u16) -> Seat {
        Seat::try_from(number).unwrap()
    }

    #[test]
    fn a_mark_is_the_seats_and_tells_that_it_is_a_guests() {
        let marks: std::collections::BTreeSet<_> = Seat::all().map(Seat::mark).collect();
        assert_eq!(marks.len(), usize::from(crate::SEATS));
        let common = (1 << way::MARK_BITS) - 1;
        assert!(marks.iter().all(|mark| mark & common == way::MARK));
        assert_eq!(seat(2).mark(), 0x279);
        assert!(Seat::all().all(|seat| seat.table() != way::TABLE));
    }

    #[test]
    fn the_first_seats_have_addresses_and_the_others_none() {
        assert_eq!(seats(0).count(), 0);
        assert_eq!(seats(2).collect::<Vec<_>>(), [seat(1), seat(2)]);
        assert!(seat(2).has_own_address(2) && !seat(3).has_own_address(2));
        const { assert!(MOST < crate::SEATS) };
        assert_eq!(Seat::of_own_interface("sf100"), Some(seat(100)));
        for other in ["sf", "sf0", "sf01", "sf251", "sg1", "sfp1"] {
            assert_eq!(Seat::of_own_interface(other), None, "{other}");
        }
    }

    #[test]
    fn routes_are_the_seats_own_or_none() {
        assert_eq!(rules(0), "");
        assert_eq!(
            rules(1),
            "[RoutingPolicyRule]\nPriority=11\nFamily=both\nFirewallMark=377\nTable=1001\n\
             [RoutingPolicyRule]\nPriority=12\nFamily=both\nFirewallMark=377\nType=unreachable\n"
        );
    }

    #[test]
    fn the_filter_is_told_of_each() {
        let filter = packet_filter();
        for told in [
            "add element inet surplus_host marks {\n\t10.121.1.1 : 377,",
            "fdc9:50a5:3ed9::1:1 : 377,",
            "sf100 : 25721\n",
            "sf2 . 633,",
            "add element inet surplus_forwards behind {\n\tsf1 : 10.121.1.1,",
            "sf100 : fdc9:50a5:3ed9::1:64\n",
        ] {
            assert!(filter.contains(told), "{told}");
        }
    }
}
