//! What became of each disk in this boot, kept for the inventory and for an agent
//! that starts again.

use std::io;

use serde::{Deserialize, Serialize};
use surplus_stage::Stage;

use crate::sysroot::SysRoot;

/// Where it lies, as volatile as the boot.
pub(super) const FILE: &str = "/run/surplus/storage.json";

/// Every disk that there was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) disks: Vec<Judged>,
    /// Why no volume could be made of the disks that were to be used.
    #[serde(default)]
    pub(super) failure: Option<String>,
}

/// A disk and its one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) name: String,
    pub(crate) serial: Option<String>,
    pub(crate) used: bool,
    pub(crate) reason: String,
}

impl Report {
    /// None where the site file gives no disks.
    pub(crate) fn load(root: &SysRoot) -> Option<Self> {
        serde_json::from_str(&root.text(FILE)?).ok()
    }

    pub(super) fn save(&self, root: &SysRoot) -> io::Result<()> {
        let path = root.path(FILE);
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        std::fs::rename(new, path)
    }

    pub(super) fn uses_disks(&self) -> bool {
        self.disks.iter().any(|disk| disk.used)
    }

    /// No disk is used after all.
    pub(super) fn give_up(&mut self, why: &str) {
        for disk in self.disks.iter_mut().filter(|disk| disk.used) {
            disk.used = false;
            disk.reason = format!("not used: {why}");
        }
        self.failure = Some(why.to_owned());
    }
}

impl Judged {
    /// Its line on the consoles.
    pub(super) fn stage(&self) -> Stage {
        Stage::new("disk")
            .with("name", &self.name)
            .with("serial", self.serial.as_deref().unwrap_or("-"))
            .with("reason", &self.reason)
    }
}

/// Whether the disk is used, and why; none where the site file gives no disks.
pub(crate) fn reason_of(
    report: Option<&Report>,
    name: &str,
    serial: Option<&str>,
) -> Option<(bool, String)> {
    let report = report?;
    let mut disks = report.disks.iter();
    let found = disks.find(|disk| disk.name == name && disk.serial.as_deref() == serial);
    let reason = match (found, &report.failure) {
        (Some(disk), _) => return Some((disk.used, disk.reason.clone())),
        (None, Some(why)) => format!("not used: {why}"),
        (None, None) => "left alone: it was not there when this boot looked for disks".to_owned(),
    };
    Some((false, reason))
}
