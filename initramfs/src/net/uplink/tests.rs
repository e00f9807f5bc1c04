use std::time::Duration;

use super::*;
use crate::net::link::Link;

pub(super) fn link(name: &str, linked: bool) -> Link {
    Link {
        name: name.into(),
        index: 2,
        mac: [2, 0, 0, 0, 0, 1],
        up: true,
        linked,
    }
}

fn lease() -> Lease {
    Lease {
        address: [10, 77, 0, 9].into(),
        prefix: 24,
        server: [10, 77, 0, 1].into(),
        routes: Vec::new(),
        dns: Vec::new(),
        mtu: None,
        time: Duration::from_secs(60),
    }
}

/// With an address of these protocols, and the root at `url`.
pub(super) fn found(four: bool, six: bool, url: &str) -> Found {
    let mut found = Found::default();
    if four {
        found.lease = Some(("eth0".into(), [2, 0, 0, 0, 0, 1], lease()));
    }
    if six {
        found.ipv6 = vec![("eth0".into(), "fd77::9".parse().unwrap())];
    }
    found.roots = Roots::new(vec![RootUrl::parse(url).unwrap()]);
    found
}

#[test]
fn an_address_is_tried_only_with_the_internet_protocol_it_needs() {
    let reaches = |found: &Found| found.reaches(found.roots.urls()[0].host());
    for (url, by_six) in [
        ("http://192.0.2.1/r", false),
        ("http://[fd77::1]/r", true),
        ("http://boot/r", true),
    ] {
        assert!(!reaches(&found(false, false, url)));
        assert_eq!(reaches(&found(false, true, url)), by_six, "{url}");
    }
}

#[test]
fn name_servers_of_both_protocols_are_asked() {
    let mut found = found(true, true, "http://boot/r");
    let six = "[fe80::1%2]:53".parse().unwrap();
    found.name_servers_v6 = vec![six];
    assert_eq!(found.name_servers(), [six]);
    if let Some((_, _, lease)) = &mut found.lease {
        lease.dns = vec![[10, 77, 0, 2].into()];
    }
    assert_eq!(found.name_servers(), ["10.77.0.2:53".parse().unwrap(), six]);
}
