use proptest::prelude::*;

use super::*;
use crate::pricing::default_book;
use crate::suite::{SMALL, capacity, host_record, inventory};

fn candidate(host: &HostRecord, sold: Vec<Resources>) -> Candidate<'_> {
    Candidate {
        host,
        unreachable: false,
        sold,
    }
}

fn wish(resources: Resources) -> Wish<'static> {
    Wish {
        resources,
        site: None,
    }
}

#[test]
fn the_fullest_host_that_fits_is_taken_whatever_the_order() {
    let hosts: Vec<_> = (1..=3).map(host_record).collect();
    let mut candidates: Vec<_> = hosts
        .iter()
        .enumerate()
        .map(|(n, host)| candidate(host, vec![SMALL; n % 2]))
        .collect();
    for _ in 0..3 {
        candidates.rotate_left(1);
        let chosen = choose(&candidates, wish(SMALL), &default_book()).unwrap();
        assert_eq!(chosen, hosts[1].id);
    }
}

#[test]
fn each_host_has_its_reason_and_the_cheapest_change_is_named() {
    let large = host_record(1);
    let mut withheld = host_record(2);
    withheld.capacity.as_mut().unwrap().withheld = Some("no disk was given".to_owned());
    let mut without_kvm = host_record(3);
    let reason = "the guest did not start".to_owned();
    without_kvm.inventory = Some(Inventory {
        kvm: KvmProbe::Fails { reason },
        ..inventory(3)
    });
    let silent = host_record(4);
    let elsewhere = HostRecord {
        site: "moon".to_owned(),
        ..host_record(5)
    };
    let new = HostRecord {
        capacity: None,
        ..host_record(6)
    };
    let hosts = [&large, &withheld, &without_kvm, &silent, &elsewhere, &new];
    let mut candidates = hosts.map(|host| candidate(host, Vec::new()));
    candidates[3].unreachable = true;
    let resources = Resources { vcpus: 6, ..SMALL };
    let wish = Wish {
        resources,
        site: Some("rack"),
    };
    let nowhere = choose(&candidates, wish, &default_book()).unwrap_err();
    for (reason, expected) in nowhere.reasons.iter().zip([
        "6 vCPUs wanted, 4 free",
        "no disk was given",
        "the guest did not start",
        "is silent",
        "another site",
        "has not said yet",
    ]) {
        assert!(reason.contains(expected), "{reason}");
    }
    let change = nowhere.cheapest.unwrap();
    assert!(
        change.contains("4 vCPUs, 1 GiB of memory and 1 GiB of disk"),
        "{change}"
    );
    assert!(change.contains(&large.id.to_string()), "{change}");
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_what_is_named_as_a_change_would(
        vcpus in 1_u32..8,
        gib in 1_u64..16,
        sold in prop::collection::vec((0_u32..3, 0_u64..3), 3),
    ) {
        let resources = Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 1 << 30, addresses: 0 };
        let hosts: Vec<_> = (1..=3).map(host_record).collect();
        let candidates: Vec<_> = hosts
            .iter()
            .zip(sold)
            .map(|(host, (vcpus, gib))| {
                let taken = Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0, addresses: 0 };
                candidate(host, vec![taken])
            })
            .collect();
        let fits = |of: &Candidate<'_>| {
            Room::new(&capacity(), of.sold.iter().copied()).why_not(resources).is_empty()
        };
        match choose(&candidates, wish(resources), &default_book()) {
            Ok(id) => {
                let chosen = candidates.iter().find(|c| c.host.id == id).unwrap();
                prop_assert!(fits(chosen));
            }
            Err(nowhere) => {
                prop_assert!(!candidates.iter().any(fits));
                prop_assert_eq!(nowhere.reasons.len(), 3);
                prop_assert!(nowhere.cheapest.is_some());
            }
        }
    }
}
