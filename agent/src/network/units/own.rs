//! networkd's files for guests' own addresses: an interface to each, which stands on
//! what guests leave by and is served by the site's DHCP server as a machine of its own.

use sha2::{Digest as _, Sha256};
use surplus_seat::{Seat, floating, way};
use surplus_site::{Network, Site, Uplink};

use super::{UnitFile, Whose, addressing, mac_of};
use crate::inventory::Card;

/// The files, where `parent` is the one of what guests leave by.
pub(super) fn files(site: &Site, cards: &[Card], parent: &str) -> Vec<UnitFile> {
    let count = site.guests.addresses;
    let network = site.guests.network.as_ref();
    let Some(card) = mac(network.unwrap_or(&site.network), cards).filter(|_| count > 0) else {
        return Vec::new();
    };
    let seats: Vec<_> = floating::seats(count).collect();
    let lines = seats
        .iter()
        .map(|seat| format!("MACVLAN={}\n", seat.own_interface()));
    let near = network.map_or_else(way::near_rules, |_| String::new());
    let mut files = vec![
        UnitFile::new(
            format!("{parent}.d/50-surplus-addresses.conf"),
            format!("[Network]\n{}", lines.collect::<String>()),
        ),
        UnitFile::new(
            "10-surplus0.network.d/51-surplus-addresses.conf",
            near + &floating::rules(count),
        ),
    ];
    files.extend(seats.iter().flat_map(|seat| interface(*seat, &card)));
    files
}

fn interface(seat: Seat, card: &str) -> [UnitFile; 2] {
    let (name, mac) = (seat.own_interface(), own_mac(card, seat));
    let file = format!("08-surplus-address-{seat}");
    // They hear nothing of each other: whom a guest may reach is not for them to say.
    let netdev =
        format!("[NetDev]\nName={name}\nKind=macvlan\nMACAddress={mac}\n[MACVLAN]\nMode=private\n");
    let network = format!(
        "[Match]\nName={name}\n[Link]\nRequiredForOnline=no\nGroup={}\n{}{}",
        floating::GROUP,
        addressing(&Network::default(), &[], Whose::One(seat)),
        floating::rule_from(seat)
    );
    [
        UnitFile::new(format!("{file}.netdev"), netdev),
        UnitFile::new(format!("{file}.network"), network),
    ]
}

/// The card's own, or the one that a bond takes after.
fn mac(network: &Network, cards: &[Card]) -> Option<String> {
    match &network.uplink {
        Uplink::Any => None,
        Uplink::One(card) => mac_of(card, cards),
        Uplink::Bond(bond) => bond.interfaces.iter().find_map(|card| mac_of(card, cards)),
    }
}

/// The same in every boot, so that the DHCP server knows it, and no other host's:
/// locally administered, drawn from the card's and the seat's number.
fn own_mac(card: &str, seat: Seat) -> String {
    let drawn = Sha256::digest(format!("own address {seat} by {card}"));
    let tail = drawn.iter().take(5).map(|byte| format!(":{byte:02x}"));
    format!("02{}", tail.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_seats_of_two_hosts_share_a_mac_address_and_each_keeps_its_own() {
        let cards = ["52:54:00:00:00:01", "52:54:00:00:00:02"];
        let all = |card: &'static str| floating::seats(floating::MOST).map(|it| own_mac(card, it));
        let macs: BTreeSet<_> = cards.into_iter().flat_map(all).collect();
        assert_eq!(macs.len(), 2 * usize::from(floating::MOST));
        assert!(
            macs.iter()
                .all(|mac| mac.len() == 17 && mac.starts_with("02:"))
        );
        // Another one in the next version would be another machine to the DHCP server.
        let first = Seat::try_from(1).unwrap();
        assert_eq!(own_mac(cards[0], first), "02:2e:cc:bb:42:4d");
    }
}
