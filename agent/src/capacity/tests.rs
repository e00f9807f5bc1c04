use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

const DISK: DiskRate = DiskRate {
    operations: 1000,
    mbytes: 50,
};

fn host(threads: u32, memory_bytes: u64) -> Facts {
    Facts {
        threads,
        memory_bytes,
        huge_pages: HugePages::default(),
        volume_bytes: None,
        kvm: KvmProbe::Works { millis: 1 },
        guest_overhead: Resources {
            vcpus: 0,
            memory_bytes: 96 * MIB,
            disk_bytes: MIB,
            addresses: 0,
        },
        reserve: Reserve::default(),
        no_way_out: None,
        libvirt_hangs: false,
        shares_cores: false,
        confined: true,
        self_test: SelfTest::Passed,
        own_addresses: 3,
        guest_mbits: Some(100),
        guest_disk: DISK,
    }
}

#[test]
fn what_a_guest_may_do_with_a_disk_is_said_where_there_is_one() {
    assert_eq!(plan(&host(4, 8 * GIB)).guest_disk, None);
    let on_a_volume = Facts {
        volume_bytes: Some(100 * GIB),
        ..host(4, 8 * GIB)
    };
    assert_eq!(plan(&on_a_volume).guest_disk, Some(DISK));
}

#[test]
fn the_addresses_that_are_there_are_offered() {
    assert_eq!(plan(&host(4, 8 * GIB)).sellable.addresses, 3);
}

#[test]
fn a_host_whose_tenants_would_share_cores_against_its_owners_will_offers_nothing() {
    let capacity = plan(&Facts {
        shares_cores: true,
        ..host(4, 8 * GIB)
    });
    assert_eq!(capacity.sellable, Resources::default());
    assert!(capacity.withheld.unwrap().contains("share_cores = true"));
}

#[test]
fn a_host_whose_guests_have_no_way_out_offers_nothing_and_says_why() {
    let why = "guests have no way out: eno1.40 has no link; plug in a cable";
    let capacity = plan(&Facts {
        no_way_out: Some(why.to_owned()),
        kvm: KvmProbe::Pending,
        ..host(4, 8 * GIB)
    });
    assert_eq!(capacity.sellable, Resources::default());
    assert_eq!(capacity.withheld.as_deref(), Some(why));
}

#[test]
fn a_host_that_does_not_confine_qemu_offers_nothing_and_says_what_is_missing() {
    let capacity = plan(&Facts {
        confined: false,
        ..host(4, 8 * GIB)
    });
    assert_eq!(capacity.sellable, Resources::default());
    assert!(capacity.withheld.unwrap().contains("AppArmor"));
}

#[test]
fn a_host_that_does_not_hold_guests_to_their_rate_offers_nothing() {
    let unlimited = plan(&Facts {
        guest_mbits: None,
        ..host(4, 8 * GIB)
    });
    assert_eq!(unlimited.sellable, Resources::default());
    assert!(unlimited.withheld.unwrap().contains("packet filter"));
    assert_eq!(plan(&host(4, 8 * GIB)).guest_mbits, Some(100));
}

#[test]
fn a_host_whose_own_test_failed_or_is_not_done_offers_nothing_and_says_why() {
    for (self_test, said) in [
        (SelfTest::Pending, "not yet tried"),
        (
            SelfTest::Failed("neighbour: vlan".to_owned()),
            "neighbour: vlan",
        ),
    ] {
        let capacity = plan(&Facts {
            self_test,
            ..host(4, 8 * GIB)
        });
        assert_eq!(capacity.sellable, Resources::default());
        assert!(capacity.withheld.unwrap().contains(said));
    }
}

