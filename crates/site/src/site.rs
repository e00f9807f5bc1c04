//! The site file's content, and its reading.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use surplus_seat::floating;

use crate::error::SiteError;
use crate::network::{Network, Uplink};
use crate::reader::{self, Known, Section};
use crate::size::parse_size;
use crate::text;

const TOP: Known = &[
    "version",
    "marketplace",
    "site",
    "network",
    "storage",
    "guests",
    "reserve",
    "time",
    "testing",
];
const MARKETPLACE: Known = &["url", "urls", "ca", "ca_sha256", "token", "proxy"];
const PLACE: Known = &["name", "rack", "labels"];
const STORAGE: Known = &["policy", "serials"];
const GUESTS: Known = &[
    "share_cores",
    "mbits",
    "disk_ops",
    "disk_mbytes",
    "addresses",
    "network",
];
const RESERVE: Known = &["memory", "vcpus"];
/// Full names, for the guess at what an unknown key was meant to be.
const ALL: Known = &[
    "marketplace.url",
    "marketplace.ca",
    "marketplace.ca_sha256",
    "marketplace.token",
    "marketplace.proxy",
    "site.name",
    "site.rack",
    "site.labels",
    "network.interface",
    "network.address",
    "network.gateway",
    "network.dns",
    "network.vlan",
    "network.mtu",
    "network.bond",
    "network.bond.interfaces",
    "storage.policy",
    "storage.serials",
    "guests.share_cores",
    "guests.mbits",
    "guests.addresses",
    "guests.disk_ops",
    "guests.disk_mbytes",
    "guests.network",
    "guests.network.interface",
    "guests.network.address",
    "guests.network.gateway",
    "guests.network.dns",
    "guests.network.vlan",
    "guests.network.mtu",
    "guests.network.bond",
    "guests.network.bond.interfaces",
    "reserve.memory",
    "reserve.vcpus",
    "time.servers",
    "testing.allow_emulation",
];

/// What a host must know of the place it stands in.
#[derive(Clone, Debug)]
pub struct Site {
    pub marketplace: Marketplace,
    pub place: Place,
    pub network: Network,
    pub storage: Storage,
    pub guests: Guests,
    pub reserve: Reserve,
    pub time: Time,
    pub testing: Testing,
}

/// Where the marketplace is, and how to join it.
#[derive(Clone, Debug)]
pub struct Marketplace {
    /// `https://host[:port]`, at least one.
    pub urls: Vec<String>,
    pub trust: Trust,
    /// The secret that lets a host enrol; without it an operator approves.
    pub token: Option<SecretString>,
    /// `http://host[:port]` of a proxy on the way.
    pub proxy: Option<String>,
}

/// How the host knows the marketplace's certificate authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificates themselves, in PEM form.
    Ca(String),
    /// SHA-256 of the certificate in DER form; the certificate is fetched.
    CaSha256([u8; 32]),
}

/// What the host shall be known by, for people and for searches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub name: Option<String>,
    pub rack: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// Which disks are given to us. Whatever it says, a disk that carries somebody's
/// data is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// None: guests' disks lie in memory.
    #[default]
    None,
    /// All that are blank, and those that were blank when they were taken.
    Blank,
    /// Those with these serial numbers.
    Serials(Vec<String>),
}

/// How guests run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guests {
    /// A core's threads (SMT) may run different tenants at once, who can then learn
    /// from each other's timing. Otherwise each core runs one thread.
    pub share_cores: bool,
    /// What each may send, and receive: million bits a second.
    pub mbits: u32,
    /// So many guests may have an address of their own: the host asks for as many, by
    /// DHCP and router advertisements, where guests leave it. That stands on cards that
    /// are named.
    pub addresses: u16,
    pub disk_rate: DiskRate,
    /// What they leave the host by, where that is not its own network. It stands on
    /// cards that are named.
    pub network: Option<Network>,
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            share_cores: false,
            mbits: 100,
            addresses: 0,
            disk_rate: DiskRate::default(),
            network: None,
        }
    }
}

/// What a guest may do with the owner's disks in a second, for each vCPU that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRate {
    /// Reads and writes.
    pub ops: u32,
    /// Million bytes, read and written.
    pub mbytes: u32,
}

