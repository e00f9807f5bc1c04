//! Physical network cards.

use std::collections::BTreeMap;

use surplus_protocol::inventory::Nic;
use surplus_seat::Seat;
use sysinfo::Networks;

use crate::sysroot::SysRoot;

/// Addresses with prefix length, by interface name.
pub type Addresses = BTreeMap<String, Vec<String>>;

const NET: &str = "/sys/class/net";

pub(super) fn addresses_now() -> Addresses {
    let Ok(networks) = Networks::new_with_refreshed_list() else {
        return Addresses::new();
    };
    networks
        .iter()
        .map(|(name, network)| {
            let mut addresses: Vec<_> = network
                .ip_networks()
                .iter()
                .map(ToString::to_string)
                .collect();
            addresses.sort();
            (name.to_string_lossy().into_owned(), addresses)
        })
        .collect()
}

/// A network card: its name now, and the address that is burnt in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    pub mac: Option<String>,
}

pub(super) fn cards(root: &SysRoot) -> Vec<Card> {
    let cards = physical(root).into_iter().map(|name| Card {
        mac: permanent_mac(root, &name),
        name,
    });
    cards.collect()
}

/// Interfaces with hardware behind them. Bridges, taps and bonds have none.
pub(super) fn physical(root: &SysRoot) -> Vec<String> {
    let mut names = root.names(NET);
    names.retain(|name| is_card(root, name));
    names
}

/// Whether an interface is an Ethernet card (`ARPHRD_ETHER` is 1).
pub(crate) fn is_card(root: &SysRoot, name: &str) -> bool {
    root.exists(format!("{NET}/{name}/device"))
        && root.number(format!("{NET}/{name}/type")) == Some(1_u16)
}

/// Whether an interface is switched on (`IFF_UP` is 1).
pub(crate) fn is_up(root: &SysRoot, name: &str) -> bool {
    let flags = root.text(format!("{NET}/{name}/flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    flags & 1 == 1
}

/// Whether a cable is in and the other side answers.
pub(crate) fn has_link(root: &SysRoot, name: &str) -> bool {
    root.number(format!("{NET}/{name}/carrier")) == Some(1_u8)
}

pub(super) fn read(root: &SysRoot, addresses: &Addresses) -> Vec<Nic> {
    physical(root)
        .into_iter()
        .map(|name| Nic {
            mac: permanent_mac(root, &name).unwrap_or_default(),
            driver: root.link_name(format!("{NET}/{name}/device/driver")),
            link: has_link(root, &name),
            speed_mbits: root
                .number::<i64>(format!("{NET}/{name}/speed"))
                .and_then(|speed| u32::try_from(speed).ok())
                .filter(|speed| *speed > 0),
            addresses: addresses_by(root, &name, addresses),
            name,
        })
        .collect()
}

/// The addresses that a card leads to: its own, and those of what stands on it,
/// a VLAN or a bond; single guests' apart.
fn addresses_by(root: &SysRoot, card: &str, addresses: &Addresses) -> Vec<String> {
    let mut names = vec![card.to_owned()];
    let mut at = 0;
    while let Some(name) = names.get(at) {
        let entries = root.names(format!("{NET}/{name}"));
        let upper = entries
            .iter()
            .filter_map(|name| name.strip_prefix("upper_"));
        let new: Vec<_> = upper
            .filter(|name| Seat::of_own_interface(name).is_none())
            .filter(|name| names.iter().all(|known| known != name))
            .map(str::to_owned)
            .collect();
        names.extend(new);
        at += 1;
    }
    let of = names.iter().filter_map(|name| addresses.get(name));
    of.flatten().cloned().collect()
}

pub(super) fn permanent_macs(root: &SysRoot) -> Vec<String> {
    let mut macs: Vec<_> = physical(root)
        .iter()
        .filter_map(|name| permanent_mac(root, name))
        .collect();
    macs.sort();
    macs.dedup();
    macs
}

/// The address that is burnt in. A bond gives its members one common address
/// and keeps theirs aside (Linux, networking/bonding).
fn permanent_mac(root: &SysRoot, name: &str) -> Option<String> {
    root.text(format!("{NET}/{name}/bonding_slave/perm_hwaddr"))
        .or_else(|| root.text(format!("{NET}/{name}/address")))
        .map(|mac| mac.to_ascii_lowercase())
        .filter(|mac| mac.chars().any(|c| !matches!(c, '0' | ':')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    fn two_cards() -> Tree {
        let tree = Tree::new();
        for (name, mac) in [("eno1", "52:54:00:00:00:02"), ("eno2", "52:54:00:00:00:01")] {
            tree.file(&format!("/sys/class/net/{name}/type"), "1")
                .file(&format!("/sys/class/net/{name}/address"), mac)
                .file(&format!("/sys/class/net/{name}/device/vendor"), "0x8086");
        }
        tree.file("/sys/class/net/eno1/carrier", "1")
            .file("/sys/class/net/eno1/speed", "25000")
            .file("/sys/class/net/eno2/speed", "-1")
            .file("/sys/class/net/lo/type", "772")
            .file("/sys/class/net/br0/type", "1");
        tree.link(
            "/sys/class/net/eno1/device/driver",
            "../../../bus/pci/drivers/ice",
        );
        tree
    }

    #[test]
    fn cards_are_listed_and_bridges_are_not() {
        let addresses = Addresses::from([("eno1".to_owned(), vec!["10.0.0.1/24".to_owned()])]);
        let nics = read(&two_cards().root(), &addresses);
        assert_eq!(nics.len(), 2);
        assert_eq!((nics[0].link, nics[0].speed_mbits), (true, Some(25_000)));
        assert_eq!(nics[0].driver.as_deref(), Some("ice"));
        assert_eq!(nics[0].addresses, ["10.0.0.1/24"]);
        assert_eq!((nics[1].link, nics[1].speed_mbits), (false, None));
    }

    #[test]
    fn a_card_has_the_addresses_of_what_stands_on_it() {
        let tree = two_cards();
        tree.file("/sys/class/net/eno2/upper_bond0/x", "")
            .file("/sys/class/net/bond0/upper_bond0.7/x", "")
            .file("/sys/class/net/bond0/lower_eno2/x", "");
        let addresses = Addresses::from([
            ("bond0.7".to_owned(), vec!["192.0.2.7/24".to_owned()]),
            ("surplus0".to_owned(), vec!["10.121.0.1/16".to_owned()]),
        ]);
        let nics = read(&tree.root(), &addresses);
        let found: Vec<_> = nics.iter().map(|nic| nic.addresses.len()).collect();
        assert_eq!(found, [0, 1]);
        assert_eq!(nics[1].addresses, ["192.0.2.7/24"]);
    }

    #[test]
    fn a_bond_does_not_hide_its_members_own_addresses() {
        let tree = two_cards();
        tree.file("/sys/class/net/eno2/address", "52:54:00:00:00:02")
            .file(
                "/sys/class/net/eno2/bonding_slave/perm_hwaddr",
                "52:54:00:00:00:01",
            );
        assert_eq!(
            permanent_macs(&tree.root()),
            ["52:54:00:00:00:01", "52:54:00:00:00:02"]
        );
    }
}
