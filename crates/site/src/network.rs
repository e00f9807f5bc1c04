//! How the host reaches its networks, its own and its guests': which card, bonded or
//! not, which VLAN, addresses by DHCP or fixed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::error::SiteError;
use crate::reader::{Known, Section};

const KNOWN: Known = &[
    "interface",
    "address",
    "gateway",
    "dns",
    "vlan",
    "mtu",
    "bond",
];
const BOND: Known = &["interfaces", "mode"];

/// A network, from the card upwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    pub uplink: Uplink,
    /// The VLAN that the addresses are on; `None` for untagged.
    pub vlan: Option<u16>,
    pub addressing: Addressing,
    /// Name servers; with DHCP these replace the ones that DHCP names.
    pub dns: Vec<IpAddr>,
    /// Bytes; `None` leaves it to the network.
    pub mtu: Option<u16>,
}

/// What carries the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// Whichever card has a link and gets an address.
    #[default]
    Any,
    One(Interface),
    Bond(Bond),
}

/// A network card, by the kernel's name or by hardware address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    Name(String),
    Mac([u8; 6]),
}

/// Several cards as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    pub interfaces: Vec<Interface>,
    pub mode: BondMode,
}

/// How a bond uses its cards; the names are the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BondMode {
    /// One card at a time; needs nothing of the switch.
    #[default]
    ActiveBackup,
    /// LACP; the switch must speak it.
    Lacp,
}

/// Where the addresses come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// DHCP and router advertisements.
    #[default]
    Dhcp,
    Static(Static),
}

/// Fixed addresses, with at most one gateway per address family, each inside
/// the network of one of the addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
}

impl Network {
    /// The management network.
    pub(crate) fn read(top: &Section<'_, '_>, all: Known) -> Result<Self, SiteError> {
        let section = top.section("network", KNOWN, all)?;
        let network = section.map(|section| Self::from_section(&section, all));
        network.transpose().map(Option::unwrap_or_default)
    }

    fn from_section(section: &Section<'_, '_>, all: Known) -> Result<Self, SiteError> {
        Ok(Self {
            uplink: read_uplink(section, all)?,
            vlan: read_number(section, "vlan", 1..=4094, "a VLAN number, as 100")?,
            addressing: read_addressing(section)?,
            dns: read_addresses(section, "dns", "name servers, as [\"192.0.2.53\"]")?,
            mtu: read_number(section, "mtu", 1280..=9216, MTU)?,
        })
    }

    /// The guests' way out, where it is another than the management network, `host`:
    /// a VLAN beside that, or on cards of its own.
    pub(crate) fn read_guests(
        guests: &Section<'_, '_>,
        host: &Self,
        all: Known,
    ) -> Result<Option<Self>, SiteError> {
        const VLAN: &str = "the guests' VLAN, as 40, or name a card of their own by `interface`";
        let Some(section) = guests.section("network", KNOWN, all)? else {
            return Ok(None);
        };
        let missing = |key: &str, write: &str| SiteError::Missing {
            key: section.name_of(key),
            write: write.to_owned(),
        };
        let mut network = Self::from_section(&section, all)?;
        let own = section.key("interface").or_else(|| section.key("bond"));
        if own.is_none() {
            network.uplink = host.uplink.clone();
        }
        if network.uplink == Uplink::Any {
            return Err(missing("interface", CARD));
        }
        let beside = network.is_beside(host);
        if let Some(own) = own.filter(|_| !beside)
            && let Some(card) = network.uplink.card_of(&host.uplink)
        {
            const OTHER: &str = "another card, or leave it out and give a VLAN";
            return Err(own.invalid(format!("names {card}, which is the host's own"), OTHER));
        }
        let carried = Some(host.mtu.unwrap_or(ETHERNET));
        if let Some(mtu) = section
            .key("mtu")
            .filter(|_| beside && network.mtu > carried)
        {
            const MOST: &str = "`network.mtu` at most, which is 1500 where it is not given";
            return Err(mtu.invalid("is more than the host's own network carries", MOST));
        }
        match section.key("vlan") {
            None if network.uplink == host.uplink => Err(missing("vlan", VLAN)),
            Some(key) if beside && network.vlan == host.vlan => {
                Err(key.invalid("is the host's own", VLAN))
            }
            _ => Ok(Some(network)),
        }
    }

    /// Whether this network of the guests may be on a card that the host's own is on:
    /// as a VLAN.
    pub fn is_beside(&self, host: &Self) -> bool {
        let any = host.uplink == Uplink::Any && matches!(self.uplink, Uplink::One(_));
        self.vlan.is_some() && (any || self.uplink == host.uplink)
    }
}

impl Uplink {
    /// The cards that it names.
    pub fn cards(&self) -> &[Interface] {
        match self {
            Self::Any => &[],
            Self::One(interface) => std::slice::from_ref(interface),
            Self::Bond(bond) => &bond.interfaces,
        }
    }

    /// A card that `other` names as well.
    fn card_of(&self, other: &Self) -> Option<&Interface> {
        self.cards()
            .iter()
            .find(|card| other.cards().contains(card))
    }
}

const MTU: &str = "bytes, as 1500 or 9000";

/// Bytes that every Ethernet carries.
const ETHERNET: u16 = 1500;

const CARD: &str = "a card's name or hardware address, as \"eno1\" or \"52:54:00:12:34:56\"";

