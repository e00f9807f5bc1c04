use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const HOST: &str = "4c4c4544-0031-3010-8054-b7c04f4d5931";
const EXTENT: Extent = Extent {
    start: 1 << 20,
    bytes: 5 << 30,
};

fn disk(name: &str) -> DiskFacts {
    DiskFacts {
        name: name.into(),
        serial: Some(format!("SERIAL-{name}")),
        bytes: 100 << 30,
        ..DiskFacts::default()
    }
}

fn signature(kind: &str, usage: &str, offset: u64) -> Signature {
    Signature {
        offset,
        kind: kind.into(),
        usage: usage.into(),
    }
}

fn ours(host: &str) -> Contents {
    Contents::Ours {
        extent: EXTENT,
        host: host.into(),
    }
}

fn reason(policy: &Storage, disk: &DiskFacts, contents: Contents) -> String {
    match Judge::new(policy, HOST).judge(disk, || contents) {
        Verdict::Use { reason, .. } | Verdict::LeaveAlone(reason) => reason,
    }
}

fn named(name: &str) -> Storage {
    Storage::Serials(vec![format!("SERIAL-{name}")])
}

#[test]
fn each_thing_that_can_be_on_a_disk_has_its_own_reason() {
    let signed = |kind, usage, offset| Contents::Signed(vec![signature(kind, usage, offset)]);
    for (contents, expected) in [
        (Contents::Blank, "used: it was blank"),
        (ours(HOST), "used: it was used for guests before"),
        (ours(""), "used: it was used for guests before"),
        (
            ours("other"),
            "left alone: it holds guests' disks of another host (other); erase it, or give it by \
             `storage.serials`",
        ),
        (
            Contents::Unknown(0x1234),
            "left alone: it carries no known mark but is not blank (its byte 0x1234 is not zero); \
             erase it, or give it by `storage.serials`",
        ),
        (
            Contents::Overwritten(0x10_0400),
            "left alone: something was written into the partition that was for guests' disks (at \
             0x100400)",
        ),
        (
            signed("LVM2_member", "raid", 0x218),
            "left alone: it carries an LVM physical volume, by its mark at 0x218",
        ),
        (
            signed("linux_raid_member", "raid", 0x1000),
            "left alone: it carries a member of a Linux RAID (md), by its mark at 0x1000",
        ),
        (
            signed("zfs_member", "filesystem", 0x3f000),
            "left alone: it carries a member of a ZFS pool, by its mark at 0x3f000",
        ),
        (
            signed("VMFS_volume_member", "raid", 0x10_0000),
            "left alone: it carries a VMFS volume, by its mark at 0x100000",
        ),
        (
            signed("ext4", "filesystem", 0x438),
            "left alone: it carries a file system (ext4), by its mark at 0x438",
        ),
        (
            Contents::Signed(vec![
                signature("gpt", "partition-table", 0x200),
                signature("PMBR", "partition-table", 0x1fe),
            ]),
            "left alone: it carries a partition table (GPT), by its mark at 0x200",
        ),
        (
            Contents::Signed(vec![
                signature("dos", "partition-table", 0x1fe),
                signature("crypto_LUKS", "crypto", 0),
            ]),
            "left alone: it carries encrypted data (LUKS), by its mark at 0x0",
        ),
        (
            signed("new_thing", "", 7),
            "left alone: it carries the mark of new_thing, by its mark at 0x7",
        ),
        (
            Contents::InUse,
            "left alone: something on this host uses it",
        ),
        (
            Contents::Unreadable("reading it failed at byte 0x0: Input/output error".into()),
            "left alone: what is on it cannot be told: reading it failed at byte 0x0: \
             Input/output error",
        ),
    ] {
        assert_eq!(reason(&Storage::Blank, &disk("sda"), contents), expected);
    }
}

#[test]
fn each_thing_that_a_disk_can_be_has_its_own_reason_and_is_not_opened() {
    let with = |change: fn(&mut DiskFacts)| {
        let mut disk = disk("sda");
        change(&mut disk);
        disk
    };
    for (policy, disk, expected) in [
        (
            Storage::Blank,
            with(|disk| disk.boot_medium = true),
            "this host was booted from it",
        ),
        (
            Storage::Blank,
            with(|disk| disk.bytes = 0),
            "there is no medium in it",
        ),
        (
            Storage::Blank,
            with(|disk| disk.read_only = true),
            "it cannot be written to",
        ),
        (
            Storage::Blank,
            with(|disk| disk.removable = true),
            "it is removable",
        ),
        (
            Storage::None,
            disk("sda"),
            "guests are kept in memory (storage = \"none\")",
        ),
        (
            named("sdb"),
            disk("sda"),
            "its serial number is not under `storage.serials`",
        ),
        (
            named("sdb"),
            with(|disk| disk.serial = None),
            "it has no serial number, so that it cannot be under `storage.serials`",
        ),
        (
            Storage::Blank,
            with(|disk| disk.mounted = Some("/srv".into())),
            "it is mounted on /srv",
        ),
        (
            named("sda"),
            with(|disk| disk.holder = Some("vg0-root".into())),
            "it belongs to the volume vg0-root",
        ),
        (
            Storage::Blank,
            with(|disk| disk.bytes = SMALLEST - 512),
            "it is smaller than 4 GiB",
        ),
    ] {
        let opened = Cell::new(false);
        let verdict = Judge::new(&policy, HOST).judge(&disk, || {
            opened.set(true);
            Contents::Blank
        });
        assert_eq!(
            verdict,
            Verdict::LeaveAlone(format!("left alone: {expected}"))
        );
        assert!(!opened.get(), "{expected}");
    }
}

