//! What is said while the host waits: what is missing, and what to do about it.

use std::net::IpAddr;

use super::Found;
use super::switches::Switches;
use crate::failure::Failure;
use crate::net::link::{self, Link};
use crate::net::url::{Host, RootUrl};

/// What the host waits for; `None` if there is an address of the root to try.
pub(super) fn missing(found: &Found, links: &[Link], switches: &Switches) -> Option<Failure> {
    if found.lease.is_none() && found.ipv6.is_empty() {
        return Some(no_address(links, switches));
    }
    if found.roots.urls().is_empty() {
        return Some(no_root());
    }
    let reached = found
        .roots
        .urls()
        .iter()
        .any(|url| found.reaches(url.host()));
    (!reached).then(|| no_protocol(found.roots.urls(), &asked_on(links)))
}

fn no_address(links: &[Link], switches: &Switches) -> Failure {
    let (asked, dead) = (asked_on(links), dead(links, switches));
    let next = "check the DHCP server of this network, or for IPv6 the router's advertisements; \
                the host goes on asking";
    let (error, next) = match (asked.is_empty(), dead.is_empty()) {
        (true, true) => (
            "no network card yet".to_owned(),
            "check that the card is one that the image has a driver for; the host goes on looking",
        ),
        (true, false) => (
            format!("no cable, or nothing at its other end: {dead}"),
            "connect the host's network cable; the host goes on looking",
        ),
        (false, true) => (format!("no address yet; asked on {asked}"), next),
        (false, false) => (
            format!("no address yet; asked on {asked}; no cable: {dead}"),
            next,
        ),
    };
    Failure::new("network", error, next)
}

fn asked_on(links: &[Link]) -> String {
    let names: Vec<_> = links.iter().filter(|link| link.linked).map(name).collect();
    names.join(", ")
}

/// Ports without a link, and why where it is known.
fn dead(links: &[Link], switches: &Switches) -> String {
    let names: Vec<_> = links
        .iter()
        .filter(|link| !link.linked)
        .map(|link| match switches.error(&link.name) {
            Some(error) => format!("{}, switching it on: {error}", name(link)),
            None => name(link),
        })
        .collect();
    names.join(", ")
}

fn name(link: &Link) -> String {
    format!("{} ({})", link.name, link::mac_text(link.mac))
}

fn no_root() -> Failure {
    Failure::new(
        "network",
        "neither the kernel command line nor a DHCP server says where the root is",
        "run `surplus-netboot serve` on this network, or put surplus.root=http://SERVER/root.img \
         on the kernel command line; the host goes on asking",
    )
}

/// There is an address, but of the internet protocol that the root's servers
/// do not speak.
fn no_protocol(urls: &[RootUrl], asked: &str) -> Failure {
    let four = |url: &RootUrl| matches!(url.host(), Host::Address(IpAddr::V4(_)));
    let (protocol, next) = if urls.iter().any(four) {
        (
            "IPv4",
            "check the DHCP server of this network, or name the root by an address of IPv6; the \
             host goes on asking",
        )
    } else {
        (
            "IPv6",
            "let a router of this network advertise a prefix, or a DHCPv6 server give addresses \
             of one; or name the root by an address of IPv4; the host goes on asking",
        )
    };
    let urls: Vec<_> = urls.iter().map(RootUrl::text).collect();
    Failure::new(
        "network",
        format!(
            "no {protocol} address yet, which {} needs; asked on {asked}",
            urls.join(" ")
        ),
        next,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::net::uplink::tests::{found, link};

    #[test]
    fn the_word_about_waiting_names_ports_and_what_to_do() {
        let none = no_address(&[], &Switches::default());
        assert!(none.error.contains("no network card"));
        let dead = no_address(&[link("eth0", false)], &Switches::default());
        assert!(dead.error.contains("eth0") && dead.next.contains("cable"));
        let links = [link("eth0", false), link("eth1", true)];
        let mut switches = Switches::default();
        switches.tried("eth0".into(), Some("no firmware".into()), Instant::now());
        let asked = no_address(&links, &switches);
        assert!(
            asked
                .error
                .contains("asked on eth1 (02:00:00:00:00:01); no cable: eth0")
        );
        assert!(
            asked.error.contains("switching it on: no firmware"),
            "{asked:?}"
        );
        assert!(asked.next.contains("router's advertisements"));
        for failure in [none, dead, asked, no_root()] {
            assert!(failure.next.contains("the host goes on"), "{failure:?}");
        }
    }

    #[test]
    fn an_address_of_the_wrong_protocol_is_not_waited_with_in_silence() {
        let links = [link("eth0", true)];
        let missing = |found: &Found| missing(found, &links, &Switches::default());
        let four = missing(&found(false, true, "http://192.0.2.1/r")).unwrap();
        assert!(four.error.contains("no IPv4 address yet"), "{four:?}");
        assert!(
            four.error
                .contains("http://192.0.2.1/r needs; asked on eth0")
        );
        let six = missing(&found(true, false, "http://[fd77::1]/r")).unwrap();
        assert!(six.error.contains("no IPv6 address yet"), "{six:?}");
        for failure in [four, six] {
            assert!(failure.next.contains("the host goes on"), "{failure:?}");
        }
        for url in ["http://192.0.2.1/r", "http://[fd77::1]/r", "http://boot/r"] {
            assert_eq!(missing(&found(true, true, url)), None);
        }
    }
}
