use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::stages::Recorded;

fn vlan(addresses: &[&str]) -> Uplink {
    Uplink {
        name: "eno1.40".to_owned(),
        up: true,
        link: true,
        carries: false,
        guests: true,
        addresses: parsed(addresses),
    }
}

fn card() -> Uplink {
    Uplink {
        name: "eno1".to_owned(),
        guests: false,
        ..vlan(&["192.0.2.7"])
    }
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    let parse = |address: &&str| address.parse().unwrap();
    addresses.iter().map(parse).collect()
}

fn wanted() -> Wanted {
    Wanted {
        interfaces: vec!["eno1.40".to_owned()],
        ..Wanted::default()
    }
}

fn said(uplinks: &[Uplink], leaving: &[&str]) -> String {
    problem(uplinks, &wanted(), &parsed(leaving)).unwrap_or_default()
}

#[test]
fn guests_get_out_by_an_address_of_their_own_network_alone() {
    let up = [card(), vlan(&["198.51.100.7"])];
    assert_eq!(said(&up, &["198.51.100.7"]), "");
    let both = [card(), vlan(&["198.51.100.7", "2001:db8::7"])];
    assert_eq!(said(&both, &["2001:db8::7"]), "");
    // By the host's, or by none.
    for leaving in [&["192.0.2.7"][..], &[]] {
        assert!(said(&up, leaving).contains("no router is known on eno1.40; "));
    }
}

#[test]
fn each_thing_that_can_be_missing_is_said_with_what_to_do() {
    let not_apart = Uplink {
        guests: false,
        ..vlan(&["198.51.100.7"])
    };
    let no_link = Uplink {
        link: false,
        ..vlan(&[])
    };
    for (uplinks, expect) in [
        (vec![card()], "there is no eno1.40; compare"),
        (vec![card(), no_link], "eno1.40 has no link; plug"),
        (vec![card(), vlan(&[])], "no DHCP server answers on eno1.40"),
        (
            vec![card(), not_apart],
            "not yet set eno1.40 apart for them; wait",
        ),
    ] {
        let said = said(&uplinks, &["198.51.100.7"]);
        assert!(said.starts_with("guests have no way out: "), "{said}");
        assert!(said.contains(expect), "{said}");
    }
    let fixed = Wanted {
        addresses: parsed(&["198.51.100.9"]),
        ..wanted()
    };
    let other = problem(&[card(), vlan(&["198.51.100.7"])], &fixed, &[]).unwrap();
    assert!(other.contains("could not be set on eno1.40"), "{other}");
}

/// Each look shows the next scene, the last for ever.
#[derive(Debug)]
struct Scenes(Arc<Mutex<VecDeque<Vec<Uplink>>>>);

impl Links for Scenes {
    fn look(&self) -> Vec<Uplink> {
        let mut scenes = self.0.lock().unwrap();
        match scenes.len() {
            1 => scenes[0].clone(),
            _ => scenes.pop_front().unwrap(),
        }
    }

    async fn changed(&mut self) {}

    fn by_dhcp(&self) -> bool {
        true
    }

    async fn ask_anew(&self, _: &str) {}
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_on_the_console_and_what_passes_is_not() {
    let consoles = Arc::new(Recorded::default());
    let (say, mut said) = watch::channel(None);
    let mut scenes = VecDeque::from(vec![vec![card(), vlan(&[])]; 3]);
    scenes.extend(vec![vec![card()]; 15]);
    let watch = Watch {
        links: Scenes(Arc::new(Mutex::new(scenes))),
        wanted: wanted(),
        consoles: consoles.clone(),
        say,
    };
    let heard = async {
        let mut heard = Vec::new();
        for _ in 0..2 {
            said.changed().await.unwrap();
            heard.push(said.borrow_and_update().clone().unwrap());
        }
        tokio::time::sleep(ADDRESS_PATIENCE).await;
        heard
    };
    let heard = tokio::select! {
        () = watch.run() => unreachable!(),
        heard = heard => heard,
    };
    assert!(heard[0].contains("no DHCP server answers"), "{heard:?}");
    assert!(heard[1].contains("there is no eno1.40"), "{heard:?}");
    let lines = consoles.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("there is no eno1.40"), "{lines:?}");
}
