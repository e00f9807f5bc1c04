//! The real look at the network: the kernel's word, with networkd's signals as
//! hints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use surplus_seat::Seat;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Links, Uplink, units};
use crate::hub::in_one_line;
use crate::inventory::{has_link, is_up};
use crate::sysroot::SysRoot;
use crate::system::bus::Bus;
use crate::system::networkd::{self, AddressSignals};

/// Between looks: a signal may be lost, or networkd not be there.
const BY_CLOCK: Duration = Duration::from_millis(300);

/// Interfaces stand on one another at most this deep (VLAN on bond on card).
const DEEPEST: usize = 4;

/// The kernel's interfaces and addresses.
#[derive(Debug)]
pub struct KernelLinks {
    root: SysRoot,
    bus: Arc<Bus>,
    changed: Arc<Notify>,
    signals: Option<JoinHandle<()>>,
}

impl KernelLinks {
    /// Looks from now on; networkd's signals help as soon as the bus is there,
    /// which nobody waits for. Call within a tokio runtime.
    pub fn open(root: SysRoot, bus: Arc<Bus>) -> Self {
        let changed = Arc::new(Notify::new());
        let signals = tokio::spawn(forward_signals(Arc::clone(&bus), Arc::clone(&changed)));
        Self {
            root,
            bus,
            changed,
            signals: Some(signals),
        }
    }

    /// Looks by the clock alone.
    pub fn by_clock(root: SysRoot, bus: Arc<Bus>) -> Self {
        Self {
            root,
            bus,
            changed: Arc::default(),
            signals: None,
        }
    }
}

impl Drop for KernelLinks {
    fn drop(&mut self) {
        if let Some(signals) = &self.signals {
            signals.abort();
        }
    }
}

async fn forward_signals(bus: Arc<Bus>, changed: Arc<Notify>) {
    let mut signals = match AddressSignals::subscribe(&bus).await {
        Ok(signals) => signals,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::info!(error, "looking at the network without networkd's signals");
            return;
        }
    };
    loop {
        signals.next().await;
        changed.notify_one();
    }
}

impl Links for KernelLinks {
    fn look(&self) -> Vec<Uplink> {
        let mut addresses = addresses();
        uplinks(&self.root)
            .into_iter()
            .map(|name| Uplink {
                up: is_up(&self.root, &name),
                link: has_link(&self.root, &name),
                carries: carries_others(&self.root, &name),
                guests: is_the_guests(&self.root, &name),
                addresses: addresses.remove(&name).unwrap_or_default(),
                name,
            })
            .collect()
    }

    fn by_dhcp(&self) -> bool {
        units::by_dhcp(&self.root)
    }

    async fn ask_anew(&self, interface: &str) {
        let Some(index) = self
            .root
            .number(format!("/sys/class/net/{interface}/ifindex"))
        else {
            return;
        };
        match networkd::reconfigure(&self.bus, index).await {
            Ok(()) => tracing::info!(interface, "asks for an address anew"),
            Err(error) => tracing::info!(error = in_one_line(&error), interface, "cannot ask anew"),
        }
    }

    async fn changed(&mut self) {
        // Cancel-safe: both sides only wait; a lost signal costs one tick.
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(BY_CLOCK) => {}
        }
    }
}

/// The interfaces by which the host may each reach another network, where there is
/// more than one.
pub fn ways(root: &SysRoot) -> Vec<String> {
    let addresses = addresses();
    let mut names = uplinks(root);
    names.retain(|name| {
        has_link(root, name) && addresses.contains_key(name) && !is_the_guests(root, name)
    });
    if names.len() < 2 {
        names.clear();
    }
    names
}

/// Cards, and interfaces that stand on cards, but for those of single guests.
fn uplinks(root: &SysRoot) -> Vec<String> {
    let mut names = root.names("/sys/class/net");
    names.retain(|name| {
        stands_on_a_card(root, name, DEEPEST) && Seat::of_own_interface(name).is_none()
    });
    names
}

