//! The site file's network as networkd's files: a pure plan, and writing it.
//!
//! The files go to `/run/systemd/network`, named so that they come before the
//! image's own; a site file that wants DHCP on any card needs none. DHCP is
//! asked in the same words as by the image's own file (80-uplink.network), so
//! that a host keeps its lease from the initramfs on.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use surplus_site::{Addressing, Bond, BondMode, Interface, Network, Uplink};

use super::Wanted;
use crate::inventory::Card;
use crate::sysroot::SysRoot;

/// networkd's volatile configuration (systemd.network(5)).
pub const DIRECTORY: &str = "/run/systemd/network";

const BOND: &str = "bond0";

/// What DHCP is asked, and what of its answers is taken.
const DHCP: [(&str, &[&str]); 3] = [
    (
        "DHCPv4",
        &[
            "ClientIdentifier=mac",
            "UseMTU=yes",
            "SendHostname=no",
            "UseHostname=no",
        ],
    ),
    (
        "DHCPv6",
        &[
            "DUIDType=link-layer",
            "IAID=1",
            "SendHostname=no",
            "UseHostname=no",
        ],
    ),
    ("IPv6AcceptRA", &[]),
];

/// The kernel's limit on an interface name, without the final zero.
const LONGEST_NAME: usize = 15;

/// One of networkd's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    pub name: String,
    pub content: String,
}

/// The files for `network`, with these `cards` in the machine. Empty where the
/// image's own files do. With other cards there may be other files.
pub fn plan(network: &Network, time_servers: &[String], cards: &[Card]) -> Vec<UnitFile> {
    if *network == Network::default() && time_servers.is_empty() {
        return Vec::new();
    }
    let mut files = match &network.uplink {
        Uplink::Bond(bond) => bond_files(bond, network.mtu, cards),
        Uplink::Any | Uplink::One(_) => Vec::new(),
    };
    for (number, carrier) in carriers(network, cards).iter().enumerate() {
        files.extend(carrier_files(network, time_servers, carrier, number));
    }
    files
}

/// What the network is to come to once the [`plan`] for it is in force.
pub fn wanted(network: &Network, cards: &[Card]) -> Wanted {
    let carriers = carriers(network, cards);
    let names = carriers.iter().enumerate().map(|(number, carrier)| {
        let vlan = network.vlan.map(|vlan| vlan_name(carrier, vlan, number));
        vlan.or_else(|| carrier.name.clone())
    });
    Wanted {
        addresses: match &network.addressing {
            Addressing::Dhcp => Vec::new(),
            Addressing::Static(fixed) => fixed.addresses.iter().map(|net| net.addr()).collect(),
        },
        interfaces: names.collect::<Option<_>>().unwrap_or_default(),
    }
}

fn carriers(network: &Network, cards: &[Card]) -> Vec<Carrier> {
    match &network.uplink {
        Uplink::Any if network.vlan.is_some() => cards
            .iter()
            .map(|card| Carrier::named(&card.name))
            .collect(),
        Uplink::Any => vec![Carrier {
            matching: "Type=ether\nKind=!*\n".to_owned(),
            name: None,
        }],
        Uplink::One(interface) => vec![Carrier {
            matching: matching(interface),
            // A card that is not there is waited for by what it is called.
            name: Some(match card(interface, cards) {
                Some(card) => card.name.clone(),
                None => interface.to_string(),
            }),
        }],
        Uplink::Bond(_) => vec![Carrier::named(BOND)],
    }
}

/// The card that a site file means.
fn card<'c>(interface: &Interface, cards: &'c [Card]) -> Option<&'c Card> {
    cards.iter().find(|card| match interface {
        Interface::Name(name) => card.name == *name,
        Interface::Mac(_) => card.mac.as_deref() == Some(&interface.to_string()),
    })
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
    let mtu = mtu_section(network.mtu);
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
    let name = vlan_name(carrier, vlan, number);
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
            format!("[Match]\nName={name}\n{mtu}{}", addressing(network, time)),
        ),
    ]
}

fn mtu_section(mtu: Option<u16>) -> String {
    mtu.map(|mtu| format!("[Link]\nMTUBytes={mtu}\n"))
        .unwrap_or_default()
}