#[test]
fn a_small_test_host_has_something_useful_left() {
    for memory in [1440 * MIB, 1536 * MIB, 1950 * MIB] {
        let capacity = plan(&host(2, memory));
        assert_eq!(capacity.withheld, None);
        assert!(capacity.sellable.vcpus >= 1);
        let guest = Resources {
            vcpus: 1,
            memory_bytes: 256 * MIB,
            disk_bytes: 256_000_000,
            addresses: 0,
        };
        let left = capacity
            .sellable
            .checked_sub(guest.saturating_add(capacity.guest_overhead));
        assert!(left.is_some(), "{memory}: {:?}", capacity.sellable);
    }
}

#[test]
fn a_host_of_512_mib_offers_nothing_and_says_why() {
    let capacity = plan(&host(2, 450 * MIB));
    assert_eq!(capacity.sellable, Resources::default());
    assert!(capacity.withheld.unwrap().contains("450 MiB of memory"));
}

#[test]
fn a_large_server_keeps_one_thread_in_32_and_its_share_of_memory() {
    let capacity = plan(&host(128, 512 * GIB));
    assert_eq!(capacity.reserve.vcpus, 4);
    assert_eq!(capacity.sellable.vcpus, 124);
    assert_eq!(capacity.reserve.memory_bytes, 320 * MIB + 16 * GIB);
}

#[test]
fn with_disks_all_spare_memory_is_memory_for_guests() {
    let (without, with) = (
        plan(&host(4, 8 * GIB)),
        plan(&Facts {
            volume_bytes: Some(100 * GIB),
            ..host(4, 8 * GIB)
        }),
    );
    let spare = 8 * GIB - with.reserve.memory_bytes;
    assert_eq!(with.reserve, without.reserve);
    assert_eq!(with.sellable.memory_bytes, spare / MIB * MIB);
    assert!(with.sellable.disk_bytes > 48 * GIB);
    let tiny = plan(&Facts {
        volume_bytes: Some(MIB),
        ..host(4, 8 * GIB)
    });
    assert!(tiny.withheld.unwrap().contains("disks"));
}

/// A host of 8 GiB, of which so much is reserved.
fn with_huge_pages(reserved: u64, for_guests: u64) -> Capacity {
    plan(&Facts {
        huge_pages: HugePages {
            reserved,
            for_guests,
        },
        ..host(4, 8 * GIB)
    })
}

#[test]
fn guests_memory_is_the_huge_pages_and_their_disks_the_rest() {
    let capacity = with_huge_pages(4 * GIB, 4 * GIB);
    assert_eq!(capacity.withheld, None);
    assert_eq!(capacity.sellable.memory_bytes, 4 * GIB);
    let rest = 4 * GIB - capacity.reserve.memory_bytes - 3 * 96 * MIB;
    assert_eq!(capacity.sellable.disk_bytes, rest / 2 / MIB * MIB);
}

#[test]
fn huge_pages_that_guests_cannot_have_are_not_for_sale() {
    let capacity = with_huge_pages(4 * GIB, 0);
    let spare = 4 * GIB - capacity.reserve.memory_bytes;
    assert_eq!(capacity.sellable.memory_bytes, spare / 2 / MIB * MIB);
}

#[test]
fn where_qemu_itself_would_find_no_memory_beside_the_huge_pages_less_is_for_sale() {
    let all = with_huge_pages(8 * GIB, 8 * GIB);
    assert!(all.withheld.unwrap().contains("huge pages"));
    let most = with_huge_pages(7 * GIB, 7 * GIB);
    let spare = GIB - most.reserve.memory_bytes;
    assert_eq!(most.sellable.memory_bytes, spare / 2);
    let few = with_huge_pages(64 * MIB, 64 * MIB);
    assert!(few.withheld.unwrap().contains("64 MiB of huge pages"));
}

#[test]
fn nothing_is_offered_before_kvm_was_seen_to_work() {
    for kvm in [
        KvmProbe::Pending,
        KvmProbe::Fails {
            reason: "no SVM".to_owned(),
        },
    ] {
        let capacity = plan(&Facts {
            kvm,
            ..host(8, 16 * GIB)
        });
        assert_eq!(capacity.sellable, Resources::default());
        assert!(capacity.withheld.is_some());
    }
}

