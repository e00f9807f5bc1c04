//! The site file's networks as networkd's files: a pure plan, and writing it.
//!
//! The files go to `/run/systemd/network`, named so that they come before the
//! image's own, or beside those as drop-ins; a site file that wants DHCP on any card
//! needs none. DHCP is asked in the same words as by the image's own file
//! (80-uplink.network), so that a host keeps its lease from the initramfs on.
//!
//! Guests leave by the interfaces of a group (`surplus_seat::way`). Where they have a
//! network of their own, no other interface is in one.

mod own;
mod written;

use surplus_seat::{Seat, way};
use surplus_site::{Addressing, Bond, BondMode, Interface, Network, Site, Static, Uplink};

use super::Wanted;
use crate::inventory::Card;
pub use written::{by_dhcp, write};

/// networkd's volatile configuration (systemd.network(5)).
pub const DIRECTORY: &str = "/run/systemd/network";

/// The host's bond, and the guests'.
const BOND: &str = "bond0";
const GUESTS_BOND: &str = "bond1";

/// What the files of the guests' way out are called.
const GUESTS_FILE: &str = "07-surplus-guests";

/// The group of interfaces that are not put into another.
const NO_GROUP: u32 = 0;

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
    /// In a directory of drop-ins or not.
    pub name: String,
    pub content: String,
}

impl UnitFile {
    fn new(name: impl Into<String>, content: String) -> Self {
        let name = name.into();
        Self { name, content }
    }
}

/// The files for the networks of host and guests, with these `cards` in the machine.
/// Empty where the image's own files do. With other cards there may be other files.
pub fn plan(site: &Site, cards: &[Card]) -> Vec<UnitFile> {
    let (network, time) = (&site.network, &site.time.servers);
    let way = Way::of(site, cards);
    if *network == Network::default() && time.is_empty() && way.is_none() {
        return Vec::new();
    }
    let mut files = Vec::new();
    if let Uplink::Bond(bond) = &network.uplink {
        files.extend(bond_files(
            bond,
            (BOND, "05-surplus-bond"),
            network.mtu,
            cards,
        ));
    }
    let mut carriers = carriers(network, &hosts_cards(site, cards), BOND);
    if let Some(way) = &way {
        files.extend(way.files(cards));
        if way.is_on_any_card_of(network, &carriers) {
            carriers.insert(0, way.carrier.clone());
        }
        if let Some(vlan) = way.carrier_of_nobody(&carriers) {
            files.push(way.carrier_file(vlan));
        }
    }
    let hosts = Hosts {
        network,
        addressing: addressing(network, time, Whose::Hosts),
        way: way.as_ref(),
    };
    for (number, carrier) in carriers.iter().enumerate() {
        files.extend(hosts.files(carrier, number));
    }
    let parent = match &way {
        Some(_) => format!("{GUESTS_FILE}.network"),
        None => hosts.addresses_file(0),
    };
    files.extend(own::files(site, cards, &parent));
    files
}

/// What the host's network is to come to once the [`plan`] for it is in force.
pub fn wanted(site: &Site, cards: &[Card]) -> Wanted {
    let network = &site.network;
    let carriers = carriers(network, &hosts_cards(site, cards), BOND);
    let names = carriers.iter().enumerate().map(|(number, carrier)| {
        let vlan = network.vlan.map(|vlan| vlan_name(carrier, vlan, number));
        vlan.or_else(|| carrier.name.clone())
    });
    Wanted {
        addresses: fixed(network),
        interfaces: names.collect::<Option<_>>().unwrap_or_default(),
        guests: Way::of(site, cards).map(|way| way.interface().to_owned()),
    }
}

/// The same of the guests' own network, where they have one.
pub fn guests_wanted(site: &Site, cards: &[Card]) -> Option<Wanted> {
    let way = Way::of(site, cards)?;
    Some(Wanted {
        addresses: fixed(way.network),
        interfaces: vec![way.interface().to_owned()],
        guests: None,
    })
}

fn fixed(network: &Network) -> Vec<std::net::IpAddr> {
    match &network.addressing {
        Addressing::Dhcp => Vec::new(),
        Addressing::Static(fixed) => fixed.addresses.iter().map(|net| net.addr()).collect(),
    }
}

