//! Disks, as the kernel describes them, each with the one reason why it is used
//! or left alone.
//!
//! What always holds: no disk is opened here. What became of a disk whose
//! contents were looked at, [`crate::storage`] has noted.

use std::collections::BTreeMap;

use surplus_protocol::inventory::Disk;

use crate::storage::{DiskFacts, Report, reason_of, reason_without_policy};
use crate::sysroot::SysRoot;

/// Kinds of block device that are no disks: they have no hardware of their own,
/// or their medium is not for writing.
const NOT_DISKS: [&str; 9] = [
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock",
];

pub(super) fn read(root: &SysRoot, boot_medium: Option<&str>) -> Vec<Disk> {
    let report = Report::load(root);
    let facts = facts(root, boot_medium).into_iter();
    facts
        .map(|facts| disk(root, facts, report.as_ref()))
        .collect()
}

fn disk(root: &SysRoot, facts: DiskFacts, report: Option<&Report>) -> Disk {
    let at = |file: &str| format!("/sys/block/{}/{file}", facts.name);
    let (used, reason) = reason_of(report, &facts.name, facts.serial.as_deref())
        .unwrap_or_else(|| (false, reason_without_policy(&facts)));
    Disk {
        model: root.text(at("device/model")),
        size_bytes: facts.bytes,
        rotational: root.number(at("queue/rotational")) == Some(1_u8),
        used,
        reason,
        serial: facts.serial,
        name: facts.name,
    }
}

/// Every disk of the machine.
pub(super) fn facts(root: &SysRoot, boot_medium: Option<&str>) -> Vec<DiskFacts> {
    let mounts = mounts(root);
    let names = root.names("/sys/block").into_iter();
    names
        .filter(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        // One path of several to an NVMe disk, which has a name of its own.
        .filter(|name| root.number(format!("/sys/block/{name}/hidden")) != Some(1_u8))
        .map(|name| {
            let at = |file: &str| format!("/sys/block/{name}/{file}");
            let serial = serial(root, &name);
            let identity = root
                .text(at("wwid"))
                .or_else(|| root.text(at("device/wwid")));
            let parts: Vec<_> = std::iter::once(at(""))
                .chain(root.names(at("")).into_iter().filter_map(|part| {
                    root.exists(at(&format!("{part}/partition")))
                        .then(|| at(&part))
                }))
                .collect();
            let mounted = parts.iter().find_map(|part| {
                let number = root.text(format!("{part}/dev"))?;
                mounts.get(&number).cloned()
            });
            let holder = parts.iter().find_map(|part| {
                let holder = root.names(format!("{part}/holders")).into_iter().next()?;
                Some(
                    root.text(format!("/sys/block/{holder}/dm/name"))
                        .unwrap_or(holder),
                )
            });
            DiskFacts {
                bytes: root
                    .number::<u64>(at("size"))
                    .unwrap_or(0)
                    .saturating_mul(512),
                read_only: root.number(at("ro")) == Some(1_u8),
                removable: root.number(at("removable")) == Some(1_u8),
                boot_medium: boot_medium.is_some_and(|it| it.starts_with(name.as_str())),
                mounted,
                holder,
                identity,
                serial,
                name,
            }
        })
        .collect()
}

/// Mount points by the number of their device.
fn mounts(root: &SysRoot) -> BTreeMap<String, String> {
    let text = root.text("/proc/self/mountinfo").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(2);
        Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
    });
    lines.collect()
}

/// NVMe and MMC have it beside the device, virtio beside the disk, SCSI and
/// SATA in the unit serial number page (SPC-4, 7.8.15): four bytes of header
/// before the text.
fn serial(root: &SysRoot, name: &str) -> Option<String> {
    let file = |file: &str| root.text(format!("/sys/block/{name}/{file}"));
    file("device/serial")
        .or_else(|| file("serial"))
        .or_else(|| {
            let page =
                std::fs::read(root.path(format!("/sys/block/{name}/device/vpd_pg80"))).ok()?;
            let text = String::from_utf8_lossy(page.get(4..)?).trim().to_owned();
            (!text.is_empty()).then_some(text)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn every_disk_has_its_one_reason_and_other_block_devices_are_not_listed() {
        let tree = Tree::new();
        for (name, size, removable) in [
            ("sda", 2048, 0),
            ("sdb", 4096, 1),
            ("sdc", 0, 1),
            ("sdd", 10, 0),
            ("sr0", 9, 1),
            ("loop0", 9, 0),
            ("dm-0", 9, 0),
        ] {
            tree.file(&format!("/sys/block/{name}/size"), size.to_string())
                .file(&format!("/sys/block/{name}/ro"), "0")
                .file(
                    &format!("/sys/block/{name}/removable"),
                    removable.to_string(),
                );
        }
        tree.file("/sys/block/sda/device/vpd_pg80", b"\0\x80\0\x08 WD-1234")
            .file("/sys/block/sda/device/model", "WDC  ")
            .file("/sys/block/sda/queue/rotational", "1");
        let disks = read(&tree.root(), Some("sdd1"));
        let seen: Vec<_> = disks
            .iter()
            .map(|disk| (disk.name.as_str(), disk.reason.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (
                    "sda",
                    "left alone: guests are kept in memory (storage = \"none\")"
                ),
                ("sdb", "left alone: it is removable"),
                ("sdc", "left alone: there is no medium in it"),
                ("sdd", "left alone: this host was booted from it"),
            ]
        );
        assert_eq!(disks[0].serial.as_deref(), Some("WD-1234"));
        assert_eq!(disks[0].model.as_deref(), Some("WDC"));
        assert_eq!(
            (disks[0].size_bytes, disks[0].rotational),
            (1_048_576, true)
        );
        assert!(disks.iter().all(|disk| !disk.used));
    }
}
