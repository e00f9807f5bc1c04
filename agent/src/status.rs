//! The daemon's state in one file, `/run/surplus/status.json`, for
//! `surplus-agent status` and for support.
//!
//! What always holds: a reader sees the old text or the new one, never half of
//! one; no secret is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use surplus_protocol::inventory::Capacity;
use surplus_protocol::lease::LeaseStatus;

/// What the daemon says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// What is being done or waited for, in words.
    pub state: String,
    pub site: Option<String>,
    pub site_source: Option<String>,
    pub marketplace: Option<String>,
    pub host: Option<String>,
    pub key_storage: Option<String>,
    pub certificate_expires_at: Option<jiff::Timestamp>,
    pub last_sync_at: Option<jiff::Timestamp>,
    /// The last thing that went wrong, until it is cured.
    pub trouble: Option<String>,
    pub kvm: Option<String>,
    pub self_test: Option<String>,
    pub capacity: Option<Capacity>,
    pub leases: Vec<LeaseStatus>,
}

/// Keeps the file up to date.
#[derive(Clone, Debug)]
pub struct Board {
    path: Arc<PathBuf>,
    status: Arc<Mutex<Status>>,
}

impl Board {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let status = Status {
            version: crate::inventory::VERSION.to_owned(),
            ..Status::default()
        };
        Self {
            path: Arc::new(path.into()),
            status: Arc::new(Mutex::new(status)),
        }
    }

    /// Changes the status and writes it where that made a difference.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let before = status.clone();
        change(&mut status);
        if *status == before {
            return;
        }
        if status.state != before.state {
            crate::system::notify::status(&status.state);
        }
        if let Err(error) = write(&self.path, &status) {
            tracing::debug!(%error, path = %self.path.display(), "cannot write the status");
        }
    }

    pub fn current(&self) -> Status {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn write(path: &Path, status: &Status) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let next = path.with_extension("json.new");
    fs::write(&next, serde_json::to_vec_pretty(status)?)?;
    fs::rename(next, path)
}

/// Reads what a daemon wrote.
pub fn read(path: &Path) -> io::Result<Status> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The status for people: one fact a line.
pub fn describe(status: &Status) -> String {
    let mut lines = vec![
        format!("agent          {}", status.version),
        format!("state          {}", status.state),
    ];
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<14} {value}"));
        }
    };
    fact("site", status.site.clone());
    fact("site file from", status.site_source.clone());
    fact("marketplace", status.marketplace.clone());
    fact("host", status.host.clone());
    fact("key kept in", status.key_storage.clone());
    fact(
        "certificate to",
        status.certificate_expires_at.map(|at| at.to_string()),
    );
    fact("last sync", status.last_sync_at.map(|at| at.to_string()));
    fact("kvm", status.kvm.clone());
    fact("self-test", status.self_test.clone());
    if let Some(capacity) = &status.capacity {
        let sellable = capacity.sellable;
        fact(
            "for sale",
            Some(format!(
                "{} vCPU, {} MiB of memory, {} MB of disk, {} own addresses",
                sellable.vcpus,
                sellable.memory_bytes >> 20,
                sellable.disk_bytes / 1_000_000,
                sellable.addresses
            )),
        );
        fact("withheld", capacity.withheld.clone());
    }
    fact("trouble", status.trouble.clone());
    for lease in &status.leases {
        fact(
            "lease",
            Some(format!(
                "{} epoch {}: {:?}, {}",
                lease.lease, lease.epoch, lease.phase, lease.detail
            )),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_writes_another_process_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/status.json");
        let board = Board::at(&path);
        board.update(|status| status.state = "enrolling".to_owned());
        let read = read(&path).unwrap();
        assert_eq!(read, board.current());
        assert!(describe(&read).contains("state          enrolling"));
    }
}