/// The cards that may carry the host's own network.
fn hosts_cards(site: &Site, cards: &[Card]) -> Vec<Card> {
    let guests = site.guests.network.as_ref();
    let theirs = guests.filter(|guests| !guests.is_beside(&site.network));
    let theirs = theirs.map_or(&[][..], |guests| guests.uplink.cards());
    let mut cards = cards.to_vec();
    cards.retain(|card| !theirs.iter().any(|interface| is_meant(interface, card)));
    cards
}

fn carriers(network: &Network, cards: &[Card], bond: &str) -> Vec<Carrier> {
    match &network.uplink {
        Uplink::Any if network.vlan.is_some() => cards
            .iter()
            .map(|card| Carrier::named(&card.name))
            .collect(),
        Uplink::Any => vec![Carrier {
            matching: "Type=ether\nKind=!*\n".to_owned(),
            name: None,
        }],
        Uplink::One(interface) => vec![Carrier::card(interface, cards)],
        Uplink::Bond(_) => vec![Carrier::named(bond)],
    }
}

/// The card that a site file means.
fn card<'c>(interface: &Interface, cards: &'c [Card]) -> Option<&'c Card> {
    cards.iter().find(|card| is_meant(interface, card))
}

fn mac_of(interface: &Interface, cards: &[Card]) -> Option<String> {
    match interface {
        Interface::Mac(_) => Some(interface.to_string()),
        Interface::Name(_) => card(interface, cards)?.mac.clone(),
    }
}

fn is_meant(interface: &Interface, card: &Card) -> bool {
    match interface {
        Interface::Name(name) => card.name == *name,
        Interface::Mac(_) => card.mac.as_deref() == Some(&interface.to_string()),
    }
}

/// What the addresses, or the VLAN that has them, stand on.
#[derive(Clone)]
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

    fn card(interface: &Interface, cards: &[Card]) -> Self {
        Self {
            matching: matching(interface),
            // A card that is not there is waited for by what it is called.
            name: Some(match card(interface, cards) {
                Some(card) => card.name.clone(),
                None => interface.to_string(),
            }),
        }
    }
}

/// The host's own network, as it is laid over its carriers.
struct Hosts<'s> {
    network: &'s Network,
    addressing: String,
    way: Option<&'s Way<'s>>,
}

impl Hosts<'_> {
    /// The file of what has the addresses.
    fn addresses_file(&self, number: usize) -> String {
        match self.network.vlan {
            None => format!("10-surplus-{number}.network"),
            Some(_) => format!("11-surplus-vlan-{number}.network"),
        }
    }

    fn files(&self, carrier: &Carrier, number: usize) -> Vec<UnitFile> {
        let shared = self.way.filter(|way| way.carrier.name == carrier.name);
        let guests = shared.and_then(|way| way.vlan.as_deref());
        let group = match self.way {
            None => way::SHARED,
            Some(_) => NO_GROUP,
        };
        let mtu = self.network.mtu;
        let Some(vlan) = self.network.vlan else {
            let file = self.addresses_file(number);
            let vlans = on_it(&Vec::from_iter(guests));
            let rest = [vlans.as_str(), &self.addressing];
            return vec![network_file(file, &carrier.matching, mtu, group, rest)];
        };
        let name = vlan_name(carrier, vlan, number);
        let vlans: Vec<_> = [name.as_str()].into_iter().chain(guests).collect();
        let matching = format!("Name={name}\n");
        vec![
            network_file(
                format!("10-surplus-{number}.network"),
                &carrier.matching,
                mtu,
                NO_GROUP,
                [&on_it(&vlans), NO_ADDRESS],
            ),
            netdev_file(&format!("11-surplus-vlan-{number}"), &name, vlan),
            network_file(
                self.addresses_file(number),
                &matching,
                mtu,
                group,
                ["", &self.addressing],
            ),
        ]
    }
}

/// The guests' own network: on a card or a bond, or a VLAN there.
struct Way<'s> {
    network: &'s Network,
    /// Their own bond.
    bond: Option<&'s Bond>,
    carrier: Carrier,
    vlan: Option<String>,
}

impl<'s> Way<'s> {
    fn of(site: &'s Site, cards: &[Card]) -> Option<Self> {
        let network = site.guests.network.as_ref()?;
        let bond = match &network.uplink {
            Uplink::Bond(bond) if network.uplink != site.network.uplink => Some(bond),
            _ => None,
        };
        let name = bond.map_or(BOND, |_| GUESTS_BOND);
        let carrier = carriers(network, cards, name).into_iter().next()?;
        let vlan = network.vlan.map(|vlan| vlan_name(&carrier, vlan, "guests"));
        Some(Self {
            network,
            bond,
            carrier,
            vlan,
        })
    }