fn vlan_name(carrier: &Carrier, vlan: u16, number: usize) -> String {
    match &carrier.name {
        Some(card) if card.len() + 5 <= LONGEST_NAME && !card.contains(':') => {
            format!("{card}.{vlan}")
        }
        _ => format!("vlan{vlan}-{number}"),
    }
}

/// A bond has the address of its first card, so that a DHCP server knows the
/// host in every boot; networkd would make one up out of the machine id, which
/// no two boots share.
fn bond_files(bond: &Bond, mtu: Option<u16>, cards: &[Card]) -> Vec<UnitFile> {
    let mut netdev = format!("[NetDev]\nName={BOND}\nKind=bond\n");
    let mut line = |text: String| netdev.push_str(&format!("{text}\n"));
    let mut members = bond.interfaces.iter();
    let first = members.find_map(|interface| match interface {
        Interface::Mac(_) => Some(interface.to_string()),
        Interface::Name(_) => card(interface, cards)?.mac.clone(),
    });
    if let Some(mac) = first {
        line(format!("MACAddress={mac}"));
    }
    if let Some(mtu) = mtu {
        line(format!("MTUBytes={mtu}"));
    }
    line(format!(
        "[Bond]\nMode={}\nMIIMonitorSec=100ms",
        bond.mode.name()
    ));
    if bond.mode == BondMode::Lacp {
        // A link that is dead but lit is left after 3 s and not after 90; and of
        // a host behind one router, the router's address tells no conversations
        // apart.
        line("LACPTransmitRate=fast\nTransmitHashPolicy=layer3+4".to_owned());
    }
    let mut files = vec![UnitFile {
        name: "05-surplus-bond.netdev".to_owned(),
        content: netdev,
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
        Addressing::Dhcp => {
            line("DHCP", &"yes");
            line("IPv6AcceptRA", &"yes");
        }
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
    if network.addressing == Addressing::Dhcp {
        let own_dns: &[_] = if network.dns.is_empty() {
            &[]
        } else {
            &["UseDNS=no"]
        };
        for (section, settings) in DHCP {
            let mut lines = settings.iter().chain(own_dns).peekable();
            if lines.peek().is_some() {
                text.push_str(&format!("[{section}]\n"));
            }
            lines.for_each(|line| text.push_str(&format!("{line}\n")));
        }
    }
    text
}

/// Writes `files` and removes what an earlier site file needed besides; says
/// whether anything was not so already.
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
    for name in root.names(DIRECTORY) {
        if is_ours(&name) && files.iter().all(|file| file.name != name) {
            fs::remove_file(directory.join(name))?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Whether the files that were written leave addresses to DHCP, as the image's
/// own file does where there are none.
pub fn by_dhcp(root: &SysRoot) -> bool {
    let fixed = |name: String| {
        let content = fs::read_to_string(root.path(DIRECTORY).join(name)).unwrap_or_default();
        content.lines().any(|line| line.starts_with("Address="))
    };
    let mut names = root.names(DIRECTORY);
    names.retain(|name| is_ours(name));
    !names.into_iter().any(fixed)
}

/// Whether a file of this name is one of a [`plan`].
fn is_ours(name: &str) -> bool {
    name.trim_start_matches(|c: char| c.is_ascii_digit())
        .starts_with("-surplus-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use surplus_site::Site;

    use super::*;
    use crate::sysroot::fixture::Tree;

    fn site(network: &str) -> Site {
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://hub.example\"\nca_sha256 = \"sha256:{}\"\n{network}",
            "0".repeat(64)
        );
        Site::parse(&text).unwrap()
    }

    /// Cards of these names; the addresses end in their numbers.
    fn cards(names: &[&str]) -> Vec<Card> {
        let card = |(number, name): (usize, &&str)| Card {
            name: (*name).to_owned(),
            mac: Some(format!("52:54:00:00:00:{:02x}", number + 1)),
        };
        names.iter().enumerate().map(card).collect()
    }

    fn planned(network: &str, cards: &[&str]) -> Vec<UnitFile> {
        let site = site(network);
        plan(&site.network, &site.time.servers, &self::cards(cards))
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
            &["eno2", "eno1"],
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
        assert_eq!(
            content(&files, "05-surplus-bond.netdev"),
            "[NetDev]\nName=bond0\nKind=bond\nMACAddress=52:54:00:00:00:02\nMTUBytes=9000\n\
             [Bond]\nMode=802.3ad\nMIIMonitorSec=100ms\nLACPTransmitRate=fast\nTransmitHashPolicy=layer3+4\n"
        );
        assert!(
            content(&files, "05-surplus-bond-1.network")
                .contains("Name=eno2\n[Network]\nBond=bond0")
        );
        assert!(content(&files, "10-surplus-0.network").contains("VLAN=bond0.100"));
        assert!(
            content(&files, "11-surplus-vlan-0.network")
                .contains("Name=bond0.100\n[Link]\nMTUBytes=9000\n[Network]\nDHCP=yes")
        );
    }

    #[test]
    fn a_vlan_on_any_card_is_tried_on_each() {
        let files = planned("[network]\nvlan = 7\n", &["eno1", "enp193s0f0np0"]);
        assert!(content(&files, "11-surplus-vlan-0.netdev").contains("Name=eno1.7\n"));
        assert!(content(&files, "11-surplus-vlan-1.netdev").contains("Name=vlan7-1\n"));
    }

    #[test]
    fn what_is_waited_for_is_what_was_planned() {
        let wanted = |network: &str| wanted(&site(network).network, &cards(&["eno1", "eno2"]));
        assert_eq!(wanted(""), Wanted::default());
        let fixed = wanted("[network]\ninterface = \"eno2\"\naddress = \"192.0.2.10/24\"\n");
        assert_eq!(fixed.interfaces, ["eno2"]);
        assert_eq!(
            fixed.addresses,
            ["192.0.2.10".parse::<std::net::IpAddr>().unwrap()]
        );
        let vlan = wanted("[network]\nvlan = 7\n");
        assert_eq!(vlan.interfaces, ["eno1.7", "eno2.7"]);
        let bond = "[network.bond]\ninterfaces = [\"eno1\", \"eno2\"]\n";
        assert_eq!(wanted(&format!("[network]\n{bond}")).interfaces, ["bond0"]);
        assert_eq!(
            wanted(&format!("[network]\nvlan = 7\n{bond}")).interfaces,
            ["bond0.7"]
        );
        let by_mac = |mac| wanted(&format!("[network]\ninterface = \"{mac}\"\n")).interfaces;
        assert_eq!(by_mac("52:54:00:00:00:02"), ["eno2"]);
        let absent = "52:54:00:12:34:56";
        assert_eq!(by_mac(absent), [absent], "any card would do");
    }

    #[test]
    fn dhcp_is_asked_in_the_words_of_the_images_own_file() {
        let image = include_str!("../../../systemd/usr/lib/systemd/network/80-uplink.network");
        let files = planned("[network]\ninterface = \"eno1\"\n", &[]);
        let ours = content(&files, "10-surplus-0.network");
        let asked = |text: &str| {
            let from = text.find("DHCP=yes").unwrap();
            let lines = text[from..].lines();
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let (ours, image) = (asked(ours), asked(image));
        let more: Vec<_> = image.difference(&ours).collect();
        assert_eq!(more, ["LLDP=yes"]);
        assert!(ours.is_subset(&image), "{ours:#?}");
    }

    #[test]
    fn writing_the_same_again_changes_nothing() {
        let tree = Tree::new();
        let files = planned("[network]\nmtu = 9000\n", &[]);
        assert!(write(&tree.root(), &files).unwrap());
        assert!(!write(&tree.root(), &files).unwrap());
    }

    #[test]
    fn whether_addresses_come_by_dhcp_is_read_from_what_was_written() {
        let tree = Tree::new();
        assert!(by_dhcp(&tree.root()));
        write(&tree.root(), &planned("[network]\nmtu = 9000\n", &[])).unwrap();
        assert!(by_dhcp(&tree.root()));
        let fixed = planned("[network]\naddress = \"2001:db8::9/64\"\n", &[]);
        write(&tree.root(), &fixed).unwrap();
        assert!(!by_dhcp(&tree.root()));
    }

    #[test]
    fn another_site_files_network_leaves_nothing_of_the_first() {
        let tree = Tree::new();
        tree.file("/run/systemd/network/20-surplus.network", "another's");
        write(&tree.root(), &planned("[network]\nvlan = 7\n", &["eno1"])).unwrap();
        assert!(write(&tree.root(), &[]).unwrap());
        assert_eq!(tree.root().names(DIRECTORY), ["20-surplus.network"]);
        assert!(!write(&tree.root(), &[]).unwrap());
    }
}