impl Default for DiskRate {
    fn default() -> Self {
        Self {
            ops: 1000,
            mbytes: 50,
        }
    }
}

/// What is kept back for the owner, besides what the host itself needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes.
    pub memory: Option<u64>,
    pub vcpus: Option<u32>,
}

/// Where the time comes from; empty means what DHCP or the image names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub servers: Vec<String>,
}

/// What is allowed for tests alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Testing {
    /// Offer capacity although guests would be emulated: slow, and no security
    /// boundary.
    pub allow_emulation: bool,
}

impl Site {
    /// Reads a site file.
    pub fn parse(text: &str) -> Result<Self, SiteError> {
        let document = reader::parse(text)?;
        let top = Section::top(text, document.get_ref(), TOP, ALL)?;
        read_version(&top)?;
        let network = Network::read(&top, ALL)?;
        Ok(Self {
            marketplace: read_marketplace(&top)?,
            place: read_place(&top)?,
            storage: read_storage(&top)?,
            guests: read_guests(&top, &network)?,
            network,
            reserve: read_reserve(&top)?,
            time: read_time(&top)?,
            testing: read_testing(&top)?,
        })
    }

    /// Reads a site file from untrusted bytes, as a medium holds them.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, SiteError> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| SiteError::NotText)?)
    }
}

fn missing(key: &str, write: &str) -> SiteError {
    SiteError::Missing {
        key: key.to_owned(),
        write: write.to_owned(),
    }
}

fn read_version(top: &Section<'_, '_>) -> Result<(), SiteError> {
    const WRITE: &str = "`version = 1` as the first line";
    let version = top
        .integer("version", WRITE)?
        .ok_or_else(|| missing("version", WRITE))?;
    if version.value != 1 {
        return Err(version.invalid(
            format!("{} is not known to this program", version.value),
            WRITE,
        ));
    }
    Ok(())
}

fn read_marketplace(top: &Section<'_, '_>) -> Result<Marketplace, SiteError> {
    const URL: &str = "`url = \"https://marketplace.example:8443\"` under [marketplace]";
    let section = top
        .section("marketplace", MARKETPLACE, ALL)?
        .ok_or_else(|| missing("marketplace.url", URL))?;
    let proxy = section.string("proxy", "an address, as \"http://proxy.example:3128\"")?;
    let proxy = proxy
        .map(|found| {
            text::proxy_url(found.value).map_err(|problem| {
                found.invalid(problem, "an address, as \"http://proxy.example:3128\"")
            })
        })
        .transpose()?;
    Ok(Marketplace {
        urls: read_urls(&section)?,
        trust: read_trust(&section)?,
        token: read_token(&section)?,
        proxy,
    })
}