    /// By which guests leave.
    fn interface(&self) -> &str {
        let card = self.carrier.name.as_deref();
        self.vlan.as_deref().or(card).unwrap_or_default()
    }

    /// Whether the host's network is on any card, this one's carrier included, without
    /// naming it.
    fn is_on_any_card_of(&self, host: &Network, carriers: &[Carrier]) -> bool {
        let unnamed = carriers.iter().any(|carrier| carrier.name.is_none());
        unnamed && self.network.is_beside(host)
    }

    /// The VLAN, where none of the host's carriers has it.
    fn carrier_of_nobody(&self, carriers: &[Carrier]) -> Option<&str> {
        let shared = carriers.iter().any(|it| it.name == self.carrier.name);
        self.vlan.as_deref().filter(|_| !shared)
    }

    fn carrier_file(&self, vlan: &str) -> UnitFile {
        let (matching, mtu) = (&self.carrier.matching, self.network.mtu);
        let file = "06-surplus-guests.network".to_owned();
        network_file(file, matching, mtu, NO_GROUP, [&on_it(&[vlan]), NO_ADDRESS])
    }

    fn files(&self, cards: &[Card]) -> Vec<UnitFile> {
        let (network, interface) = (self.network, self.interface());
        let mut files = Vec::new();
        if let Some(bond) = self.bond {
            let names = (GUESTS_BOND, "05-surplus-guests-bond");
            files.extend(bond_files(bond, names, network.mtu, cards));
        }
        if let (Some(vlan), Some(id)) = (&self.vlan, network.vlan) {
            files.push(netdev_file(GUESTS_FILE, vlan, id));
        }
        let matching = match &self.vlan {
            Some(vlan) => &format!("Name={vlan}\n"),
            None => &self.carrier.matching,
        };
        let rest = [
            addressing(network, &[], Whose::Guests),
            way::rule_from(interface),
        ];
        files.push(network_file(
            format!("{GUESTS_FILE}.network"),
            matching,
            network.mtu,
            way::OWN,
            [&rest[0], &rest[1]],
        ));
        // Cards that the site file does not name are the host's, too.
        let no_group = format!("[Link]\nGroup={NO_GROUP}\n");
        files.push(UnitFile::new(
            "80-uplink.network.d/50-surplus-guests.conf",
            no_group,
        ));
        let served = format!(
            "[DHCPServer]\nUplinkInterface={interface}\n{}{}",
            way::near_rules(),
            way::rules()
        );
        files.push(UnitFile::new(
            "10-surplus0.network.d/50-surplus-guests.conf",
            served,
        ));
        files
    }
}

/// For what carries others' addresses and has none.
const NO_ADDRESS: &str = "[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n";

/// These VLANs stand on it.
fn on_it(vlans: &[&str]) -> String {
    let lines: String = vlans.iter().map(|vlan| format!("VLAN={vlan}\n")).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("[Network]\n{lines}")
    }
}

fn network_file(
    name: String,
    matching: &str,
    mtu: Option<u16>,
    group: u32,
    rest: [&str; 2],
) -> UnitFile {
    let mtu = mtu.map(|mtu| format!("MTUBytes={mtu}\n"));
    let link = format!("[Link]\n{}Group={group}\n", mtu.unwrap_or_default());
    UnitFile::new(name, format!("[Match]\n{matching}{link}{}", rest.concat()))
}

fn netdev_file(name: &str, interface: &str, vlan: u16) -> UnitFile {
    let content = format!("[NetDev]\nName={interface}\nKind=vlan\n[VLAN]\nId={vlan}\n");
    UnitFile::new(format!("{name}.netdev"), content)
}

fn vlan_name(carrier: &Carrier, vlan: u16, which: impl std::fmt::Display) -> String {
    match &carrier.name {
        Some(card) if card.len() + 5 <= LONGEST_NAME && !card.contains(':') => {
            format!("{card}.{vlan}")
        }
        _ => format!("vlan{vlan}-{which}"),
    }
}

