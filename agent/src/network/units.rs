//! The site file's network as networkd's files: a pure plan, and writing it.
//!
//! The files go to `/run/systemd/network`, named so that they come before the
//! image's own; a site file that wants DHCP on any card needs none.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use surplus_site::{Addressing, Bond, Interface, Network, Uplink};

use crate::sysroot::SysRoot;

/// networkd's volatile configuration (systemd.network(5)).
pub const DIRECTORY: &str = "/run/systemd/network";

const BOND: &str = "bond0";

/// The kernel's limit on an interface name, without the final zero.
const LONGEST_NAME: usize = 15;

/// One of networkd's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    pub name: String,
    pub content: String,
}

/// The files for `network`, with these `cards` in the machine. Empty where the
/// image's own files do.
pub fn plan(network: &Network, time_servers: &[String], cards: &[String]) -> Vec<UnitFile> {
    if *network == Network::default() && time_servers.is_empty() {
        return Vec::new();
    }
    let mut files = Vec::new();
    let carriers: Vec<Carrier> = match &network.uplink {
        Uplink::Any if network.vlan.is_some() => {
            cards.iter().map(|card| Carrier::named(card)).collect()
        }
        Uplink::Any => vec![Carrier {
            matching: "Type=ether\nKind=!*\n".to_owned(),
            name: None,
        }],
        Uplink::One(interface) => vec![Carrier {
            matching: matching(interface),
            name: match interface {
                Interface::Name(name) => Some(name.clone()),
                Interface::Mac(_) => None,
            },
        }],
        Uplink::Bond(bond) => {
            files.extend(bond_files(bond, network.mtu));
            vec![Carrier::named(BOND)]
        }
    };
    for (number, carrier) in carriers.into_iter().enumerate() {
        files.extend(carrier_files(network, time_servers, &carrier, number));
    }
    files
}

/// What the addresses, or the VLAN that has them, stand on.
struct Carrier {
    matching: String,
    name: Option<String>,
}

impl Carrier {
    fn named(name: &str) -> Self {
        Self {
            matching: format!("Name={name}\n"),
            name: Some(name.to_owned()),
        }
    }
}

fn carrier_files(
    network: &Network,
    time: &[String],
    carrier: &Carrier,
    number: usize,
) -> Vec<UnitFile> {
    let mtu = network
        .mtu
        .map(|mtu| format!("[Link]\nMTUBytes={mtu}\n"))
        .unwrap_or_default();
    let file = |name: &str, content: String| UnitFile {
        name: name.to_owned(),
        content,
    };
    let Some(vlan) = network.vlan else {
        let content = format!(
            "[Match]\n{}{mtu}{}",
            carrier.matching,
            addressing(network, time)
        );
        return vec![file(&format!("10-surplus-{number}.network"), content)];
    };
    let name = match &carrier.name {
        Some(card) if card.len() + 6 <= LONGEST_NAME => format!("{card}.{vlan}"),
        _ => format!("vlan{vlan}-{number}"),
    };
    vec![
        file(
            &format!("10-surplus-{number}.network"),
            format!(
                "[Match]\n{}{mtu}[Network]\nVLAN={name}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
                carrier.matching
            ),
        ),
        file(
            &format!("11-surplus-vlan-{number}.netdev"),
            format!("[NetDev]\nName={name}\nKind=vlan\n[VLAN]\nId={vlan}\n"),
        ),
        file(
            &format!("11-surplus-vlan-{number}.network"),
            format!("[Match]\nName={name}\n{}", addressing(network, time)),
        ),
    ]
}

fn bond_files(bond: &Bond, mtu: Option<u16>) -> Vec<UnitFile> {
    let mut files = vec![UnitFile {
        name: "05-surplus-bond.netdev".to_owned(),
        content: format!(
            "[NetDev]\nName={BOND}\nKind=bond\n{}[Bond]\nMode={}\nMIIMonitorSec=100ms\n",
            mtu.map(|mtu| format!("MTUBytes={mtu}\n"))
                .unwrap_or_default(),
            bond.mode.name()
        ),
    }];
    files.extend(
        bond.interfaces
            .iter()
            .enumerate()
            .map(|(number, interface)| UnitFile {
                name: format!("05-surplus-bond-{number}.network"),
                content: format!("[Match]\n{}[Network]\nBond={BOND}\n", matching(interface)),
            }),
    );
    files
}

fn matching(interface: &Interface) -> String {
    match interface {
        Interface::Name(name) => format!("Name={name}\n"),
        Interface::Mac(_) => format!("PermanentMACAddress={interface}\n"),
    }
}

