//! The addresses that guests were given, as the kernel's neighbour table has
//! them.
//!
//! What always holds: an address is of the guests' bridge and in its networks;
//! a guest may claim others, and any number.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use camino::Utf8Path;

/// IPv4 addresses by MAC on `bridge`, from the table at `path`
/// (`/proc/net/arp`).
pub(super) fn addresses(path: &Utf8Path, bridge: &str) -> BTreeMap<String, Vec<String>> {
    let table = std::fs::read_to_string(path).unwrap_or_default();
    neighbours(&table, bridge, &subnets(bridge))
}

/// Addresses of one guest in the report at most: a guest may claim any number.
const MAX_ADDRESSES: usize = 8;

/// An IPv4 network: its address and mask.
type Subnet = (Ipv4Addr, Ipv4Addr);

/// The networks that the bridge has addresses in.
fn subnets(bridge: &str) -> Vec<Subnet> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ours = addresses.filter(|it| it.interface_name == bridge);
    ours.filter_map(|it| {
        let (address, mask) = (it.address?, it.netmask?);
        let mask = mask.as_sockaddr_in()?.ip();
        Some((address.as_sockaddr_in()?.ip() & mask, mask))
    })
    .collect()
}

/// IPv4 addresses by MAC, as the kernel's neighbour table (`/proc/net/arp`)
/// has them for the bridge; those outside its networks are a guest's invention.
fn neighbours(table: &str, bridge: &str, subnets: &[Subnet]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Address, hardware type, flags (0x0: incomplete), MAC, mask, device.
        let [address, _, flags, mac, _, device, ..] = fields[..] else {
            continue;
        };
        let Ok(ip) = address.parse::<Ipv4Addr>() else {
            continue;
        };
        let within = subnets.iter().any(|(network, mask)| ip & *mask == *network);
        if flags == "0x0" || device != bridge || !within {
            continue;
        }
        let addresses = found.entry(mac.to_lowercase()).or_default();
        if addresses.len() < MAX_ADDRESSES {
            addresses.push(address.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_claims_a_few_addresses_of_the_bridge_and_no_others() {
        let mut table = String::from("IP address HW type Flags HW address Mask Device\n");
        let mut line = |address: &str, flags: &str, mac: &str, device: &str| {
            table.push_str(&format!("{address} 0x1 {flags} {mac} * {device}\n"));
        };
        line("10.1.2.3", "0x2", "52:54:00:AA:00:01", "surplus0");
        line("10.1.2.4", "0x0", "52:54:00:aa:00:01", "surplus0");
        line("8.8.8.8", "0x2", "52:54:00:aa:00:01", "surplus0");
        line("10.1.2.5", "0x2", "52:54:00:aa:00:01", "eth0");
        for host in 10..30 {
            line(
                &format!("10.1.2.{host}"),
                "0x2",
                "52:54:00:aa:00:02",
                "surplus0",
            );
        }
        let subnet = (Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(255, 255, 0, 0));
        let found = neighbours(&table, "surplus0", &[subnet]);
        assert_eq!(found["52:54:00:aa:00:01"], ["10.1.2.3"]);
        assert_eq!(found["52:54:00:aa:00:02"].len(), MAX_ADDRESSES);
        assert!(neighbours(&table, "surplus0", &[]).is_empty());
    }

    #[test]
    fn the_networks_of_an_interface_are_found() {
        let local = (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0));
        assert_eq!(subnets("lo"), [local]);
        assert!(subnets("no-such-bridge").is_empty());
    }
}