fn stands_on_a_card(root: &SysRoot, name: &str, depth: usize) -> bool {
    if crate::inventory::is_card(root, name) {
        return true;
    }
    depth > 0
        && root
            .names(format!("/sys/class/net/{name}"))
            .iter()
            .filter_map(|entry| entry.strip_prefix("lower_"))
            .any(|lower| stands_on_a_card(root, lower, depth - 1))
}

/// Whether a bond or a VLAN of the host's stands on an interface.
fn carries_others(root: &SysRoot, name: &str) -> bool {
    let entries = root.names(format!("/sys/class/net/{name}"));
    let mut upper = entries
        .iter()
        .filter_map(|entry| entry.strip_prefix("upper_"));
    upper.any(|upper| !is_the_guests(root, upper) && Seat::of_own_interface(upper).is_none())
}

/// Whether networkd has put it into the group of those that are the guests' alone.
fn is_the_guests(root: &SysRoot, name: &str) -> bool {
    root.number(format!("/sys/class/net/{name}/netdev_group")) == Some(surplus_seat::way::OWN)
}

/// The addresses of each interface that others than direct neighbours can answer to.
pub(super) fn addresses() -> BTreeMap<String, Vec<IpAddr>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    let Ok(interfaces) = getifaddrs() else {
        return found;
    };
    for interface in interfaces {
        let Some(storage) = interface.address else {
            continue;
        };
        let address = storage
            .as_sockaddr_in()
            .map(|v4| IpAddr::V4(v4.ip()))
            .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
        if let Some(address) = address.filter(leads_further) {
            found
                .entry(interface.interface_name)
                .or_default()
                .push(address);
        }
    }
    found
}

/// Whether others than direct neighbours can answer to this address.
fn leads_further(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn what_stands_on_cards_is_an_uplink_and_the_guests_bridge_is_not() {
        let tree = Tree::new();
        tree.file("/sys/class/net/eno1/type", "1")
            .file("/sys/class/net/eno1/device/vendor", "x")
            .file("/sys/class/net/bond0/lower_eno1/x", "")
            .file("/sys/class/net/bond0.7/lower_bond0/x", "")
            .file("/sys/class/net/sf7/lower_bond0/x", "")
            .file("/sys/class/net/vnet0/type", "1")
            .file("/sys/class/net/surplus0/lower_vnet0/x", "")
            .file("/sys/class/net/lo/type", "772");
        let mut names = uplinks(&tree.root());
        names.sort();
        assert_eq!(names, ["bond0", "bond0.7", "eno1"]);
    }

    #[test]
    fn what_a_bond_stands_on_is_told_from_what_has_the_addresses() {
        let tree = Tree::new();
        tree.file("/sys/class/net/eno1/upper_bond0/x", "")
            .file("/sys/class/net/bond0/lower_eno1/x", "");
        assert!(carries_others(&tree.root(), "eno1"));
        assert!(!carries_others(&tree.root(), "bond0"));
    }

    #[test]
    fn a_guests_vlan_takes_no_address_from_the_card_that_it_stands_on() {
        let tree = Tree::new();
        tree.file("/sys/class/net/eno1/upper_eno1.40/x", "")
            .file("/sys/class/net/eno1/upper_sf1/x", "")
            .file("/sys/class/net/eno1.40/netdev_group", "122\n");
        assert!(is_the_guests(&tree.root(), "eno1.40"));
        assert!(!is_the_guests(&tree.root(), "eno1"));
        assert!(!carries_others(&tree.root(), "eno1"));
    }

    #[test]
    fn addresses_that_only_neighbours_reach_do_not_count() {
        for (text, further) in [
            ("127.0.0.1", false),
            ("169.254.3.4", false),
            ("fe80::1", false),
            ("10.0.2.15", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(leads_further(&text.parse().unwrap()), further, "{text}");
        }
    }
}
