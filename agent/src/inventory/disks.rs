//! Disks, each with the one reason why it is used or left alone.
//!
//! What always holds: no disk is opened here. Guests live in memory only in
//! this version, so that no disk is ever used; the reason says which of the
//! causes comes first.

use surplus_protocol::inventory::Disk;

use crate::sysroot::SysRoot;

/// Kinds of block device that are no disks: they have no hardware of their own,
/// or their medium is not for writing.
const NOT_DISKS: [&str; 9] = [
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock",
];

pub(super) fn read(root: &SysRoot, boot_medium: Option<&str>) -> Vec<Disk> {
    root.names("/sys/block")
        .into_iter()
        .filter(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| disk(root, name, boot_medium))
        .collect()
}

fn disk(root: &SysRoot, name: String, boot_medium: Option<&str>) -> Disk {
    let at = |file: &str| format!("/sys/block/{name}/{file}");
    let size_bytes = root
        .number::<u64>(at("size"))
        .unwrap_or(0)
        .saturating_mul(512);
    let reason = if boot_medium.is_some_and(|medium| medium.starts_with(name.as_str())) {
        "left alone: this host was booted from it"
    } else if size_bytes == 0 {
        "left alone: there is no medium in it"
    } else if root.number(at("ro")) == Some(1_u8) {
        "left alone: it cannot be written to"
    } else if root.number(at("removable")) == Some(1_u8) {
        "left alone: it is removable"
    } else {
        "left alone: guests are kept in memory (storage = \"none\")"
    };
    Disk {
        model: root.text(at("device/model")),
        serial: serial(root, &name),
        size_bytes,
        rotational: root.number(at("queue/rotational")) == Some(1_u8),
        used: false,
        reason: reason.to_owned(),
        name,
    }
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