#[test]
fn naming_a_disk_gives_what_has_no_mark_and_overrules_no_mark() {
    let policy = named("sda");
    let used = |contents| reason(&policy, &disk("sda"), contents).starts_with("used: ");
    assert!(used(Contents::Blank));
    assert!(used(Contents::Unknown(0)));
    assert!(used(ours("another")));
    let table = vec![signature("gpt", "partition-table", 0x200)];
    assert!(!used(Contents::Signed(table)));
    assert!(!used(Contents::Overwritten(1 << 20)));
    assert!(!used(Contents::Unreadable(String::new())));
}

#[test]
fn a_disk_that_is_seen_twice_is_used_once() {
    let path = |name: &str| DiskFacts {
        identity: Some("naa.5000c500a1b2c3d4".into()),
        ..disk(name)
    };
    let mut judge = Judge::new(&Storage::Blank, HOST);
    let first = judge.judge(&path("sda"), || Contents::Blank);
    assert!(matches!(first, Verdict::Use { .. }));
    assert_eq!(
        judge.judge(&path("sdb"), || Contents::Blank),
        Verdict::LeaveAlone("left alone: it is sda by another path".into())
    );
}

fn any_contents() -> impl Strategy<Value = Contents> {
    let usage = prop_oneof![
        Just("raid"),
        Just("crypto"),
        Just("filesystem"),
        Just("partition-table"),
        Just("other"),
        Just("")
    ];
    let any_signature =
        ("[a-zA-Z0-9_]{0,20}", usage, any::<u64>()).prop_map(|(kind, usage, offset)| Signature {
            offset,
            kind,
            usage: usage.into(),
        });
    prop_oneof![
        Just(Contents::Blank),
        any::<u64>().prop_map(Contents::Unknown),
        proptest::collection::vec(any_signature, 0..4).prop_map(Contents::Signed),
        ".{0,40}".prop_map(|host| ours(&host)),
        any::<u64>().prop_map(Contents::Overwritten),
        Just(Contents::InUse),
        ".{0,40}".prop_map(Contents::Unreadable),
    ]
}

fn any_policy() -> impl Strategy<Value = Storage> {
    prop_oneof![
        1 => Just(Storage::None),
        3 => Just(Storage::Blank),
        3 => Just(named("sda")),
        1 => Just(named("sdb"))
    ]
}

proptest! {
    #[test]
    fn a_disk_that_carries_anything_of_anybodys_is_never_used(
        policy in any_policy(),
        contents in any_contents(),
        // Mostly nothing speaks against the disk but what is on it.
        flags in prop_oneof![4 => Just([false; 5]), 1 => any::<[bool; 5]>()],
        bytes in prop_oneof![1 => Just(0), 4 => Just(SMALLEST), 1 => any::<u64>()],
    ) {
        let facts = DiskFacts {
            bytes,
            read_only: flags[0],
            removable: flags[1],
            boot_medium: flags[2],
            mounted: flags[3].then(|| "/mnt".into()),
            holder: flags[4].then(|| "md0".into()),
            ..disk("sda")
        };
        let verdict = Judge::new(&policy, HOST).judge(&facts, || contents.clone());
        match verdict {
            Verdict::LeaveAlone(reason) => prop_assert!(reason.len() > "left alone: ".len()),
            Verdict::Use { ours, .. } => {
                let harmless = match contents {
                    Contents::Blank | Contents::Ours { .. } => true,
                    Contents::Unknown(_) => policy == named("sda"),
                    _ => false,
                };
                prop_assert!(harmless);
                prop_assert!(flags.iter().all(|flag| !flag));
                prop_assert!(bytes >= SMALLEST);
                prop_assert!(policy == Storage::Blank || policy == named("sda"));
                prop_assert_eq!(ours.is_some(), matches!(contents, Contents::Ours { .. }));
            }
        }
    }
}
