//! The host's disks, as far as the site file gives them to guests.
//!
//! ```text
//! each disk ─► verdict ─► partition, stamp ─┐
//! each disk ─► verdict: left alone          ├─► one volume ─► ext4 ─► mounted
//! each disk ─► verdict ─► stamp ────────────┘
//! ```
//!
//! What always holds: every disk has its one reason, in the inventory and on the
//! consoles; a disk that is left alone is not written to, and where its outside
//! is reason enough it is not even opened. The disks are looked at once in a
//! boot: an agent that starts again finds the volume mounted and goes on.

mod contents;
mod report;
mod stamp;
mod tools;
mod verdict;
mod volume;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use surplus_site::Storage;
use surplus_stage::Stage;

use crate::inventory;
use crate::stages::Announce;
use crate::sysroot::SysRoot;
use report::Judged;
pub(crate) use report::{Report, reason_of};
use tools::Tools;
pub(crate) use verdict::{DiskFacts, reason_without_policy};
use verdict::{Judge, Verdict};
use volume::{Member, VolumeError};

/// Where the volume is mounted, below the state directory.
const MOUNT_POINT: &str = "volume";

/// The volume that guests' files lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub path: Utf8PathBuf,
    /// What can be written to it while it is empty.
    pub bytes: u64,
}

/// Makes the disks that `policy` gives a volume below `state`, or finds the one
/// that was made in this boot. Without one guests live in memory: nothing here
/// keeps a host from its work. Blocks for as long as the disks take.
pub fn ready(
    root: &SysRoot,
    policy: &Storage,
    state: &Utf8Path,
    consoles: &dyn Announce,
) -> Option<Volume> {
    let at = state.join(MOUNT_POINT);
    let made = is_mounted(root, &at);
    // Where no disk was used, guests may be in memory by now. Where some were, the
    // agent died before the mount.
    let settled = made || Report::load(root).is_some_and(|report| !report.uses_disks());
    if !settled && *policy != Storage::None {
        wait_for_drivers();
        set_up(root, policy, &at, consoles);
    }
    if !is_mounted(root, &at) {
        return None;
    }
    match volume::size(&at) {
        Ok((bytes, _)) => {
            let stage = Stage::new("storage").with("volume", format!("{}MB", bytes / 1_000_000));
            if !made {
                consoles.say(stage);
            }
            Some(Volume { path: at, bytes })
        }
        Err(error) => {
            let next = "guests live in memory until the host is booted again";
            consoles.say(Stage::new("storage").failed(error, next));
            None
        }
    }
}

/// Judges every disk, and makes a volume of those that are used.
fn set_up(root: &SysRoot, policy: &Storage, at: &Utf8Path, consoles: &dyn Announce) {
    let tools = Tools::default();
    volume::clear(root, &tools);
    let host = inventory::identity(root).system_uuid.unwrap_or_default();
    let mut judge = Judge::new(policy, &host);
    let mut judged = Vec::new();
    let mut members = Vec::new();
    for disk in inventory::disk_facts(root) {
        let device = Path::new("/dev").join(&disk.name);
        let verdict = judge.judge(&disk, || contents::look(&tools, &device, disk.bytes));
        let (used, reason) = match verdict {
            Verdict::LeaveAlone(reason) => (false, reason),
            Verdict::Use { ours, reason } => {
                match volume::take(&tools, &device, disk.bytes, ours, &host) {
                    Ok(member) => {
                        members.push(member);
                        (true, reason)
                    }
                    Err(error) => (false, format!("not used: {error}")),
                }
            }
        };
        judged.push(Judged {
            name: disk.name,
            serial: disk.serial,
            used,
            reason,
        });
    }
    let mut report = Report { disks: judged };
    if let Err(error) = join(root, &tools, &members, at, &report) {
        report.give_up(&error.to_string());
        if let Err(error) = report.save(root) {
            tracing::error!(%error, "the disks' reasons are lost");
        }
        let next = "guests live in memory; look at the disks, then boot again";
        consoles.say(Stage::new("storage").failed(error, next));
    }
    for disk in &report.disks {
        consoles.say(disk.stage());
    }
}

/// The mount comes last: where it is, all else is done.
fn join(
    root: &SysRoot,
    tools: &Tools,
    members: &[Member],
    at: &Utf8Path,
    report: &Report,
) -> Result<(), VolumeError> {
    report.save(root).map_err(|source| VolumeError::Directory {
        path: report::FILE.to_owned(),
        source,
    })?;
    if members.is_empty() {
        return Ok(());
    }
    let node = volume::make(root, tools, members)?;
    volume::mount_on(&node, at)
}

fn is_mounted(root: &SysRoot, at: &Utf8Path) -> bool {
    let text = root.text("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .any(|line| line.split(' ').nth(4) == Some(at.as_str()))
}

/// Lets udev finish what it began at the start: a disk whose driver is being
/// loaded is about to be there.
fn wait_for_drivers() {
    let udevadm = PathBuf::from("/usr/bin/udevadm");
    let settled = Command::new(udevadm)
        .args(["settle", "--timeout=60"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match settled {
        Ok(status) if status.success() => {}
        Ok(status) => {
            tracing::warn!(%status, "drivers are still being loaded; disks may be missing")
        }
        Err(error) => tracing::warn!(%error, "udev cannot be asked whether all disks are there"),
    }
}
