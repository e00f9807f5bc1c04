//! The disks that are used as one volume with one file system.
//!
//! What always holds: nothing of a volume outlives a boot but the disks'
//! partitions and stamps. Mapping and file system are made anew at each boot;
//! what guests wrote in an earlier one is ciphertext whose keys are gone.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use camino::Utf8Path;
use nix::sys::statvfs::statvfs;

use super::contents::{self, Extent};
use super::stamp;
use super::tools::{ToolError, Tools};
use crate::sysroot::SysRoot;

const MIB: u64 = 1 << 20;
/// The unit of a device-mapper table.
const SECTOR: u64 = 512;

/// What systemd mounts (var-lib-surplus-volume.mount).
const LINK: &str = "/run/surplus/volume";

/// Why disks could not be made a volume.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error("{0}")]
    Tool(#[from] ToolError),
    #[error("it cannot be opened: {0}")]
    Open(io::Error),
    #[error("the kernel does not show the volume that was made")]
    NoNode,
    #[error("its partition is not there after it was written")]
    NoPartition,
    #[error("its partition could not be written to: {0}")]
    Stamp(io::Error),
    #[error("{LINK} could not be made: {0}")]
    Link(io::Error),
}

/// A disk that is part of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) device: PathBuf,
    pub(super) extent: Extent,
}

/// Takes a disk into use: its partition where it has none yet, and its stamp.
pub(super) fn take(
    tools: &Tools,
    device: &Path,
    bytes: u64,
    ours: Option<Extent>,
    host: &str,
) -> Result<Member, VolumeError> {
    // Held until the end, so that nobody else takes it meanwhile.
    let disk = contents::open_exclusively(device, true).map_err(VolumeError::Open)?;
    let extent = match ours {
        Some(extent) => extent,
        None => {
            tools.partition(device, stamp::TYPE, stamp::NAME)?;
            let extent = contents::our_extent(tools, device, bytes)?;
            extent.ok_or(VolumeError::NoPartition)?
        }
    };
    stamp::write(&disk, extent.start, host).map_err(VolumeError::Stamp)?;
    Ok(Member {
        device: device.to_owned(),
        extent,
    })
}

/// The table that joins the members, one behind the other. The stamps stay
/// outside.
pub(super) fn table(members: &[Member]) -> String {
    let mut table = String::new();
    let mut at = 0;
    for Member { device, extent } in members {
        let sectors = extent.bytes.saturating_sub(stamp::BYTES) / MIB * MIB / SECTOR;
        let from = (extent.start + stamp::BYTES) / SECTOR;
        let _ = writeln!(table, "{at} {sectors} linear {} {from}", device.display());
        at += sectors;
    }
    table
}

/// The volume's node, by the kernel's own name, which is there without udev and
/// without the right to make nodes.
fn node(root: &SysRoot) -> Option<PathBuf> {
    let name = root.names("/sys/block").into_iter().find(|name| {
        root.text(format!("/sys/block/{name}/dm/name")).as_deref() == Some(stamp::NAME)
    })?;
    Some(Path::new("/dev").join(name))
}

/// Removes what an agent left that died before the volume was mounted: it would
/// hold the disks. One that is in use stays.
pub(super) fn clear(root: &SysRoot, tools: &Tools) {
    if node(root).is_some()
        && let Err(error) = tools.unmap(stamp::NAME)
    {
        tracing::warn!(%error, "a volume that was half made stays");
    }
}

/// Joins the members, makes the file system, and a link to it for whoever mounts it.
pub(super) fn make(root: &SysRoot, tools: &Tools, members: &[Member]) -> Result<(), VolumeError> {
    tools.map(stamp::NAME, &table(members))?;
    let node = node(root).ok_or(VolumeError::NoNode)?;
    tools.make_ext4(&node, stamp::NAME)?;
    let link = root.path(LINK);
    let _ = std::fs::remove_file(&link);
    symlink(node, link).map_err(VolumeError::Link)
}

/// The size of the file system on which `at` lies, and what of it is free.
pub(super) fn size(at: &Utf8Path) -> io::Result<(u64, u64)> {
    let answer = statvfs(at.as_std_path())?;
    let unit = answer.fragment_size();
    Ok((
        answer.blocks().saturating_mul(unit),
        answer.blocks_available().saturating_mul(unit),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_behind_each_other_and_their_stamps_outside() {
        let member = |name: &str, start, bytes| Member {
            device: name.into(),
            extent: Extent { start, bytes },
        };
        let members = [
            member("/dev/sda", MIB, 5 * MIB + 512),
            member("/dev/nvme0n1", 2 * MIB, 3 * MIB),
        ];
        assert_eq!(
            table(&members),
            "0 8192 linear /dev/sda 4096\n8192 4096 linear /dev/nvme0n1 6144\n"
        );
    }
}
