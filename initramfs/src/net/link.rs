//! The host's network cards, as `/sys/class/net` shows them.
//!
//! Only real ones count: what other drivers make of them (bonds, bridges, a
//! virtual function below Hyper-V's card) is passed over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const CLASS: &str = "/sys/class/net";
const ETHERNET: &str = "1";
const UP: u32 = 1;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// One card's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    /// Whether it is in use; a port must be up before it can find a cable.
    pub(crate) up: bool,
    /// Whether there is something at the other end.
    pub(crate) linked: bool,
}

/// All ports, in the order of their names.
pub(crate) fn all() -> Vec<Link> {
    all_in(Path::new(CLASS))
}

fn all_in(class: &Path) -> Vec<Link> {
    let mut links: Vec<_> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| look(&entry.path()))
        .collect();
    links.sort_by(|one, other| one.name.cmp(&other.name));
    links
}

fn look(path: &Path) -> Option<Link> {
    let text = |name: &str| Some(fs::read_to_string(path.join(name)).ok()?.trim().to_owned());
    let real = path.join("device").exists() && !path.join("master").exists();
    if !real || text("type")? != ETHERNET {
        return None;
    }
    let flags = text("flags")?;
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
    // Drivers that do not know say "unknown"; then only asking shows it.
    let state = text("operstate")?;
    Some(Link {
        name: path.file_name()?.to_str()?.to_owned(),
        index: text("ifindex")?.parse().ok()?,
        mac: parse_mac(&text("address")?)?,
        up: flags & UP != 0,
        linked: flags & UP != 0 && (state == "up" || state == "unknown"),
    })
}

/// Switches a port on; some drivers take seconds for it.
pub(crate) fn bring_up(name: &str) -> io::Result<()> {
    let file = file(name, "flags");
    let text = fs::read_to_string(&file)?;
    let flags = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    fs::write(file, format!("{:#x}", flags | UP))
}

pub(crate) fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    fs::write(file(name, "mtu"), mtu.to_string())
}

fn file(name: &str, attribute: &str) -> PathBuf {
    Path::new(CLASS).join(name).join(attribute)
}

/// `52:54:00:01:02:03`.
pub(crate) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    let sound = parts.next().is_none() && mac != Mac::default();
    sound.then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(class: &Path, name: &str, files: &[(&str, &str)]) {
        let dir = class.join(name);
        fs::create_dir_all(&dir).unwrap();
        let usual = [
            ("type", "1"),
            ("flags", "0x1003"),
            ("operstate", "up"),
            ("ifindex", "3"),
            ("address", "52:54:00:01:02:03"),
        ];
        for (file, text) in usual.iter().chain(files) {
            fs::write(dir.join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn only_real_ethernet_cards_count() {
        let class = tempfile::tempdir().unwrap();
        card(class.path(), "eth1", &[("device", "")]);
        card(
            class.path(),
            "eth0",
            &[("device", ""), ("operstate", "down")],
        );
        card(class.path(), "lo", &[("type", "772")]);
        card(class.path(), "bond0", &[]);
        card(class.path(), "vf0", &[("device", ""), ("master", "")]);
        card(class.path(), "ib0", &[("device", ""), ("type", "32")]);
        card(
            class.path(),
            "odd",
            &[("device", ""), ("address", "00:00:00:00:00:00")],
        );
        let links = all_in(class.path());
        let names: Vec<_> = links
            .iter()
            .map(|link| (&*link.name, link.linked))
            .collect();
        assert_eq!(names, [("eth0", false), ("eth1", true)]);
        assert_eq!(mac_text(links[0].mac), "52:54:00:01:02:03");
    }

    #[test]
    fn a_port_that_is_off_has_no_link_whatever_its_state_says() {
        let class = tempfile::tempdir().unwrap();
        let off = [
            ("device", ""),
            ("flags", "0x1002"),
            ("operstate", "unknown"),
        ];
        card(class.path(), "eth0", &off);
        let links = all_in(class.path());
        assert!(!links[0].up && !links[0].linked);
    }
}
