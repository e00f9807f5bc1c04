use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;
use crate::{Addressing, BondMode, Uplink};

const CA: &str = include_str!("ca.pem");

/// A file with all that must be there, and `rest` behind it.
fn with(rest: &str) -> String {
    format!(
        "version = 1\n[marketplace]\nurl = \"https://hub:8443\"\n\
         ca_sha256 = \"sha256:{}\"\n{rest}",
        "0a".repeat(32)
    )
}

fn full() -> String {
    format!(
        r#"version = 1
[marketplace]
urls = ["https://a.example:8443/", "https://b.example"]
ca = """
Comment before the certificate.
{CA}"""
token = "s3cret-token"
proxy = "http://proxy.example:3128"
[site]
name = "Berlin 1"
rack = "r\"7"
labels = {{ "tier" = "gold", "a.b/c" = "x" }}
[network]
address = ["192.0.2.10/24", "2001:db8::10/64"]
gateway = ["192.0.2.1", "2001:db8::1"]
dns = "192.0.2.53"
vlan = 100
mtu = 9000
[network.bond]
interfaces = ["eno1", "52:54:00:12:34:56"]
mode = "802.3ad"
[storage]
policy = "none"
[guests]
share_cores = true
mbits = 250
addresses = 8
disk_ops = 500
disk_mbytes = 20
[guests.network]
vlan = 40
[reserve]
memory = "512MiB"
vcpus = 2
[time]
servers = ["ntp.example", "192.0.2.123"]
[testing]
allow_emulation = true
"#
    )
}

#[test]
fn the_smallest_file_gets_the_safe_defaults() {
    let site = Site::parse(&with("")).unwrap();
    assert_eq!(site.marketplace.urls, ["https://hub:8443"]);
    assert!(site.marketplace.token.is_none());
    assert_eq!(site.network, Network::default());
    assert_eq!(site.storage, Storage::None);
    assert_eq!(site.guests, Guests::default());
    assert!(!site.guests.share_cores);
    assert!(!site.testing.allow_emulation);
}

#[test]
fn a_guests_rates_are_numbers_that_networks_and_disks_can_have() {
    let guests = |key: &str, rate: &str| Site::parse(&with(&format!("[guests]\n{key} = {rate}")));
    let rate = |key| guests(key, "250").unwrap().guests;
    assert_eq!(rate("mbits").mbits, 250);
    assert_eq!(rate("disk_ops").disk_rate.ops, 250);
    assert_eq!(rate("disk_mbytes").disk_rate.mbytes, 250);
    for key in ["mbits", "disk_ops", "disk_mbytes"] {
        for wrong in ["0", "-1", "1000001", "99999999999"] {
            let error = guests(key, wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("guests.{key}")), "{error}");
        }
    }
}

