//! Values for the recorded tables.

use jiff::tz::TimeZone;
use surplus_protocol::api::{
    Admission, AdmissionRule, Bill, BillLine, FormerPlacement, Host, HostState, Image, Lease,
    Offer, PriceBook, Quote, Selectors, Token,
};
use surplus_protocol::inventory::{
    Capacity, Cpu, Disk, DiskRate, HardwareIdentity, Inventory, KvmProbe, Nic, NumaNode, Resources,
    SelfCheck,
};
use surplus_protocol::lease::{
    EndReason, Forward, GuestPhase, GuestPort, ImageFormat, LeaseState, OnLostLink, Transport,
    UsageRecord,
};
use surplus_protocol::{Digest, Money};

use super::View;

const GIB: u64 = 1 << 30;

pub(crate) fn view() -> View {
    View {
        zone: TimeZone::UTC,
        now: "2026-05-01T12:00:00Z".parse().unwrap(),
        fit: false,
    }
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(kind: u8, number: u8) -> T {
    format!("{kind}{number}93a2b4-1122-7000-8000-0000000000{number:02}")
        .parse()
        .unwrap()
}

fn some() -> Resources {
    Resources {
        vcpus: 2,
        memory_bytes: 512 << 20,
        disk_bytes: 1_000_000_000,
        addresses: 0,
    }
}

pub(crate) fn token(name: &str) -> Token {
    Token {
        id: id(7, 0),
        name: name.to_owned(),
        uses: Some(3),
        used: 1,
        expires_at: None,
        networks: Vec::new(),
        created_at: "2026-04-30T08:00:00Z".parse().unwrap(),
    }
}

pub(crate) fn rule(number: u8) -> AdmissionRule {
    AdmissionRule {
        id: id(8, number),
        selectors: Selectors {
            networks: vec!["10.0.0.0/24".into()],
            ..Selectors::default()
        },
        uses: Some(8),
        used: 3,
        expires_at: Some("2026-05-01T12:30:00Z".parse().unwrap()),
        created_by: "admin".into(),
        created_at: "2026-05-01T11:59:00Z".parse().unwrap(),
    }
}

/// A machine that asks to join.
pub(crate) fn pending(number: u8) -> Host {
    Host {
        state: HostState::Pending,
        detail: "waits for approval: asked to join without a token".into(),
        enrolled_at: "2026-05-01T11:58:00Z".parse().unwrap(),
        admitted_by: None,
        inventory: None,
        capacity: None,
        free: Resources::default(),
        leases: 0,
        ..host(number)
    }
}

pub(crate) fn host(number: u8) -> Host {
    Host {
        id: id(1, number),
        state: HostState::Enrolled,
        detail: "enrolled with token rack1".into(),
        site: "leipzig".into(),
        rack: "r7".into(),
        key_storage: "ram".into(),
        identity: inventory().identity,
        cpu_model: "Xeon Gold 6130".into(),
        memory_bytes: 64 * GIB,
        address: Some([192, 0, 2, 10].into()),
        admitted_by: Some(Admission::Token {
            name: "rack1".into(),
            id: None,
        }),
        enrolled_at: "2026-04-30T08:00:00Z".parse().unwrap(),
        certificate_expires_at: "2026-07-30T08:00:00Z".parse().unwrap(),
        last_seen_at: Some("2026-05-01T11:59:40Z".parse().unwrap()),
        unreachable: false,
        inventory: Some(inventory()),
        capacity: Some(Capacity {
            generation: 4,
            sellable: Resources {
                vcpus: 16,
                memory_bytes: 60 * GIB,
                disk_bytes: 900 * GIB,
                addresses: 0,
            },
            guest_overhead: Resources {
                vcpus: 0,
                memory_bytes: 192 << 20,
                disk_bytes: 1 << 20,
                addresses: 0,
            },
            reserve: Resources {
                vcpus: 0,
                memory_bytes: 4 * GIB,
                disk_bytes: 0,
                addresses: 0,
            },
            guest_mbits: Some(100),
            guest_disk: Some(DiskRate {
                operations: 1000,
                mbytes: 50,
            }),
            withheld: None,
        }),
        free: Resources {
            vcpus: 12,
            memory_bytes: 41 * GIB + GIB / 2,
            disk_bytes: 500 * GIB,
            addresses: 0,
        },
        leases: 2,
    }
}

fn inventory() -> Inventory {
    Inventory {
        identity: HardwareIdentity {
            system_uuid: Some("4c4c4544-0042-3510-8052-b4c04f4a3132".into()),
            system_serial: Some("B5RJ12".into()),
            board_serial: None,
            vendor: Some("Dell Inc.".into()),
            product: Some("PowerEdge R640".into()),
            macs: vec!["e4:43:4b:00:11:22".into()],
        },
        cpu: Cpu {
            model: "Xeon Gold 6130".into(),
            sockets: 1,
            cores: 16,
            threads: 32,
            ..Cpu::default()
        },
        memory_bytes: 64 * GIB,
        numa_nodes: vec![NumaNode {
            id: 0,
            memory_bytes: 64 * GIB,
            cpus: vec![0, 1],
        }],
        disks: vec![Disk {
            name: "sda".into(),
            model: Some("PM883".into()),
            serial: Some("S455".into()),
            size_bytes: 960_000_000_000,
            rotational: false,
            used: false,
            reason: "left alone: it carries a partition table (GPT), by its mark at 0x200".into(),
        }],
        nics: vec![Nic {
            name: "eno1".into(),
            mac: "e4:43:4b:00:11:22".into(),
            driver: Some("i40e".into()),
            link: true,
            speed_mbits: Some(10_000),
            addresses: vec!["192.0.2.10/24".into()],
        }],
        kvm: KvmProbe::Works { millis: 310 },
        uefi: true,
        agent_version: "0.1.0".into(),
        root_hash: "ab".repeat(32),
        kernel: "6.12.1".into(),
        booted_from: None,
        self_test: vec![SelfCheck {
            name: "neighbour".into(),
            attempts: 70,
            failure: None,
        }],
    }
}

pub(crate) fn offer(number: u8) -> Offer {
    Offer {
        host: id(1, number),
        site: "leipzig".into(),
        free: some(),
        cpu_model: "Xeon Gold 6130".into(),
        accelerator: "kvm".into(),
        guest_mbits: Some(100),
        guest_disk: None,
        price_per_hour: Money(25_500),
        currency: "EUR".into(),
    }
}

pub(crate) fn prices() -> PriceBook {
    PriceBook {
        version: 1,
        currency: "EUR".into(),
        vcpu_hour: Money(10_000),
        memory_gib_hour: Money(5_000),
        disk_gb_month: Money(40_000),
        address_hour: Money(4_000),
        traffic_in_gb: Money(0),
        traffic_out_gb: Money(12_345),
    }
}

pub(crate) fn image() -> Image {
    Image {
        digest: Digest::from_sha256([0xab; 32]),
        name: "hello".into(),
        format: ImageFormat::Qcow2,
        size_bytes: 12 << 20,
        virtual_bytes: 64 << 20,
        added_at: "2026-04-30T08:00:00Z".parse().unwrap(),
    }
}

pub(crate) fn quote() -> Quote {
    Quote {
        id: id(3, 0),
        host: id(1, 0),
        site: "leipzig".into(),
        resources: some(),
        seconds: 7200,
        price: Money(46_000),
        currency: "EUR".into(),
        price_book: 1,
        expires_at: "2026-05-01T12:02:00Z".parse().unwrap(),
    }
}

pub(crate) fn lease(number: u8) -> Lease {
    Lease {
        id: id(2, number),
        name: "hello".into(),
        state: LeaseState::Active,
        epoch: 1,
        host: id(1, 0),
        site: "leipzig".into(),
        former: Vec::new(),
        resources: some(),
        image: image().digest,
        on_lost_link: OnLostLink::Fence { after_seconds: 300 },
        phase: Some(GuestPhase::Running),
        detail: "the guest runs".into(),
        addresses: vec!["198.51.100.7".into()],
        forwards: vec![Forward {
            guest: GuestPort {
                transport: Transport::Tcp,
                port: 22,
            },
            address: std::net::Ipv4Addr::new(192, 0, 2, 15),
            host_port: 16_384,
        }],
        unreachable: false,
        end_reason: None,
        disk: None,
        created_at: "2026-05-01T11:00:00Z".parse().unwrap(),
        started_at: Some("2026-05-01T11:00:09Z".parse().unwrap()),
        ends_at: "2026-05-01T13:00:00Z".parse().unwrap(),
        ended_at: None,
        price: Money(46_000),
        currency: "EUR".into(),
    }
}

pub(crate) fn former(epoch: u64) -> FormerPlacement {
    FormerPlacement {
        epoch,
        host: id(1, 1),
        reason: EndReason::LinkLost,
        gone_at: "2026-05-01T11:30:00Z".parse().unwrap(),
    }
}

pub(crate) fn bill() -> Bill {
    let line = |item: &str, quantity, unit: &str, rate, amount| BillLine {
        item: item.into(),
        quantity,
        unit: unit.into(),
        rate: Money(rate),
        amount: Money(amount),
    };
    Bill {
        lease: id(2, 0),
        price_book: 1,
        currency: "EUR".into(),
        closed: true,
        lines: vec![
            line("vcpu", 14_400_000, "vcpu_millis", 10_000, 40_000),
            line("memory", 512 * 7_200_000, "mib_millis", 5_000, 5_000),
            line("disk", 1000 * 7_200_000, "mb_millis", 40_000, 111),
            line("traffic_in", 1_500_000, "bytes", 0, 0),
            line("traffic_out", 2_000_000, "bytes", 12_345, 25),
        ],
        total: Money(45_136),
        usage: vec![UsageRecord {
            lease: id(2, 0),
            epoch: 1,
            seq: 24,
            measured_at: "2026-05-01T13:00:00Z".parse().unwrap(),
            running_millis: 7_200_000,
            cpu_millis: 4000,
            rx_bytes: 1_500_000,
            tx_bytes: 2_000_000,
        }],
    }
}