fn addressing(network: &Network, time: &[String]) -> String {
    let mut text = "[Network]\n".to_owned();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        text.push_str(&format!("{key}={value}\n"));
    };
    match &network.addressing {
        Addressing::Dhcp => line("DHCP", &"yes"),
        Addressing::Static(fixed) => {
            fixed
                .addresses
                .iter()
                .for_each(|address| line("Address", address));
            fixed
                .gateways
                .iter()
                .for_each(|gateway| line("Gateway", gateway));
        }
    }
    network.dns.iter().for_each(|server| line("DNS", server));
    time.iter().for_each(|server| line("NTP", server));
    if network.addressing == Addressing::Dhcp && !network.dns.is_empty() {
        text.push_str("[DHCPv4]\nUseDNS=no\n[DHCPv6]\nUseDNS=no\n[IPv6AcceptRA]\nUseDNS=no\n");
    }
    text
}

/// Writes `files`; says whether any was not there already.
pub fn write(root: &SysRoot, files: &[UnitFile]) -> io::Result<bool> {
    let directory = root.path(DIRECTORY);
    let mut changed = false;
    for file in files {
        let path = directory.join(&file.name);
        if fs::read_to_string(&path).is_ok_and(|old| old == file.content) {
            continue;
        }
        fs::create_dir_all(&directory)?;
        fs::write(&path, &file.content)?;
        // networkd is not root, and our own mask is narrow.
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        changed = true;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use surplus_site::Site;

    use super::*;
    use crate::sysroot::fixture::Tree;

    fn planned(network: &str, cards: &[&str]) -> Vec<UnitFile> {
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://hub.example\"\nca_sha256 = \"sha256:{}\"\n{network}",
            "0".repeat(64)
        );
        let site = Site::parse(&text).unwrap();
        let cards: Vec<_> = cards.iter().map(|card| (*card).to_owned()).collect();
        plan(&site.network, &site.time.servers, &cards)
    }

    fn content<'a>(files: &'a [UnitFile], name: &str) -> &'a str {
        &files.iter().find(|file| file.name == name).unwrap().content
    }

    #[test]
    fn dhcp_on_any_card_needs_no_file() {
        assert_eq!(planned("", &["eno1"]), []);
        assert_eq!(planned("[network]\n", &["eno1"]), []);
    }

    #[test]
    fn a_fixed_address_is_set_on_the_card_that_is_named() {
        let files = planned(
            "[network]\ninterface = \"52:54:00:12:34:56\"\naddress = \"192.0.2.10/24\"\ngateway = \"192.0.2.1\"\ndns = [\"192.0.2.53\"]\n[time]\nservers = [\"ntp.example\"]\n",
            &[],
        );
        assert_eq!(files.len(), 1);
        assert_eq!(
            content(&files, "10-surplus-0.network"),
            "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.53\nNTP=ntp.example\n"
        );
    }

    #[test]
    fn a_vlan_on_a_bond_is_laid_out_from_the_cards_up() {
        let files = planned(
            "[network]\nvlan = 100\nmtu = 9000\n[network.bond]\ninterfaces = [\"eno1\", \"eno2\"]\nmode = \"802.3ad\"\n",
            &[],
        );
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "05-surplus-bond.netdev",
                "05-surplus-bond-0.network",
                "05-surplus-bond-1.network",
                "10-surplus-0.network",
                "11-surplus-vlan-0.netdev",
                "11-surplus-vlan-0.network",
            ]
        );
        assert!(content(&files, "05-surplus-bond.netdev").contains("Mode=802.3ad"));
        assert!(
            content(&files, "05-surplus-bond-1.network")
                .contains("Name=eno2\n[Network]\nBond=bond0")
        );
        assert!(content(&files, "10-surplus-0.network").contains("VLAN=bond0.100"));
        assert!(
            content(&files, "11-surplus-vlan-0.network")
                .contains("Name=bond0.100\n[Network]\nDHCP=yes")
        );
    }

    #[test]
    fn a_vlan_on_any_card_is_tried_on_each() {
        let files = planned("[network]\nvlan = 7\n", &["eno1", "enp193s0f0np0"]);
        assert!(content(&files, "11-surplus-vlan-0.netdev").contains("Name=eno1.7\n"));
        assert!(content(&files, "11-surplus-vlan-1.netdev").contains("Name=vlan7-1\n"));
    }

    #[test]
    fn writing_the_same_again_changes_nothing() {
        let tree = Tree::new();
        let files = planned("[network]\nmtu = 9000\n", &[]);
        assert!(write(&tree.root(), &files).unwrap());
        assert!(!write(&tree.root(), &files).unwrap());
    }
}
