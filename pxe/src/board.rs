//! Who boots, and how far each one is: told by what hosts ask for.
//!
//! Pure: events with their time go in, rows come out. A host is known by its
//! hardware address as soon as that is known, before by its IP address. What
//! always holds: a new boot of a host begins anew; the board has a bounded
//! number of rows, of which the oldest goes first.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::dhcp::{Client, Firmware};
use crate::hardware::Mac;

/// At most this many hosts are kept in mind.
const ROWS: usize = 4096;

/// How a host came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Bios,
    Uefi,
    Http,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::Http => "http",
        }
    }
}

/// How far a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It was told where to boot from.
    Asked,
    /// undionly.kpxe or snponly.efi; or surplus.efi, which is all in one.
    FirstStage,
    Script,
    Kernel,
    Initrd,
    /// Our initramfs asked for an address.
    Init,
    Root,
    /// It has the site file: the marketplace hears from it next.
    Site,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::FirstStage => "first stage",
            Self::Script => "script",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Init => "init",
            Self::Root => "root",
            Self::Site => "site",
        }
    }

    /// The stage of a host that fetches this file.
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            "undionly.kpxe" | "snponly.efi" | "surplus.efi" => Some(Self::FirstStage),
            "autoexec.ipxe" | "start.ipxe" | "boot.ipxe" => Some(Self::Script),
            "vmlinuz" => Some(Self::Kernel),
            "initrd" => Some(Self::Initrd),
            "root.img" => Some(Self::Root),
            _ => None,
        }
    }
}

/// One host.
#[derive(Clone, Debug)]
pub struct Row {
    pub mac: Option<Mac>,
    pub address: Option<IpAddr>,
    pub way: Option<Way>,
    pub stage: Stage,
    /// Bytes of the stage's file, and how many of them are on their way.
    pub position: u64,
    pub total: u64,
    /// Bytes in a second.
    pub rate: u64,
    /// When this boot was first heard of, and the row changed last.
    pub since: Timestamp,
    pub changed: Timestamp,
    mark: (Timestamp, u64),
}

impl Row {
    /// How much of the stage's file is fetched, in whole percent.
    pub fn percent(&self) -> Option<u64> {
        (self.total > 0).then(|| self.position.min(self.total) * 100 / self.total)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Mac(Mac),
    Address(IpAddr),
}

/// All hosts.
#[derive(Debug, Default)]
pub struct Board {
    rows: HashMap<Key, Row>,
    owners: HashMap<IpAddr, Mac>,
}

impl Board {
    /// A host was answered by DHCP. The row, where it changed.
    pub fn asked(&mut self, mac: Mac, client: Client, now: Timestamp) -> Option<&Row> {
        let way = match client {
            Client::Rom(Firmware::Bios) | Client::Ipxe(Firmware::Bios) => Some(Way::Bios),
            Client::Rom(Firmware::Uefi) | Client::Ipxe(Firmware::Uefi) => Some(Way::Uefi),
            Client::Http => Some(Way::Http),
            Client::Init => None,
            Client::Other(_) => return None,
        };
        let known = self.rows.get(&Key::Mac(mac)).map(|row| row.stage);
        let stage = match (client, known) {
            (Client::Init, _) => Stage::Init,
            // iPXE asks in the midst of a boot.
            (Client::Ipxe(_), Some(stage @ (Stage::FirstStage | Stage::Script))) => stage,
            _ => Stage::Asked,
        };
        let fresh = stage == Stage::Asked && known != Some(Stage::Asked);
        let row = self.row(Key::Mac(mac), now);
        if fresh {
            row.since = now;
        }
        let changed = row.stage != stage || row.way != way.or(row.way) || known.is_none();
        row.way = way.or(row.way);
        enter(row, stage, now);
        changed.then_some(&*row)
    }

    /// A host has, or is about to have, this address.
    pub fn learned(&mut self, mac: Mac, address: IpAddr) {
        if self.owners.len() >= ROWS && !self.owners.contains_key(&address) {
            self.owners.clear();
        }
        self.owners.insert(address, mac);
        if let Some(row) = self.rows.get_mut(&Key::Mac(mac)) {
            row.address = Some(address);
        }
    }

    /// Who has an address, as far as was heard.
    pub fn owner(&self, address: IpAddr) -> Option<Mac> {
        self.owners.get(&address).copied()
    }

    /// A host begins to fetch a file. The row, where it changed.
    pub fn begun(
        &mut self,
        address: IpAddr,
        stage: Stage,
        first: u64,
        total: u64,
        now: Timestamp,
    ) -> Option<&Row> {
        let row = self.host_at(address, now);
        let changed = row.stage != stage;
        enter(row, stage, now);
        row.total = total;
        row.position = first;
        row.mark = (now, first);
        changed.then_some(&*row)
    }

    /// It has come to `position`. The row at each tenth of the file.
    pub fn sent(
        &mut self,
        address: IpAddr,
        stage: Stage,
        position: u64,
        now: Timestamp,
    ) -> Option<&Row> {
        let row = self.host_at(address, now);
        if row.stage != stage {
            return None;
        }
        let before = row.percent().unwrap_or(0) / 10;
        row.position = position;
        row.changed = now;
        let (at, from) = row.mark;
        let took = now.duration_since(at);
        if took >= SignedDuration::from_secs(1) {
            let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            row.rate = position.saturating_sub(from).saturating_mul(1000) / milliseconds.max(1);
            row.mark = (now, position);
        }
        let whole = stage == Stage::Root && row.percent().unwrap_or(0) / 10 != before;
        whole.then_some(&*row)
    }

