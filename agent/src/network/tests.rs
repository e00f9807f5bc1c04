use std::collections::VecDeque;

use super::*;
use crate::stages::Recorded;

fn card(name: &str, link: bool, addresses: &[&str]) -> Uplink {
    Uplink {
        name: name.to_owned(),
        up: true,
        link,
        carries: false,
        guests: false,
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

fn seen(uplinks: &[Uplink]) -> Network {
    judge(uplinks, &Wanted::default())
}

#[test]
fn each_thing_that_can_be_missing_is_told_apart() {
    assert_eq!(seen(&[]), Network::NoCard);
    let cards = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        seen(&[card("a", false, &[]), card("b", false, &[])]),
        Network::NoLink { cards }
    );
    let off = Uplink {
        up: false,
        ..card("a", false, &[])
    };
    assert_eq!(
        seen(&[off]),
        Network::NotUp {
            cards: vec!["a".to_owned()]
        }
    );
    let linked = vec!["b".to_owned()];
    assert_eq!(
        seen(&[card("a", false, &[]), card("b", true, &[])]),
        Network::NoAddress { linked }
    );
    // A static address on a card without a cable leads nowhere.
    assert!(matches!(
        seen(&[card("a", false, &["10.0.0.1"])]),
        Network::NoLink { .. }
    ));
    assert_eq!(
        seen(&[
            card("a", true, &[]),
            card("b", true, &["2001:db8::1", "10.0.0.2"])
        ]),
        Network::Up {
            interface: "b".to_owned(),
            address: "10.0.0.2".parse().unwrap()
        }
    );
}

/// Each look shows the next scene, seconds after the last.
struct Scenes(VecDeque<(u64, Vec<Uplink>)>);

impl Links for Scenes {
    fn look(&self) -> Vec<Uplink> {
        self.0[0].1.clone()
    }

    async fn changed(&mut self) {
        let (seconds, _) = self.0.pop_front().unwrap();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn by_dhcp(&self) -> bool {
        true
    }

    async fn ask_anew(&self, _: &str) {}
}

#[tokio::test(start_paused = true)]
async fn each_missing_thing_gets_its_line_and_the_host_goes_on_waiting() {
    let mut scenes = Scenes(VecDeque::from([
        (3, vec![]),
        (3, vec![]),
        (3, vec![]),
        (3, vec![card("eno1", false, &[])]),
        (20, vec![card("eno1", true, &[])]),
        (20, vec![card("eno1", true, &[])]),
        (1, vec![card("eno1", true, &[])]),
        (0, vec![card("eno1", true, &["192.0.2.7"])]),
    ]));
    let recorded = Recorded::default();
    let (interface, _) = wait_until_up(&mut scenes, &Wanted::default(), &recorded).await;
    assert_eq!(interface, "eno1");
    let lines = recorded.lines();
    let expect = [
        "no network card that the kernel knows",
        "no network card has a link",
        "no DHCP server answers",
        "no DHCP server answers",
        "address=192.0.2.7",
    ];
    assert_eq!(lines.len(), expect.len(), "{lines:#?}");
    for (line, expect) in lines.iter().zip(expect) {
        assert!(line.contains(expect), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_up_soon_causes_no_complaint() {
    let mut scenes = Scenes(VecDeque::from([
        (1, vec![]),
        (1, vec![card("eno1", false, &[])]),
        (2, vec![card("eno1", true, &[])]),
        (0, vec![card("eno1", true, &["192.0.2.7"])]),
    ]));
    let recorded = Recorded::default();
    wait_until_up(&mut scenes, &Wanted::default(), &recorded).await;
    assert_eq!(recorded.lines().len(), 1);
}

#[test]
fn an_address_on_another_card_is_not_the_one_that_the_site_file_gives() {
    let wanted = Wanted {
        addresses: vec!["192.0.2.7".parse().unwrap()],
        interfaces: vec!["bond0.7".to_owned()],
        guests: None,
    };
    let stale = card("eno1", true, &["10.0.0.9"]);
    let other = card("bond0.7", true, &["2001:db8::1"]);
    let judged = judge(&[stale.clone(), other], &wanted);
    assert!(matches!(judged, Network::NoAddress { .. }), "{judged:?}");
    let wrong_place = card("eno1", true, &["192.0.2.7"]);
    assert_eq!(
        judge(&[wrong_place], &wanted),
        Network::Missing {
            wanted: vec!["bond0.7".to_owned()],
            cards: vec!["eno1".to_owned()]
        }
    );
    let right = card("bond0.7", true, &["2001:db8::1", "192.0.2.7"]);
    let Network::Up { interface, address } = judge(&[stale, right], &wanted) else {
        panic!("the network is up");
    };
    assert_eq!(
        (interface.as_str(), address),
        ("bond0.7", wanted.addresses[0])
    );
}

#[test]
fn what_lacks_an_address_is_the_vlan_and_not_the_card_under_it() {
    let under = Uplink {
        carries: true,
        ..card("eno1", true, &[])
    };
    let wanted = Wanted {
        interfaces: vec!["eno1.7".to_owned()],
        ..Wanted::default()
    };
    let linked = vec!["eno1.7".to_owned()];
    let uplinks = [under, card("eno1.7", true, &[]), card("eno2", true, &[])];
    let judged = judge(&uplinks, &wanted);
    assert_eq!(judged, Network::NoAddress { linked });
    let line = complaint(&judged, &wanted).line(0.0);
    assert!(line.contains("no DHCP server answers on eno1.7"), "{line}");
}

#[test]
fn a_network_with_ipv6_alone_is_up() {
    let both = [card("eno1", true, &[]), card("eno2", true, &["fd77::5"])];
    assert!(matches!(seen(&both), Network::Up { address, .. } if address.is_ipv6()));
}

/// Cards that stay as they are; counts who asks anew, and when.
struct Still {
    cards: Vec<Uplink>,
    by_dhcp: bool,
    started: Instant,
    asked: std::sync::Mutex<Vec<(String, u64)>>,
}

impl Links for Still {
    fn look(&self) -> Vec<Uplink> {
        self.cards.clone()
    }

    async fn changed(&mut self) {}

    fn by_dhcp(&self) -> bool {
        self.by_dhcp
    }

    async fn ask_anew(&self, interface: &str) {
        let asked = (interface.to_owned(), self.started.elapsed().as_secs());
        self.asked.lock().unwrap().push(asked);
    }
}

/// Who of `cards` asks anew within so many seconds, and when.
async fn asked_within(seconds: u64, cards: Vec<Uplink>, by_dhcp: bool) -> Vec<(String, u64)> {
    let still = Still {
        cards,
        by_dhcp,
        started: Instant::now(),
        asked: Default::default(),
    };
    let _ = tokio::time::timeout(Duration::from_secs(seconds), keep_asking(&still)).await;
    still.asked.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_linked_card_without_an_address_asks_anew_and_the_others_are_left_alone() {
    let member = Uplink {
        carries: true,
        ..card("eno4", true, &[])
    };
    let cards = vec![
        card("eno1", true, &[]),
        card("eno2", false, &[]),
        card("eno3", true, &["192.0.2.7"]),
        member,
    ];
    let expect = [10, 20, 30].map(|at| ("eno1".to_owned(), at));
    assert_eq!(asked_within(35, cards, true).await, expect);
}

#[tokio::test(start_paused = true)]
async fn a_card_with_ipv6_alone_asks_dhcp_anew_ever_more_seldom() {
    let cards = vec![
        card("eno1", true, &["fd77::5"]),
        card("eno2", true, &["fd77::6", "192.0.2.7"]),
    ];
    let expect = [10, 30, 70, 110].map(|at| ("eno1".to_owned(), at));
    assert_eq!(asked_within(115, cards.clone(), true).await, expect);
    assert_eq!(asked_within(115, cards, false).await, []);
}

#[test]
fn the_guests_own_card_is_none_of_the_hosts() {
    let wanted = Wanted {
        guests: Some("eno2".to_owned()),
        ..Wanted::default()
    };
    let theirs = card("eno2", true, &["198.51.100.7"]);
    let judged = judge(&[card("eno1", true, &[]), theirs.clone()], &wanted);
    let linked = vec!["eno1".to_owned()];
    assert_eq!(judged, Network::NoAddress { linked });
    let judged = judge(&[theirs, card("eno3", true, &["192.0.2.7"])], &wanted);
    assert!(matches!(judged, Network::Up { interface, .. } if interface == "eno3"));
}