/// A bond has the address of its first card, so that a DHCP server knows the
/// host in every boot; networkd would make one up out of the machine id, which
/// no two boots share.
fn bond_files(
    bond: &Bond,
    (name, file): (&str, &str),
    mtu: Option<u16>,
    cards: &[Card],
) -> Vec<UnitFile> {
    let mut netdev = format!("[NetDev]\nName={name}\nKind=bond\n");
    let mut line = |text: String| netdev.push_str(&format!("{text}\n"));
    let mut members = bond.interfaces.iter();
    let first = members.find_map(|interface| mac_of(interface, cards));
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
    let mut files = vec![UnitFile::new(format!("{file}.netdev"), netdev)];
    files.extend(bond.interfaces.iter().enumerate().map(|(number, card)| {
        let content = format!("[Match]\n{}[Network]\nBond={name}\n", matching(card));
        UnitFile::new(format!("{file}-{number}.network"), content)
    }));
    files
}

fn matching(interface: &Interface) -> String {
    match interface {
        Interface::Name(name) => format!("Name={name}\n"),
        Interface::Mac(_) => format!("PermanentMACAddress={interface}\n"),
    }
}

/// Whose network it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Hosts,
    /// Its routes are for guests, and nothing that its servers say is for the host.
    Guests,
    /// The same, for the guest in one seat.
    One(Seat),
}

impl Whose {
    /// What is set beside [`DHCP`].
    fn beside(self) -> [(&'static str, Vec<String>); 3] {
        let (table, beside) = match self {
            Self::Hosts => {
                return ["DHCPv4", "DHCPv6", "IPv6AcceptRA"].map(|section| (section, Vec::new()));
            }
            Self::Guests => (way::TABLE, None),
            Self::One(seat) => (seat.table(), Some("UseDNS=no")),
        };
        let table = format!("RouteTable={table}");
        let beside = |lines: &[&str]| {
            let lines = lines.iter().copied().chain(beside);
            lines.map(str::to_owned).collect()
        };
        [
            ("DHCPv4", beside(&[&table, "UseNTP=no"])),
            ("DHCPv6", beside(&["UseNTP=no"])),
            ("IPv6AcceptRA", beside(&[&table])),
        ]
    }
}

fn addressing(network: &Network, time: &[String], whose: Whose) -> String {
    let mut text = "[Network]\n".to_owned();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        text.push_str(&format!("{key}={value}\n"));
    };
    match (&network.addressing, whose) {
        (Addressing::Dhcp, _) => {
            line("DHCP", &"yes");
            line("IPv6AcceptRA", &"yes");
        }
        (Addressing::Static(fixed), Whose::Hosts) => {
            fixed
                .addresses
                .iter()
                .for_each(|address| line("Address", address));
            fixed
                .gateways
                .iter()
                .for_each(|gateway| line("Gateway", gateway));
        }
        (Addressing::Static(_), Whose::Guests | Whose::One(_)) => line("IPv6AcceptRA", &"no"),
    }
    network.dns.iter().for_each(|server| line("DNS", server));
    time.iter().for_each(|server| line("NTP", server));
    if whose != Whose::Hosts {
        line("DNSDefaultRoute", &"no");
    }
    match (&network.addressing, whose) {
        (Addressing::Dhcp, _) => text.push_str(&dhcp(network, whose)),
        (Addressing::Static(fixed), Whose::Guests | Whose::One(_)) => {
            text.push_str(&in_the_guests_table(fixed))
        }
        (Addressing::Static(_), Whose::Hosts) => {}
    }
    text
}

fn dhcp(network: &Network, whose: Whose) -> String {
    let own_dns = (!network.dns.is_empty()).then_some("UseDNS=no");
    let mut text = String::new();
    for ((section, settings), (_, beside)) in DHCP.into_iter().zip(whose.beside()) {
        let beside = beside.iter().map(String::as_str);
        let mut lines = settings
            .iter()
            .copied()
            .chain(beside)
            .chain(own_dns)
            .peekable();
        if lines.peek().is_some() {
            text.push_str(&format!("[{section}]\n"));
        }
        lines.for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// Fixed addresses whose routes are the guests' alone.
fn in_the_guests_table(fixed: &Static) -> String {
    let mut text = String::new();
    for address in &fixed.addresses {
        let (network, table) = (address.trunc(), way::TABLE);
        text.push_str(&format!(
            "[Address]\nAddress={address}\nAddPrefixRoute=no\n\
             [Route]\nDestination={network}\nTable={table}\n"
        ));
    }
    for gateway in &fixed.gateways {
        text.push_str(&format!(
            "[Route]\nGateway={gateway}\nTable={}\n",
            way::TABLE
        ));
    }
    text
}

#[cfg(test)]
mod tests;