fn read_uplink(section: &Section<'_, '_>, all: Known) -> Result<Uplink, SiteError> {
    let one = section.string("interface", CARD)?;
    let bond = section.section("bond", BOND, all)?;
    match (one, bond) {
        (None, None) => Ok(Uplink::Any),
        (Some(found), None) => found
            .value
            .parse()
            .map(Uplink::One)
            .map_err(|()| found.invalid(format!("{:?} names no card", found.value), CARD)),
        (Some(found), Some(bond)) => Err(found.invalid(
            "stands beside a bond",
            format!("either this or `{}`", bond.name_of("interfaces")),
        )),
        (None, Some(bond)) => read_bond(&bond).map(Uplink::Bond),
    }
}

fn read_bond(section: &Section<'_, '_>) -> Result<Bond, SiteError> {
    const EXAMPLE: &str = "the bond's cards, as [\"eno1\", \"eno2\"]";
    let mut interfaces = Vec::new();
    let found = section.strings("interfaces", EXAMPLE)?;
    for card in &found {
        let interface: Interface = card
            .value
            .parse()
            .map_err(|()| card.invalid(format!("{:?} names no card", card.value), EXAMPLE))?;
        if interfaces.contains(&interface) {
            return Err(card.invalid(format!("names {interface} twice"), EXAMPLE));
        }
        interfaces.push(interface);
    }
    match (&found[..], interfaces.len()) {
        ([], _) => {
            let key = section.name_of("interfaces");
            return Err(SiteError::Missing {
                key,
                write: EXAMPLE.into(),
            });
        }
        ([only, ..], 1) => return Err(only.invalid("has one card alone", EXAMPLE)),
        _ => {}
    }
    const MODES: &str = "\"active-backup\" or \"802.3ad\"";
    let mode = match section.string("mode", MODES)? {
        None => BondMode::default(),
        Some(found) => [BondMode::ActiveBackup, BondMode::Lacp]
            .into_iter()
            .find(|mode| mode.name() == found.value)
            .ok_or_else(|| found.invalid(format!("{:?} is no known mode", found.value), MODES))?,
    };
    Ok(Bond { interfaces, mode })
}

fn read_addressing(section: &Section<'_, '_>) -> Result<Addressing, SiteError> {
    const ADDRESS: &str = "an address with its prefix length, as \"192.0.2.10/24\"";
    let own = section.name_of("address");
    let write = format!("a router inside the network of `{own}`, as \"192.0.2.1\"");
    let mut addresses: Vec<IpNet> = Vec::new();
    for found in section.strings("address", ADDRESS)? {
        let no_address = |_| {
            found.invalid(
                format!("{:?} is no address with prefix", found.value),
                ADDRESS,
            )
        };
        let address: IpNet = found.value.parse().map_err(no_address)?;
        let usable = !address.addr().is_unspecified() && !address.addr().is_multicast();
        if !usable || addresses.contains(&address) {
            return Err(found.invalid(format!("{address} cannot be used"), ADDRESS));
        }
        addresses.push(address);
    }
    let mut gateways: Vec<IpAddr> = Vec::new();
    for found in section.strings("gateway", &write)? {
        let no_address =
            |_| found.invalid(format!("{:?} is no address", found.value), write.as_str());
        let gateway: IpAddr = found.value.parse().map_err(no_address)?;
        if addresses.is_empty() {
            return Err(found.invalid(
                format!("stands without `{own}`"),
                format!("`address`: {ADDRESS}"),
            ));
        }
        if gateways
            .iter()
            .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            return Err(found.invalid("names two routers of one family", write.as_str()));
        }
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let reachable = addresses
            .iter()
            .any(|net| net.contains(&gateway) && net.addr() != gateway);
        if !reachable && !link_local {
            return Err(found.invalid(
                format!("{gateway} is in no network of `{own}`"),
                write.as_str(),
            ));
        }
        gateways.push(gateway);
    }
    if addresses.is_empty() {
        return Ok(Addressing::Dhcp);
    }
    Ok(Addressing::Static(Static {
        addresses,
        gateways,
    }))
}

fn read_addresses(
    section: &Section<'_, '_>,
    key: &str,
    write: &str,
) -> Result<Vec<IpAddr>, SiteError> {
    let parse = |found: crate::reader::Found<&str>| {
        found
            .value
            .parse()
            .map_err(|_| found.invalid(format!("{:?} is no IP address", found.value), write))
    };
    section
        .strings(key, write)?
        .into_iter()
        .map(parse)
        .collect()
}

fn read_number(
    section: &Section<'_, '_>,
    key: &str,
    range: std::ops::RangeInclusive<u16>,
    write: &str,
) -> Result<Option<u16>, SiteError> {
    let Some(found) = section.integer(key, write)? else {
        return Ok(None);
    };
    match u16::try_from(found.value) {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => Err(found.invalid(
            format!(
                "is {}, outside {} to {}",
                found.value,
                range.start(),
                range.end()
            ),
            write,
        )),
    }
}

impl BondMode {
    /// The kernel's and networkd's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveBackup => "active-backup",
            Self::Lacp => "802.3ad",
        }
    }
}

impl FromStr for Interface {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.contains(':') {
            let mut mac = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut mac {
                let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
                *byte = u8::from_str_radix(part, 16).map_err(|_| ())?;
            }
            return if parts.next().is_none() {
                Ok(Self::Mac(mac))
            } else {
                Err(())
            };
        }
        // The kernel's own rule, less the signs that are patterns to networkd.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let good = (1..=15).contains(&text.len()) && text.bytes().all(plain);
        if good && text != "." && text != ".." {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
        }
    }
}
