use std::collections::BTreeSet;

use surplus_site::Site;

use super::written::ours;
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
    plan(&site(network), &self::cards(cards))
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
        "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n[Link]\nGroup=121\n[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.53\nNTP=ntp.example\n"
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
        content(&files, "05-surplus-bond-1.network").contains("Name=eno2\n[Network]\nBond=bond0")
    );
    assert!(content(&files, "10-surplus-0.network").contains("VLAN=bond0.100"));
    assert!(
        content(&files, "11-surplus-vlan-0.network")
            .contains("Name=bond0.100\n[Link]\nMTUBytes=9000\nGroup=121\n[Network]\nDHCP=yes")
    );
}

#[test]
fn a_vlan_on_any_card_is_tried_on_each() {
    let files = planned("[network]\nvlan = 7\n", &["eno1", "enp193s0f0np0"]);
    assert!(content(&files, "11-surplus-vlan-0.netdev").contains("Name=eno1.7\n"));
    assert!(content(&files, "11-surplus-vlan-1.netdev").contains("Name=vlan7-1\n"));
}

#[test]
fn a_guests_vlan_stands_beside_the_hosts_network_and_shares_nothing_with_it() {
    let files = planned(
        "[network]\ninterface = \"eno1\"\n[guests.network]\nvlan = 40\n",
        &["eno1", "eno2"],
    );
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "07-surplus-guests.netdev",
            "07-surplus-guests.network",
            "80-uplink.network.d/50-surplus-guests.conf",
            "10-surplus0.network.d/50-surplus-guests.conf",
            "10-surplus-0.network",
        ]
    );
    let host = content(&files, "10-surplus-0.network");
    let begins =
        "[Match]\nName=eno1\n[Link]\nGroup=0\n[Network]\nVLAN=eno1.40\n[Network]\nDHCP=yes\n";
    assert!(host.starts_with(begins), "{host}");
    assert!(!host.contains("Table"), "{host}");
    insta::assert_snapshot!(content(&files, "07-surplus-guests.network"));
    insta::assert_snapshot!(content(
        &files,
        "10-surplus0.network.d/50-surplus-guests.conf"
    ));
    let others = content(&files, "80-uplink.network.d/50-surplus-guests.conf");
    assert_eq!(others, "[Link]\nGroup=0\n");
}

#[test]
fn own_addresses_stand_on_what_guests_leave_by_whatever_that_is() {
    let guests = "[guests]\naddresses = 2\n";
    for (site, parent) in [
        ("[network]\ninterface = \"eno1\"\n", "10-surplus-0"),
        (
            "[network]\ninterface = \"eno1\"\nvlan = 7\n",
            "11-surplus-vlan-0",
        ),
        (
            "[guests.network]\ninterface = \"eno1\"\nvlan = 40\n",
            "07-surplus-guests",
        ),
    ] {
        let files = planned(&format!("{guests}{site}"), &["eno1", "eno2"]);
        let names: BTreeSet<_> = files.iter().map(|file| file.name.as_str()).collect();
        assert!(names.contains(&*format!("{parent}.network")), "{names:?}");
        let stands = content(
            &files,
            &format!("{parent}.network.d/50-surplus-addresses.conf"),
        );
        assert_eq!(stands, "[Network]\nMACVLAN=sf1\nMACVLAN=sf2\n");
        let rules = content(&files, "10-surplus0.network.d/51-surplus-addresses.conf");
        let with_near = rules.contains("To=10.121.0.0/16");
        assert_eq!(with_near, !site.contains("guests"), "{rules}");
        assert!(rules.contains("FirewallMark=633\nTable=1002\n"), "{rules}");
    }
}

#[test]
fn an_own_address_is_asked_for_as_by_a_machine_of_its_own() {
    let files = planned(
        "[network]\ninterface = \"eno1\"\n[guests]\naddresses = 1\n",
        &["eno1"],
    );
    insta::assert_snapshot!(content(&files, "08-surplus-address-1.netdev"));
    insta::assert_snapshot!(content(&files, "08-surplus-address-1.network"));
    // Whose card is not there has no name to ask by.
    let none = planned(
        "[network]\ninterface = \"eno1\"\n[guests]\naddresses = 1\n",
        &[],
    );
    assert!(none.iter().all(|file| !file.name.contains("address")));
}

#[test]
fn fixed_addresses_of_the_guests_network_route_nothing_of_the_hosts() {
    let files = planned(
        "[guests.network]\ninterface = \"52:54:00:00:00:02\"\naddress = [\"198.51.100.7/24\", \"2001:db8::7/64\"]\n\
         gateway = [\"198.51.100.1\", \"fe80::1\"]\ndns = [\"198.51.100.53\"]\n",
        &["eno1", "eno2"],
    );
    insta::assert_snapshot!(content(&files, "07-surplus-guests.network"));
    let served = content(&files, "10-surplus0.network.d/50-surplus-guests.conf");
    assert!(served.contains("UplinkInterface=eno2\n"), "{served}");
    let host = content(&files, "10-surplus-0.network");
    assert!(
        host.contains("Kind=!*\n[Link]\nGroup=0\n[Network]\nDHCP"),
        "{host}"
    );
}

