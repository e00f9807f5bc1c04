use std::collections::VecDeque;

use super::*;
use crate::stages::Recorded;

fn card(name: &str, link: bool, addresses: &[&str]) -> Uplink {
    Uplink {
        name: name.to_owned(),
        up: true,
        link,
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

#[test]
fn each_thing_that_can_be_missing_is_told_apart() {
    assert_eq!(judge(&[]), Network::NoCard);
    let cards = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        judge(&[card("a", false, &[]), card("b", false, &[])]),
        Network::NoLink { cards }
    );
    let off = Uplink {
        up: false,
        ..card("a", false, &[])
    };
    assert_eq!(
        judge(&[off]),
        Network::NotUp {
            cards: vec!["a".to_owned()]
        }
    );
    let linked = vec!["b".to_owned()];
    assert_eq!(
        judge(&[card("a", false, &[]), card("b", true, &[])]),
        Network::NoAddress { linked }
    );
    // A static address on a card without a cable leads nowhere.
    assert!(matches!(
        judge(&[card("a", false, &["10.0.0.1"])]),
        Network::NoLink { .. }
    ));
    assert_eq!(
        judge(&[
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
    let (interface, _) = wait_until_up(&mut scenes, Configured::Dhcp, &recorded).await;
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
    wait_until_up(&mut scenes, Configured::Dhcp, &recorded).await;
    assert_eq!(recorded.lines().len(), 1);
}