#[test]
fn own_addresses_are_counted_and_their_card_is_named() {
    let addresses = |text: &str| Site::parse(&with(text)).map(|site| site.guests.addresses);
    let card = "[network]\ninterface = \"eno1\"\n[guests]\naddresses = ";
    assert_eq!(addresses(&format!("{card}100")).unwrap(), 100);
    assert_eq!(addresses("[guests]\naddresses = 0").unwrap(), 0);
    let way = "[guests]\naddresses = 8\n[guests.network]\ninterface = \"eno2\"";
    assert_eq!(addresses(way).unwrap(), 8);
    for wrong in ["101", "-1", "\"8\""] {
        let error = addresses(&format!("{card}{wrong}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("guests.addresses"), "{error}");
    }
    let error = addresses("[guests]\naddresses = 8")
        .unwrap_err()
        .to_string();
    assert!(error.contains("network.interface"), "{error}");
}

#[test]
fn disks_are_given_by_policy_and_by_serial_number() {
    let storage = |text: &str| {
        let site = Site::parse(&with(text)).unwrap();
        let again = Site::parse(&site.to_toml()).unwrap();
        assert_eq!(site.storage, again.storage);
        site.storage
    };
    assert_eq!(storage("[storage]\npolicy = \"none\""), Storage::None);
    assert_eq!(storage("[storage]\npolicy = \"blank\""), Storage::Blank);
    assert_eq!(
        storage("[storage]\npolicy = \"serials\"\nserials = [\"A 1\", \"B\", \"B\"]"),
        Storage::Serials(vec!["A 1".into(), "B".into()])
    );
}

#[test]
fn guests_have_a_network_of_their_own_as_a_vlan_beside_the_hosts_or_on_other_cards() {
    let guests = |text: &str| {
        let site = Site::parse(&with(text)).unwrap();
        let again = Site::parse(&site.to_toml()).unwrap();
        assert_eq!(again.guests, site.guests, "{}", site.to_toml());
        site.guests.network.unwrap()
    };
    let one = |name: &str| Uplink::One(name.parse().unwrap());
    let beside = guests("[network]\ninterface = \"eno1\"\n[guests.network]\nvlan = 40");
    assert_eq!((beside.uplink, beside.vlan), (one("eno1"), Some(40)));
    let two = "interfaces = [\"eno1\", \"eno2\"]";
    let bonded = format!("[network]\nvlan = 7\n[network.bond]\n{two}\n[guests.network]\nvlan = 40");
    assert!(matches!(guests(&bonded).uplink, Uplink::Bond(_)));
    let named = guests("[guests.network]\ninterface = \"eno1\"\nvlan = 40");
    assert_eq!((named.uplink, named.vlan), (one("eno1"), Some(40)));
    let own = guests(
        "[guests.network]\ninterface = \"eno2\"\naddress = \"198.51.100.7/24\"\n\
         gateway = \"198.51.100.1\"\ndns = [\"198.51.100.53\"]",
    );
    assert_eq!(
        (own.uplink, own.vlan, own.dns.len()),
        (one("eno2"), None, 1)
    );
    let own_bond = format!("[guests.network.bond]\n{two}");
    assert!(matches!(guests(&own_bond).uplink, Uplink::Bond(_)));
}

#[test]
fn a_full_file_is_read_and_survives_the_round_trip() {
    let site = Site::parse(&full()).unwrap();
    assert_eq!(
        site.marketplace.urls,
        ["https://a.example:8443", "https://b.example"]
    );
    assert_eq!(site.marketplace.trust, Trust::Ca(CA.to_owned()));
    assert_eq!(
        site.reserve,
        Reserve {
            memory: Some(512 << 20),
            vcpus: Some(2)
        }
    );
    assert_eq!(site.place.labels["a.b/c"], "x");
    let Uplink::Bond(bond) = &site.network.uplink else {
        panic!("{:?}", site.network)
    };
    assert_eq!((bond.interfaces.len(), bond.mode), (2, BondMode::Lacp));
    let Addressing::Static(fixed) = &site.network.addressing else {
        panic!()
    };
    assert_eq!((fixed.addresses.len(), fixed.gateways.len()), (2, 2));
    let text = site.to_toml();
    let again = Site::parse(&text).unwrap();
    assert_eq!(again.to_toml(), text);
    assert_eq!(
        again.marketplace.token.unwrap().expose_secret(),
        "s3cret-token"
    );
    assert_eq!((again.network, again.place), (site.network, site.place));
}

#[test]
fn the_token_shows_in_the_medium_s_text_alone() {
    let site = Site::parse(&full()).unwrap();
    assert!(site.to_toml().contains("s3cret-token"));
    for text in [
        format!("{site:?}"),
        format!("{site:#?}"),
        site.to_string(),
        site.to_masked_toml(),
    ] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(site.to_masked_toml().contains("token = \"(hidden)\""));
}

#[test]
fn no_error_quotes_the_token() {
    let line = "token = \"s3cret";
    for broken in [
        format!("{line}\n"),
        format!("{line} with blanks\"\n"),
        format!("{line}\\q\"\n"),
        format!("{line}\" oops\n"),
        "token = [\"s3cret\"\n".to_owned(),
        "token = s3cret\n".to_owned(),
        "token = { a = \"s3cret\" }\n".to_owned(),
        "proxy = \"http://user:s3cret@proxy\"\n".to_owned(),
    ] {
        let error = Site::parse(&with(&broken)).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("s3cret"), "{broken}: {text}");
        assert_eq!(error.line(), Some(5), "{broken}: {text}");
    }
}

/// What is wrong in each file, and the message in full.
fn mistakes(each: &[(&str, &str)]) {
    for (rest, message) in each {
        let error = Site::parse(&with(rest)).unwrap_err().to_string();
        assert_eq!(error, *message, "{rest}");
    }
}

#[test]
fn each_mistake_names_key_line_and_remedy() {
    mistakes(&[
        (
            "tokn = \"x\"",
            "line 5: unknown key `marketplace.tokn`; did you mean `marketplace.token`?",
        ),
        ("[sit]", "line 5: unknown key `sit`; did you mean `site`?"),
        (
            "[site]\nvlan = 3",
            "line 6: unknown key `site.vlan`; did you mean `network.vlan`?",
        ),
        (
            "[reserve]\nfrobnicate = 3",
            "line 6: unknown key `reserve.frobnicate`; valid here: reserve.memory, reserve.vcpus",
        ),
        (
            "token = 5",
            "line 5: `marketplace.token` cannot be a number; \
             write the token as `surplus token create` printed it",
        ),
        (
            "[reserve]\nmemory = \"512MB\"",
            "line 6: `reserve.memory` \"512MB\" is no size; \
             write a size with its unit, as \"512MiB\" or \"4GiB\"",
        ),
        (
            "[storage]\npolicy = \"empty\"",
            "line 6: `storage.policy` \"empty\" is no known policy; write \"none\" (guests' \
             disks lie in memory, no disk is touched), \"blank\" (blank disks are used) or \
             \"serials\" (of the disks under `storage.serials` those without anybody's data)",
        ),
        (
            "[storage]\npolicy = \"serials\"",
            "`storage.serials` is missing; write the disks' serial numbers as \
             `surplus hosts HOST` shows them, as [\"S3Z8NB0K\", \"S3Z8NB0L\"]",
        ),
        (
            "[storage]\nserials = [\"A1\"]",
            "`storage.policy` is missing; write `policy = \"serials\"`",
        ),
        (
            "[storage]\npolicy = \"blank\"\nserials = [\"A1\"]",
            "line 6: `storage.policy` is \"blank\" beside `storage.serials`; \
             write `policy = \"serials\"`, or leave the serial numbers out",
        ),
        (
            "[storage]\npolicy = \"serials\"\nserials = [\"A1\", \" \"]",
            "line 7: `storage.serials` \" \" is no serial number; write the disks' serial \
             numbers as `surplus hosts HOST` shows them, as [\"S3Z8NB0K\", \"S3Z8NB0L\"]",
        ),
        (
            "[network]\nvlan = 5000",
            "line 6: `network.vlan` is 5000, outside 1 to 4094; write a VLAN number, as 100",
        ),
        (
            "[network]\naddress = \"192.0.2.10/24\"\ngateway = \"198.51.100.1\"",
            "line 7: `network.gateway` 198.51.100.1 is in no network of `network.address`; \
             write a router inside the network of `network.address`, as \"192.0.2.1\"",
        ),
        (
            "[network]\naddress = [\n\"192.0.2.10/24\",\n\"192.0.2.11\"]",
            "line 8: `network.address` \"192.0.2.11\" is no address with prefix; \
             write an address with its prefix length, as \"192.0.2.10/24\"",
        ),
        (
            "[network.bond]\nmode = \"802.3ad\"",
            "`network.bond.interfaces` is missing; write the bond's cards, as [\"eno1\", \"eno2\"]",
        ),
        (
            "[testing]\nallow_emulation = \"yes\"",
            "line 6: `testing.allow_emulation` cannot be a string; \
             write true or false, without quotes",
        ),
        (
            "urls = [\"https://b\"]",
            "line 3: `marketplace.url` stands beside `marketplace.urls`; write one of the two",
        ),
    ]);
}

#[test]
fn each_mistake_about_the_guests_network_names_key_line_and_remedy() {
    mistakes(&[
        (
            "[guests.network]\nvlan = 40",
            "`guests.network.interface` is missing; write a card's name or hardware address, \
             as \"eno1\" or \"52:54:00:12:34:56\"",
        ),
        (
            "[network]\ninterface = \"eno1\"\n[guests.network]\ndns = \"192.0.2.53\"",
            "`guests.network.vlan` is missing; write the guests' VLAN, as 40, or name a card \
             of their own by `interface`",
        ),
        (
            "[network]\ninterface = \"eno1\"\nvlan = 40\n[guests.network]\nvlan = 40",
            "line 9: `guests.network.vlan` is the host's own; write the guests' VLAN, as 40, \
             or name a card of their own by `interface`",
        ),
        (
            "[network]\nvlan = 7\n[guests.network]\nvlan = 7\ninterface = \"eno1\"",
            "line 8: `guests.network.vlan` is the host's own; write the guests' VLAN, as 40, \
             or name a card of their own by `interface`",
        ),
        (
            "[network.bond]\ninterfaces = [\"eno1\", \"eno2\"]\n[guests.network]\ninterface = \"eno2\"",
            "line 8: `guests.network.interface` names eno2, which is the host's own; \
             write another card, or leave it out and give a VLAN",
        ),
        (
            "[network]\ninterface = \"eno1\"\n[guests.network]\nvlan = 40\nmtu = 9000",
            "line 9: `guests.network.mtu` is more than the host's own network carries; \
             write `network.mtu` at most, which is 1500 where it is not given",
        ),
        (
            "[guests.network]\ninterface = \"eno2\"\naddress = \"198.51.100.7/24\"\ngateway = \"192.0.2.1\"",
            "line 8: `guests.network.gateway` 192.0.2.1 is in no network of \
             `guests.network.address`; write a router inside the network of \
             `guests.network.address`, as \"192.0.2.1\"",
        ),
        (
            "[guests.network]\nvlna = 40",
            "line 6: unknown key `guests.network.vlna`; did you mean `guests.network.vlan`?",
        ),
    ]);
}

#[test]
fn what_must_be_there_is_asked_for() {
    for (text, start) in [
        ("", "`version` is missing; write `version = 1`"),
        ("version = 2", "line 1: `version` 2 is not known"),
        ("version = 1", "`marketplace.url` is missing"),
        (
            "version = 1\n[marketplace]\nca = \"x\"",
            "`marketplace.url` is missing",
        ),
        (
            "version = 1\n[marketplace]\nurl = \"https://hub\"",
            "`marketplace.ca` is missing",
        ),
        (
            "version = 1\n[marketplace]\nurl = \"http://hub\"",
            "line 3: `marketplace.url` \"http://hub\" does not start",
        ),
        (
            "version = 1\n[marketplace]\nurl = \"https://hub\"\nca = \"-----BEGIN\"",
            "line 4: `marketplace.ca` is not a certificate in PEM form",
        ),
        ("version = ", "line 1: not TOML: "),
    ] {
        let error = Site::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{text}: {error}");
    }
    assert_eq!(
        Site::parse_bytes(&[0xff, 0xfe]).unwrap_err(),
        SiteError::NotText
    );
}

#[test]
fn a_private_key_in_place_of_the_certificate_is_refused() {
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    let text = format!("version = 1\n[marketplace]\nurl = \"https://hub\"\nca = \"\"\"{key}\"\"\"");
    let error = Site::parse(&text).unwrap_err().to_string();
    assert!(
        error.contains("private key") && !error.contains("AAAA"),
        "{error}"
    );
}

#[test]
fn an_empty_certificate_is_refused() {
    for nothing in ["", "\\n", "\\r\\n\\n", " "] {
        let text = format!("version = 1\n[marketplace]\nurl = \"https://hub\"\nca = \"{nothing}\"");
        let error = Site::parse(&text).unwrap_err().to_string();
        assert!(error.contains("holds no certificate"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Site::parse(&text);
        let _ = Site::parse(&with(&text));
    }

    #[test]
    fn a_damaged_file_is_an_error_or_another_file_and_never_a_panic(
        at in 0..1000_usize, byte in any::<u8>(), cut in 0..2000_usize,
    ) {
        let mut bytes = full().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Ok(site) = Site::parse_bytes(&bytes) {
            let text = site.to_toml();
            prop_assert_eq!(Site::parse(&text).unwrap().to_toml(), text);
        }
    }

    #[test]
    fn names_survive_the_round_trip(name in "[\\PC\"\\\\]{1,63}", rack in "\\PC{1,63}") {
        let mut site = Site::parse(&with("")).unwrap();
        prop_assume!(text::is_name(&name) && text::is_name(&rack));
        site.place.name = Some(name);
        site.place.rack = Some(rack);
        prop_assert_eq!(Site::parse(&site.to_toml()).unwrap().place, site.place);
    }
}