#[test]
fn a_guests_vlan_is_laid_on_a_card_whoever_else_is_there() {
    let of = |site: &str, name: &str| content(&planned(site, &["eno1", "eno2"]), name).to_owned();
    let vlan = |interface| format!("[guests.network]\ninterface = \"{interface}\"\nvlan = 40\n");
    // The host's own network may be on that card, too, …
    let any = of(&vlan("eno2"), "10-surplus-0.network");
    assert!(
        any.contains("Name=eno2\n") && any.contains("VLAN=eno2.40\n"),
        "{any}"
    );
    assert!(any.contains("DHCP=yes"), "{any}");
    // … by a VLAN, …
    let tagged = format!("[network]\nvlan = 7\n{}", vlan("eno2"));
    let both = of(&tagged, "10-surplus-1.network");
    assert!(both.contains("VLAN=eno2.7\nVLAN=eno2.40\n"), "{both}");
    // … or is on another.
    let other = format!("[network]\ninterface = \"eno1\"\n{}", vlan("eno2"));
    let alone = of(&other, "06-surplus-guests.network");
    assert!(
        alone.contains("VLAN=eno2.40\n[Network]\nLinkLocalAddressing=no"),
        "{alone}"
    );
    assert!(!of(&other, "10-surplus-0.network").contains("VLAN"));
    // By its hardware address, and named so by the host.
    let by_mac = format!(
        "[network]\ninterface = \"eno2\"\n{}",
        vlan("52:54:00:00:00:02")
    );
    assert!(of(&by_mac, "10-surplus-0.network").contains("VLAN=eno2.40\n"));
}

#[test]
fn a_card_or_bond_of_the_guests_own_carries_nothing_of_the_hosts() {
    let card = "[network]\nvlan = 7\n[guests.network]\ninterface = \"eno2\"\n";
    let files = planned(card, &["eno1", "eno2"]);
    let theirs = content(&files, "07-surplus-guests.network");
    assert!(
        theirs.contains("Name=eno2\n[Link]\nGroup=122\n"),
        "{theirs}"
    );
    assert!(files.iter().all(|file| !file.content.contains("eno2.7")));
    let bond =
        "[guests.network]\nvlan = 40\n[guests.network.bond]\ninterfaces = [\"eno1\", \"eno2\"]\n";
    let files = planned(bond, &["eno1", "eno2", "eno3"]);
    assert!(content(&files, "05-surplus-guests-bond.netdev").contains("Name=bond1\n"));
    assert!(content(&files, "05-surplus-guests-bond-1.network").contains("Bond=bond1"));
    assert!(content(&files, "06-surplus-guests.network").contains("VLAN=bond1.40"));
}

#[test]
fn the_guests_network_is_waited_for_and_is_not_the_hosts() {
    let cards = cards(&["eno1", "eno2"]);
    let site = site("[guests.network]\ninterface = \"52:54:00:00:00:02\"\n");
    assert_eq!(wanted(&site, &cards).guests.as_deref(), Some("eno2"));
    assert_eq!(guests_wanted(&site, &cards).unwrap().interfaces, ["eno2"]);
    let absent = guests_wanted(&site, &[]).unwrap().interfaces;
    assert_eq!(absent, ["52:54:00:00:00:02"]);
    assert_eq!(guests_wanted(&self::site(""), &cards), None);
}

#[test]
fn what_is_waited_for_is_what_was_planned() {
    let wanted = |network: &str| wanted(&site(network), &cards(&["eno1", "eno2"]));
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
    let image_file = include_str!("../../../../systemd/usr/lib/systemd/network/80-uplink.network");
    let files = planned("[network]\ninterface = \"eno1\"\n", &[]);
    let ours = content(&files, "10-surplus-0.network");
    let asked = |text: &str| {
        let from = text.find("DHCP=yes").unwrap();
        let lines = text[from..].lines();
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (ours, image) = (asked(ours), asked(image_file));
    let more: Vec<_> = image.difference(&ours).collect();
    assert_eq!(more, ["LLDP=yes"]);
    for interface in [image_file, content(&files, "10-surplus-0.network")] {
        assert!(interface.contains(&format!("Group={}\n", way::SHARED)));
    }
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
    let guests = "[network]\ninterface = \"eno1\"\n[guests.network]\nvlan = 40\naddress = \"198.51.100.7/24\"\n\
                  [guests]\naddresses = 1\n";
    let guests = planned(guests, &["eno1"]);
    write(&tree.root(), &guests).unwrap();
    assert!(!write(&tree.root(), &guests).unwrap());
    assert!(
        by_dhcp(&tree.root()),
        "it is the guests' address that is fixed"
    );
    assert!(write(&tree.root(), &[]).unwrap());
    assert_eq!(ours(&tree.root()), [""; 0]);
    assert!(!write(&tree.root(), &[]).unwrap());
}
