//! Physical network cards.

use std::collections::BTreeMap;

use surplus_protocol::inventory::Nic;
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
            addresses: addresses.get(&name).cloned().unwrap_or_default(),
            name,
        })
        .collect()
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
