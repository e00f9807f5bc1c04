//! Which disks are used, and for each disk the one reason.
//!
//! What always holds: a disk is used only where the site file gives it, nothing
//! uses it, and it carries nobody's data: it is blank, or ours and nothing else
//! was written into our partition. Naming a disk by its serial number gives what
//! is there without a mark; it overrules no mark.

use std::collections::BTreeMap;

use surplus_site::Storage;

use super::contents::{Contents, Extent};
use super::tools::Signature;

/// Smaller disks are not worth their wear: sticks, firmware's own, boot modules.
pub(super) const SMALLEST: u64 = 4 << 30;

/// A disk as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskFacts {
    pub(crate) name: String,
    pub(crate) serial: Option<String>,
    /// What says of two paths that they lead to one disk.
    pub(crate) identity: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) removable: bool,
    /// This host was booted from it.
    pub(crate) boot_medium: bool,
    /// Where it, or a part of it, is mounted.
    pub(crate) mounted: Option<String>,
    /// A volume that it, or a part of it, belongs to.
    pub(crate) holder: Option<String>,
}

/// What becomes of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is used: as it is, or once it has its partition.
    Use {
        ours: Option<Extent>,
        reason: String,
    },
    LeaveAlone(String),
}

/// Judges disks one after the other.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    policy: &'a Storage,
    /// The machine's id, as it stands on its disks.
    host: &'a str,
    /// Names of the disks that were judged, by identity.
    seen: BTreeMap<String, String>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(policy: &'a Storage, host: &'a str) -> Self {
        Self {
            policy,
            host,
            seen: BTreeMap::new(),
        }
    }

    /// `look` is called only where all else speaks for the disk.
    pub(super) fn judge(&mut self, disk: &DiskFacts, look: impl FnOnce() -> Contents) -> Verdict {
        if let Some(reason) = self.outward(disk) {
            return Verdict::LeaveAlone(format!("left alone: {reason}"));
        }
        match self.inward(&look()) {
            Ok((ours, reason)) => Verdict::Use {
                ours,
                reason: format!("used: {reason}"),
            },
            Err(reason) => Verdict::LeaveAlone(format!("left alone: {reason}")),
        }
    }

    /// What speaks against a disk, whatever is on it.
    fn outward(&mut self, disk: &DiskFacts) -> Option<String> {
        let first = disk.identity.as_ref().and_then(|identity| {
            let first = self.seen.entry(identity.clone());
            let first = first.or_insert_with(|| disk.name.clone());
            (*first != disk.name).then(|| first.clone())
        });
        let small = disk.bytes < SMALLEST;
        if disk.boot_medium {
            Some("this host was booted from it".into())
        } else if disk.bytes == 0 {
            Some("there is no medium in it".into())
        } else if disk.read_only {
            Some("it cannot be written to".into())
        } else if disk.removable {
            Some("it is removable".into())
        } else if *self.policy == Storage::None {
            Some("guests are kept in memory (storage = \"none\")".into())
        } else if !self.is_given(disk) {
            Some(match &disk.serial {
                Some(_) => "its serial number is not under `storage.serials`".into(),
                None => {
                    "it has no serial number, so that it cannot be under `storage.serials`".into()
                }
            })
        } else if let Some(first) = first {
            Some(format!("it is {first} by another path"))
        } else if let Some(place) = &disk.mounted {
            Some(format!("it is mounted on {place}"))
        } else if let Some(holder) = &disk.holder {
            Some(format!("it belongs to the volume {holder}"))
        } else if small {
            Some(format!("it is smaller than {} GiB", SMALLEST >> 30))
        } else {
            None
        }
    }

    fn is_given(&self, disk: &DiskFacts) -> bool {
        match self.policy {
            Storage::None => false,
            Storage::Blank => true,
            Storage::Serials(serials) => disk
                .serial
                .as_ref()
                .is_some_and(|serial| serials.contains(serial)),
        }
    }

    fn inward(&self, contents: &Contents) -> Result<(Option<Extent>, String), String> {
        let named = matches!(self.policy, Storage::Serials(_));
        match contents {
            Contents::Blank => Ok((None, "it was blank".into())),
            Contents::Unknown(_) if named => Ok((
                None,
                "it is under `storage.serials` and carries no mark of anybody's data".into(),
            )),
            Contents::Unknown(at) => Err(format!(
                "it carries no known mark but is not blank (its byte {at:#x} is not zero); erase \
                 it, or give it by `storage.serials`"
            )),
            Contents::Ours { extent, host } if host.is_empty() || host == self.host || named => {
                Ok((Some(*extent), "it was used for guests before".into()))
            }
            Contents::Ours { host, .. } => Err(format!(
                "it holds guests' disks of another host ({host}); erase it, or give it by \
                 `storage.serials`"
            )),
            Contents::Overwritten(at) => Err(format!(
                "something was written into the partition that was for guests' disks (at {at:#x})"
            )),
            Contents::Signed(signatures) => Err(format!("it carries {}", describe(signatures))),
            Contents::InUse => Err("something on this host uses it".into()),
            Contents::Unreadable(why) => Err(format!("what is on it cannot be told: {why}")),
        }
    }
}

/// Why a disk is left alone where the site file gives none.
pub(crate) fn reason_without_policy(disk: &DiskFacts) -> String {
    let reason = Judge::new(&Storage::None, "").outward(disk);
    format!("left alone: {}", reason.unwrap_or_default())
}

/// The mark that says most, in a person's words.
fn describe(signatures: &[Signature]) -> String {
    let weight = |signature: &Signature| match signature.usage.as_str() {
        "raid" => 0,
        "crypto" => 1,
        "filesystem" => 2,
        _ if signature.kind != "PMBR" => 3,
        _ => 4,
    };
    let Some(first) = signatures.iter().min_by_key(|it| (weight(it), it.offset)) else {
        return "a mark".into();
    };
    let kind = first.kind.as_str();
    let what = match (kind, first.usage.as_str()) {
        ("LVM2_member" | "LVM1_member", _) => "an LVM physical volume".into(),
        ("linux_raid_member", _) => "a member of a Linux RAID (md)".into(),
        ("zfs_member", _) => "a member of a ZFS pool".into(),
        ("VMFS" | "VMFS_volume_member", _) => "a VMFS volume".into(),
        ("ceph_bluestore", _) => "a Ceph object store (BlueStore)".into(),
        ("crypto_LUKS", _) => "encrypted data (LUKS)".into(),
        ("BitLocker", _) => "encrypted data (BitLocker)".into(),
        ("gpt", _) => "a partition table (GPT)".into(),
        ("dos", _) => "a partition table (MBR)".into(),
        (_, "partition-table") => format!("a partition table ({kind})"),
        (_, "filesystem") => format!("a file system ({kind})"),
        (_, "raid") => format!("a member of a volume ({kind})"),
        (_, "crypto") => format!("encrypted data ({kind})"),
        _ => format!("the mark of {kind}"),
    };
    format!("{what}, by its mark at {:#x}", first.offset)
}

#[cfg(test)]
mod tests;