    /// It was given the site file.
    pub fn site(&mut self, address: IpAddr, now: Timestamp) -> &Row {
        let row = self.host_at(address, now);
        enter(row, Stage::Site, now);
        row
    }

    /// All rows, in the order in which their boots began.
    pub fn rows(&self) -> Vec<&Row> {
        let mut rows: Vec<_> = self.rows.values().collect();
        rows.sort_by_key(|row| (row.since, row.mac, row.address));
        rows
    }

    fn host_at(&mut self, address: IpAddr, now: Timestamp) -> &mut Row {
        let key = match self.owner(address) {
            Some(mac) => Key::Mac(mac),
            None => Key::Address(address),
        };
        if let Key::Mac(_) = key
            && let Some(before) = self.rows.remove(&Key::Address(address))
        {
            // It was known by its address alone until now.
            self.rows.entry(key).or_insert(before);
        }
        let row = self.row(key, now);
        row.address = Some(address);
        row
    }

    fn row(&mut self, key: Key, now: Timestamp) -> &mut Row {
        if self.rows.len() >= ROWS && !self.rows.contains_key(&key) {
            let oldest = self.rows.iter().min_by_key(|(_, row)| row.changed);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.rows.remove(&oldest);
            }
        }
        let row = self.rows.entry(key).or_insert_with(|| Row {
            mac: None,
            address: None,
            way: None,
            stage: Stage::Asked,
            position: 0,
            total: 0,
            rate: 0,
            since: now,
            changed: now,
            mark: (now, 0),
        });
        if let Key::Mac(mac) = key {
            row.mac = Some(mac);
        }
        row
    }
}

fn enter(row: &mut Row, stage: Stage, now: Timestamp) {
    row.changed = now;
    if row.stage != stage {
        row.stage = stage;
        row.position = 0;
        row.total = 0;
        row.rate = 0;
        row.mark = (now, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 50));

    fn mac() -> Mac {
        "52:54:00:12:34:56".parse().unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_boot_is_followed_from_the_rom_to_the_site_file() {
        let mut board = Board::default();
        let rom = Client::Rom(Firmware::Bios);
        assert!(board.asked(mac(), rom, at(0)).is_some());
        assert!(board.asked(mac(), rom, at(1)).is_none());
        board.learned(mac(), ADDRESS);
        let first = board.begun(ADDRESS, Stage::FirstStage, 0, 100, at(2));
        assert_eq!(first.unwrap().way, Some(Way::Bios));
        let ipxe = board.asked(mac(), Client::Ipxe(Firmware::Bios), at(3));
        assert!(ipxe.is_none(), "iPXE goes on with the same boot");
        for stage in [Stage::Script, Stage::Kernel, Stage::Initrd] {
            assert!(board.begun(ADDRESS, stage, 0, 1000, at(4)).is_some());
        }
        let init = board.asked(mac(), Client::Init, at(5)).unwrap();
        assert_eq!((init.stage, init.way), (Stage::Init, Some(Way::Bios)));
        assert!(board.begun(ADDRESS, Stage::Root, 0, 1000, at(6)).is_some());
        assert!(board.sent(ADDRESS, Stage::Root, 90, at(6)).is_none());
        let row = board.sent(ADDRESS, Stage::Root, 430, at(8)).unwrap();
        assert_eq!((row.percent(), row.rate), (Some(43), 215));
        assert_eq!(board.site(ADDRESS, at(9)).stage, Stage::Site);
        let [row] = board.rows()[..] else {
            panic!("one host, one row");
        };
        assert_eq!(
            (row.mac, row.address, row.since),
            (Some(mac()), Some(ADDRESS), at(0))
        );
    }

    #[test]
    fn a_host_that_boots_again_begins_anew() {
        let mut board = Board::default();
        let rom = Client::Rom(Firmware::Uefi);
        board.asked(mac(), rom, at(0));
        board.learned(mac(), ADDRESS);
        board.site(ADDRESS, at(60));
        let row = board.asked(mac(), rom, at(600)).unwrap();
        assert_eq!((row.stage, row.since), (Stage::Asked, at(600)));
    }

    #[test]
    fn a_resumed_root_goes_on_where_it_was() {
        let mut board = Board::default();
        board.begun(ADDRESS, Stage::Root, 600, 1000, at(1));
        assert_eq!(board.rows()[0].percent(), Some(60));
    }

    #[test]
    fn a_host_known_by_its_address_keeps_its_row_when_its_mac_is_heard() {
        let mut board = Board::default();
        board.begun(ADDRESS, Stage::Kernel, 0, 10, at(0));
        board.learned(mac(), ADDRESS);
        board.begun(ADDRESS, Stage::Initrd, 0, 10, at(1));
        let rows = board.rows();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].mac, rows[0].since), (Some(mac()), at(0)));
    }

    #[test]
    fn a_flood_of_hosts_does_not_fill_the_memory() {
        let mut board = Board::default();
        for number in 0..10_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            let mac = Mac([2, 0, a, b, c, d]);
            board.asked(mac, Client::Init, at(i64::from(number)));
            board.learned(mac, IpAddr::V4(number.into()));
        }
        assert_eq!(board.rows().len(), ROWS);
        assert!(board.owners.len() <= ROWS);
        assert_eq!(board.rows().last().unwrap().since, at(9_999));
    }
}