fn read_urls(section: &Section<'_, '_>) -> Result<Vec<String>, SiteError> {
    const WRITE: &str = "the marketplace's address, as \"https://marketplace.example:8443\"";
    let mut urls = Vec::new();
    let single = section.strings("url", WRITE)?;
    let several = section.strings("urls", WRITE)?;
    if let ([first, ..], [_, ..]) = (&single[..], &several[..]) {
        return Err(first.invalid("stands beside `marketplace.urls`", "one of the two"));
    }
    for found in single.into_iter().chain(several) {
        let url = text::https_url(found.value).map_err(|problem| found.invalid(problem, WRITE))?;
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    if urls.is_empty() {
        return Err(missing("marketplace.url", WRITE));
    }
    Ok(urls)
}

fn read_trust(section: &Section<'_, '_>) -> Result<Trust, SiteError> {
    const PEM: &str = "the marketplace's CA certificate between \"\"\" and \"\"\" \
                       (`surplus site-file` writes it for you)";
    const HASH: &str = "\"sha256:\" and the 64 hexadecimal digits of the CA certificate's hash";
    let ca = section.string("ca", PEM)?;
    let hash = section.string("ca_sha256", HASH)?;
    match (ca, hash) {
        (Some(found), None) => text::certificates(found.value)
            .map(Trust::Ca)
            .map_err(|problem| found.invalid(problem, PEM)),
        (None, Some(found)) => text::fingerprint(found.value)
            .map(Trust::CaSha256)
            .ok_or_else(|| found.invalid(format!("{:?} is no fingerprint", found.value), HASH)),
        (Some(found), Some(_)) => {
            Err(found.invalid("stands beside `marketplace.ca_sha256`", "one of the two"))
        }
        (None, None) => Err(missing("marketplace.ca", PEM)),
    }
}

fn read_token(section: &Section<'_, '_>) -> Result<Option<SecretString>, SiteError> {
    const WRITE: &str = "the token as `surplus token create` printed it";
    let Some(found) = section.string("token", WRITE)? else {
        return Ok(None);
    };
    let good = (1..=1024).contains(&found.value.len())
        && found.value.bytes().all(|b| b.is_ascii_graphic());
    // Never with the value: this message goes to consoles.
    if good {
        Ok(Some(found.value.into()))
    } else {
        Err(found.invalid("is not a token", WRITE))
    }
}

fn read_place(top: &Section<'_, '_>) -> Result<Place, SiteError> {
    const NAME: &str = "a name of 1 to 63 characters";
    let Some(section) = top.section("site", PLACE, ALL)? else {
        return Ok(Place::default());
    };
    let name = |key| match section.string(key, NAME)? {
        None => Ok(None),
        Some(found) if text::is_name(found.value) => Ok(Some(found.value.to_owned())),
        Some(found) => Err(found.invalid("is empty, too long or not printable", NAME)),
    };
    let mut labels = BTreeMap::new();
    if let Some(section) = section.open_section("labels")? {
        for key in section.keys() {
            if !text::is_label(key.value) {
                return Err(key.invalid(
                    "is no label",
                    "1 to 63 letters, digits and `-_./` before the `=`",
                ));
            }
            let value = section.string(key.value, NAME)?;
            let value = value.filter(|found| text::is_name(found.value));
            let value =
                value.ok_or_else(|| key.invalid("is empty, too long or not printable", NAME))?;
            labels.insert(key.value.to_owned(), value.value.to_owned());
        }
    }
    Ok(Place {
        name: name("name")?,
        rack: name("rack")?,
        labels,
    })
}

fn read_storage(top: &Section<'_, '_>) -> Result<Storage, SiteError> {
    const WRITE: &str = "\"none\" (guests' disks lie in memory, no disk is touched), \"blank\" \
                         (blank disks are used) or \"serials\" (of the disks under \
                         `storage.serials` those without anybody's data)";
    const SERIALS: &str = "the disks' serial numbers as `surplus hosts HOST` shows them, as \
                           [\"S3Z8NB0K\", \"S3Z8NB0L\"]";
    let Some(section) = top.section("storage", STORAGE, ALL)? else {
        return Ok(Storage::None);
    };
    let mut serials = Vec::new();
    for found in section.strings("serials", SERIALS)? {
        let serial = found.value.trim();
        if serial.is_empty() || serial.len() > 256 || !serial.bytes().all(is_in_serials) {
            return Err(found.invalid(format!("{:?} is no serial number", found.value), SERIALS));
        }
        if !serials.iter().any(|known| known == serial) {
            serials.push(serial.to_owned());
        }
    }
    let policy = match section.string("policy", WRITE)? {
        Some(policy) => policy,
        None if serials.is_empty() => return Ok(Storage::None),
        None => return Err(missing("storage.policy", "`policy = \"serials\"`")),
    };
    match policy.value {
        "serials" if serials.is_empty() => Err(missing("storage.serials", SERIALS)),
        "serials" => Ok(Storage::Serials(serials)),
        "none" | "blank" if !serials.is_empty() => Err(policy.invalid(
            format!("is {:?} beside `storage.serials`", policy.value),
            "`policy = \"serials\"`, or leave the serial numbers out",
        )),
        "blank" => Ok(Storage::Blank),
        "none" => Ok(Storage::None),
        other => Err(policy.invalid(format!("{other:?} is no known policy"), WRITE)),
    }
}

fn is_in_serials(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

fn read_guests(top: &Section<'_, '_>, host: &Network) -> Result<Guests, SiteError> {
    const SHARE: &str = "true or false, without quotes";
    const MBITS: &str = "million bits a second from 1 to 100000, as 250";
    const OPS: &str = "reads and writes a second for each vCPU from 1 to 1000000, as 1000";
    const MBYTES: &str = "million bytes a second for each vCPU from 1 to 10000, as 50";
    let mut guests = Guests::default();
    let Some(section) = top.section("guests", GUESTS, ALL)? else {
        return Ok(guests);
    };
    if let Some(share_cores) = section.boolean("share_cores", SHARE)? {
        guests.share_cores = share_cores;
    }
    let disk = &mut guests.disk_rate;
    for (rate, key, most, write) in [
        (&mut guests.mbits, "mbits", 100_000, MBITS),
        (&mut disk.ops, "disk_ops", 1_000_000, OPS),
        (&mut disk.mbytes, "disk_mbytes", 10_000, MBYTES),
    ] {
        if let Some(found) = section.integer(key, write)? {
            let read = u32::try_from(found.value).ok();
            let read = read.filter(|read| (1..=most).contains(read));
            *rate = read
                .ok_or_else(|| found.invalid(format!("{} is no such rate", found.value), write))?;
        }
    }
    guests.network = Network::read_guests(&section, host, ALL)?;
    guests.addresses = read_own_addresses(&section, &guests, host)?;
    Ok(guests)
}

fn read_own_addresses(
    section: &Section<'_, '_>,
    guests: &Guests,
    host: &Network,
) -> Result<u16, SiteError> {
    const ADDRESSES: &str = "how many guests may have an address of their own, up to 100, as 8";
    let Some(found) = section.integer("addresses", ADDRESSES)? else {
        return Ok(0);
    };
    let count = u16::try_from(found.value).ok();
    let count = count.filter(|count| *count <= floating::MOST);
    let count = count
        .ok_or_else(|| found.invalid(format!("{} is no such number", found.value), ADDRESSES))?;
    if count > 0 && guests.network.is_none() && host.uplink == Uplink::Any {
        return Err(SiteError::Missing {
            key: "network.interface".to_owned(),
            write: "the card on whose network guests' own addresses are, or give guests a \
                    network of their own under [guests.network]"
                .to_owned(),
        });
    }
    Ok(count)
}

fn read_reserve(top: &Section<'_, '_>) -> Result<Reserve, SiteError> {
    const MEMORY: &str = "a size with its unit, as \"512MiB\" or \"4GiB\"";
    const VCPUS: &str = "a number of processors, as 2";
    let Some(section) = top.section("reserve", RESERVE, ALL)? else {
        return Ok(Reserve::default());
    };
    let memory = match section.string("memory", MEMORY)? {
        None => None,
        Some(found) => {
            let no_size = || found.invalid(format!("{:?} is no size", found.value), MEMORY);
            Some(parse_size(found.value).ok_or_else(no_size)?)
        }
    };
    let vcpus = match section.integer("vcpus", VCPUS)? {
        None => None,
        Some(found) => Some(
            u32::try_from(found.value)
                .ok()
                .filter(|count| *count <= 65_536)
                .ok_or_else(|| {
                    found.invalid(format!("{} is no such number", found.value), VCPUS)
                })?,
        ),
    };
    Ok(Reserve { memory, vcpus })
}

fn read_time(top: &Section<'_, '_>) -> Result<Time, SiteError> {
    const WRITE: &str = "host names or addresses, as [\"ntp.example\"]";
    let Some(section) = top.section("time", &["servers"], ALL)? else {
        return Ok(Time::default());
    };
    let mut servers = Vec::new();
    for found in section.strings("servers", WRITE)? {
        if !text::is_host(found.value) {
            return Err(found.invalid(format!("{:?} is no host", found.value), WRITE));
        }
        servers.push(found.value.to_owned());
    }
    Ok(Time { servers })
}

fn read_testing(top: &Section<'_, '_>) -> Result<Testing, SiteError> {
    let Some(section) = top.section("testing", &["allow_emulation"], ALL)? else {
        return Ok(Testing::default());
    };
    let allow_emulation = section.boolean("allow_emulation", "true or false, without quotes")?;
    Ok(Testing {
        allow_emulation: allow_emulation.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests;
