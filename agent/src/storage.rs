//! The host's disks, as far as the site file gives them to guests.
//!
//! ```text
//!            agent                │    surplus-disks.service
//! what the site file gives ───────┼─► each disk ─► verdict ─► partition, stamp ─┐
//!                                 │   each disk ─► verdict: left alone          ├─► one volume
//! reasons on the consoles ◄───────┼── each disk ─► verdict ─► stamp ────────────┘   with ext4
//! mounted (by systemd)    ◄───────┼─────────────────────────────────────────────────────┘
//! ```
//!
//! What always holds: every disk has its one reason, in the inventory and on the
//! consoles; a disk that is left alone is not written to, and where its outside
//! is reason enough it is not even opened. The agent itself has no right to any
//! disk. The disks are looked at once in a boot: an agent that starts again finds
//! the volume mounted and goes on.

mod contents;
mod report;
mod stamp;
mod tools;
mod verdict;
mod volume;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use surplus_site::Storage;
use surplus_stage::Stage;

use crate::hub::in_one_line;
use crate::inventory;
use crate::stages::Announce;
use crate::sysroot::SysRoot;
use crate::system::bus::Bus;
use crate::system::units::{self, UnitError};
use report::Judged;
pub(crate) use report::{Report, reason_of};
use tools::Tools;
pub(crate) use verdict::{DiskFacts, reason_without_policy};
use verdict::{Judge, Verdict};
use volume::{Member, VolumeError};

/// Where the volume is mounted, below the state directory, and who mounts it.
const MOUNT_POINT: &str = "volume";
const MOUNT_UNIT: &str = "var-lib-surplus-volume.mount";

/// Makes the disks ready ([`make_ready`]).
const DISKS_UNIT: &str = "surplus-disks.service";

/// What the site file gives, for that unit.
const POLICY: &str = "/run/surplus/disks.json";

/// The volume that guests' files lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub path: Utf8PathBuf,
    /// What can be written to it while it is empty.
    pub bytes: u64,
}

/// Why disks that are given are not used.
#[derive(Debug, thiserror::Error)]
enum StorageError {
    #[error("what the site file gives could not be written to {POLICY}")]
    Policy(#[source] io::Error),
    #[error(transparent)]
    Unit(#[from] Box<UnitError>),
    #[error("{DISKS_UNIT} left no word of what became of the disks")]
    NoReport,
    #[error("{0}")]
    GivenUp(String),
    #[error("the volume on the disks could not be measured")]
    Size(#[source] io::Error),
}

/// Has the disks that `policy` gives made a volume below `state`, or finds the one
/// that was made in this boot. Without one guests live in memory: nothing here
/// keeps a host from its work. Takes as long as the disks take.
pub async fn ready(
    root: &SysRoot,
    bus: &Bus,
    policy: &Storage,
    state: &Utf8Path,
    consoles: &dyn Announce,
) -> Option<Volume> {
    let at = state.join(MOUNT_POINT);
    let made = is_mounted(root, &at);
    // Where no disk was used, guests may be in memory by now. Where some were, the
    // agent died before the mount.
    let settled = made || Report::load(root).is_some_and(|report| !report.uses_disks());
    let done = if settled || *policy == Storage::None {
        Ok(())
    } else {
        set_up(root, bus, policy, consoles).await
    };
    let volume = done.and_then(|()| {
        if !is_mounted(root, &at) {
            return Ok(None);
        }
        let (bytes, _) = volume::size(&at).map_err(StorageError::Size)?;
        Ok(Some(Volume { path: at, bytes }))
    });
    match volume {
        Ok(volume) => {
            if let Some(volume) = volume.as_ref().filter(|_| !made) {
                let size = format!("{}MB", volume.bytes / 1_000_000);
                consoles.say(Stage::new("storage").with("volume", size));
            }
            volume
        }
        Err(error) => {
            let (why, next) = (
                in_one_line(&error),
                "guests live in memory; look at the disks, then boot again",
            );
            give_up(root, &why);
            consoles.say(Stage::new("storage").failed(why, next));
            None
        }
    }
}

/// Has every disk judged and the volume made, says the reasons, and has it mounted.
async fn set_up(
    root: &SysRoot,
    bus: &Bus,
    policy: &Storage,
    consoles: &dyn Announce,
) -> Result<(), StorageError> {
    let text = serde_json::to_vec(policy).map_err(|error| StorageError::Policy(error.into()))?;
    std::fs::write(root.path(POLICY), text).map_err(StorageError::Policy)?;
    units::complete(bus, DISKS_UNIT).await.map_err(Box::new)?;
    let report = Report::load(root).ok_or(StorageError::NoReport)?;
    for disk in &report.disks {
        consoles.say(disk.stage());
    }
    if report.uses_disks() {
        units::complete(bus, MOUNT_UNIT).await.map_err(Box::new)?;
    }
    report
        .failure
        .map_or(Ok(()), |why| Err(StorageError::GivenUp(why)))
}

/// For the rest of the boot: guests are about to be in memory.
fn give_up(root: &SysRoot, why: &str) {
    let mut report = Report::load(root).unwrap_or_default();
    report.give_up(why);
    if let Err(error) = report.save(root) {
        tracing::error!(%error, "the disks' reasons are lost");
    }
}

/// Judges every disk, and makes a volume of those that are used; what became of
/// each is in the report. Blocks for as long as the disks take.
///
/// # Errors
///
/// Where it is not known what the site file gives, or the report cannot be written.
pub fn make_ready(root: &SysRoot) -> io::Result<()> {
    let policy: Storage = serde_json::from_slice(&std::fs::read(root.path(POLICY))?)?;
    wait_for_drivers();
    let tools = Tools::default();
    volume::clear(root, &tools);
    let host = inventory::identity(root).system_uuid.unwrap_or_default();
    let mut judge = Judge::new(&policy, &host);
    let mut report = Report::default();
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
        report.disks.push(Judged {
            name: disk.name,
            serial: disk.serial,
            used,
            reason,
        });
    }
    if let Err(error) = join(root, &tools, &members) {
        report.give_up(&error.to_string());
    }
    report.save(root)
}

fn join(root: &SysRoot, tools: &Tools, members: &[Member]) -> Result<(), VolumeError> {
    if members.is_empty() {
        return Ok(());
    }
    volume::make(root, tools, members)
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