#[test]
fn the_owners_reserve_comes_on_top_of_the_hosts() {
    let plain = plan(&host(8, 9 * GIB));
    let reserve = Reserve {
        vcpus: 3,
        memory_bytes: GIB,
    };
    let capacity = plan(&Facts {
        reserve,
        ..host(8, 9 * GIB)
    });
    assert_eq!(capacity.sellable.vcpus, 4);
    assert_eq!(
        capacity.sellable.memory_bytes,
        plain.sellable.memory_bytes - GIB / 2
    );
    let all = Reserve {
        vcpus: 8,
        ..reserve
    };
    assert!(
        plan(&Facts {
            reserve: all,
            ..host(8, 9 * GIB)
        })
        .withheld
        .is_some()
    );
}

#[test]
fn the_generation_grows_with_each_change_and_only_then() {
    let mut offered = Offered::default();
    let works = plan(&host(2, 2 * GIB));
    let pending = plan(&Facts {
        kvm: KvmProbe::Pending,
        ..host(2, 2 * GIB)
    });
    assert_eq!(
        offered.update(pending).map(|capacity| capacity.generation),
        Some(1)
    );
    assert_eq!(
        offered
            .update(works.clone())
            .map(|capacity| capacity.generation),
        Some(2)
    );
    assert_eq!(offered.update(works), None);
    assert_eq!(offered.current().generation, 2);
}

proptest! {
    #[test]
    fn no_byte_of_memory_or_disk_is_promised_twice(
        threads in 0_u32..2048,
        memory_bytes in 0_u64..1 << 45,
        volume_bytes in proptest::option::of(0_u64..1 << 50),
        vcpus in 0_u32..4096,
        memory in 0_u64..1 << 46,
        overhead in 0_u64..1 << 30,
        huge in proptest::option::of(0_u64..1 << 44),
    ) {
        let huge = huge.unwrap_or(0);
        let facts = Facts {
            guest_overhead: Resources { vcpus: 0, memory_bytes: overhead, disk_bytes: overhead, addresses: 0 },
            reserve: Reserve { vcpus, memory_bytes: memory },
            volume_bytes,
            huge_pages: HugePages { reserved: huge, for_guests: huge },
            ..host(threads, memory_bytes)
        };
        let Capacity { sellable, reserve, withheld, .. } = plan(&facts);
        if withheld.is_none() {
            // What guests take of memory that is no huge page: with those, only what
            // QEMU costs, of guests that all have a vCPU and a part of what is sold.
            let guests = if huge == 0 {
                sellable.memory_bytes
            } else {
                prop_assert!(sellable.memory_bytes <= huge);
                sellable.memory_bytes.min(u64::from(sellable.vcpus) * overhead)
            };
            let memory = u128::from(reserve.memory_bytes) + u128::from(guests);
            let disk = 2 * u128::from(sellable.disk_bytes);
            let usual = u128::from(memory_bytes.saturating_sub(huge));
            match volume_bytes {
                None => prop_assert!(memory + disk <= usual),
                Some(volume) => {
                    prop_assert!(memory <= usual);
                    prop_assert!(disk + u128::from(volume) / 32 <= u128::from(volume));
                }
            }
            prop_assert!(sellable.vcpus >= 1);
            prop_assert!(u64::from(sellable.vcpus) + u64::from(reserve.vcpus) <= u64::from(threads));
            prop_assert!(sellable.memory_bytes >= overhead);
        } else {
            prop_assert_eq!(sellable, Resources::default());
        }
    }

    #[test]
    fn more_memory_never_means_less_for_sale(memory in GIB..1 << 42, more in 0_u64..1 << 40) {
        let (small, large) = (plan(&host(4, memory)), plan(&host(4, memory + more)));
        prop_assert!(large.sellable.memory_bytes >= small.sellable.memory_bytes);
        prop_assert!(large.sellable.disk_bytes >= small.sellable.disk_bytes);
    }
}
