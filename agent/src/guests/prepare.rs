//! The workshop of a real host: makes what a guest needs before its domain
//! (image, disk, seed, XML), and clears it away.
//!
//! Starts from an empty directory each time, so that what an earlier try left
//! half-made is never used.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use camino::Utf8PathBuf;
use futures_util::future::BoxFuture;
use surplus_protocol::Digest;
use surplus_protocol::inventory::NumaNode;
use surplus_protocol::lease::Firmware;
use surplus_site::DiskRate;

use super::base;
use super::config::GuestsConfig;
use super::consoles::Consoles;
use super::directories::{Directories, DirectoryError};
use super::disk::{DiskError, QemuImg};
use super::domain_xml::{self, DomainSpec};
use super::image::{ImageError, ImageStore};
use super::placement::Placement;
use super::record::Record;
use super::seed;
use super::uplink::Uplink;
use super::workshop::{Progress, Workshop};

/// The workshop on this host's own disk.
#[derive(Debug)]
pub struct LocalWorkshop {
    directories: Directories,
    images: ImageStore,
    consoles: Consoles,
    uplink: Arc<dyn Uplink>,
    qemu_img: QemuImg,
    bridge: String,
    emulation: bool,
    /// OVMF's empty variable store.
    ovmf_vars: Utf8PathBuf,
    group: Option<u32>,
    huge_pages: bool,
    numa_nodes: Vec<NumaNode>,
    disk_rate: DiskRate,
    qemu_log_dir: Utf8PathBuf,
}

/// Why a guest could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("could not write {path}")]
    Write {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("could not make the {what}")]
    Make {
        what: &'static str,
        source: io::Error,
    },
}

/// What trying again can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// Nothing is wrong with the lease: try until its ticket runs out.
    Time,
    /// Try a few times.
    Few,
    None,
}

impl PrepareError {
    pub fn cure(&self) -> Cure {
        match self {
            Self::Image(ImageError::Unreachable { .. } | ImageError::NoRoom { .. }) => Cure::Time,
            Self::Image(ImageError::Refused { .. }) => Cure::None,
            Self::Disk(error) if error.is_final() => Cure::None,
            Self::Image(_)
            | Self::Disk(_)
            | Self::Directory(_)
            | Self::Write { .. }
            | Self::Make { .. } => Cure::Few,
        }
    }
}

impl LocalWorkshop {
    /// Makes the directories where they are missing.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] where one cannot be made.
    pub fn open(config: &GuestsConfig, uplink: Arc<dyn Uplink>) -> Result<Self, DirectoryError> {
        let directories = Directories::open(&config.files_dir, Arc::clone(&config.keys))?;
        Ok(Self {
            images: ImageStore::new(directories.images(), config.image_cache_bytes),
            directories,
            consoles: Consoles::new(),
            uplink,
            qemu_img: config.qemu_img.clone(),
            bridge: config.bridge.clone(),
            emulation: config.emulation,
            ovmf_vars: config.ovmf_vars.clone(),
            group: config.group,
            huge_pages: config.huge_pages,
            numa_nodes: config.numa_nodes.clone(),
            disk_rate: config.disk_rate,
            qemu_log_dir: config.qemu_log_dir.clone(),
        })
    }

    async fn make(&self, record: &Record, progress: &Progress) -> Result<String, PrepareError> {
        let (ticket, seat) = (&record.ticket, record.seat);
        let guest = &ticket.guest;
        let placement = Placement::of(ticket);
        let count = |bytes| progress.bytes.store(bytes, Ordering::Relaxed);
        let (images, uplink) = (&self.images, self.uplink.as_ref());
        let base = base::ready(images, &self.qemu_img, uplink, guest, &count).await?;
        progress.fetched.store(1, Ordering::Relaxed);

        let write = |path: &Utf8PathBuf, source| PrepareError::Write {
            path: path.clone(),
            source,
        };
        let dir = self.directories.renew(placement)?;
        let disk = dir.join("disk.qcow2");
        let disk_bytes = guest.resources.disk_bytes;
        let disk = self.qemu_img.overlay(&base, &disk, disk_bytes).await?;
        // No other guest's QEMU may read it; libvirt gives it to this one's.
        keep_private(&disk.path).map_err(|source| write(&disk.path, source))?;
        let volume = seed::volume(placement, seat, guest).map_err(|source| PrepareError::Make {
            what: "NoCloud seed",
            source,
        })?;
        let seed = dir.join("seed.img");
        super::directories::replace(&seed, &volume).map_err(|source| write(&seed, source))?;
        let variables = dir.join("vars.fd");
        if guest.firmware == Firmware::Uefi {
            let copied = tokio::fs::copy(&self.ovmf_vars, &variables).await;
            copied.map_err(|source| write(&variables, source))?;
            keep_private(&variables).map_err(|source| write(&variables, source))?;
        }
        let spec = DomainSpec {
            ticket,
            seat,
            disk,
            disk_rate: self.directories.have_keys().then_some(self.disk_rate),
            seed,
            console: self.directories.console_log(placement),
            variables,
            bridge: &self.bridge,
            emulation: self.emulation,
            group: self.group,
            huge_pages: self.huge_pages,
            node: self.numa_nodes.iter().find(|it| record.node == Some(it.id)),
        };
        spec.to_xml().map_err(|source| PrepareError::Make {
            what: "domain XML",
            source,
        })
    }

    /// `<domain>.log`, and `<domain>.log.0` and so on once it was rotated.
    fn remove_qemu_logs(&self, placement: Placement) {
        let log = format!("{}.log", placement.domain_name());
        let entries = self.qemu_log_dir.read_dir_utf8();
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            let rest = entry.file_name().strip_prefix(&log);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(%placement, %error, path = %entry.path(), "QEMU's log stays");
            }
        }
    }
}

impl Workshop for LocalWorkshop {
    fn prepare<'a>(
        &'a self,
        record: &'a Record,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<String, PrepareError>> {
        Box::pin(self.make(record, progress))
    }

    fn placements(&self) -> Vec<Placement> {
        self.directories.placements()
    }

    fn remove(&self, placement: Placement) -> Result<bool, DirectoryError> {
        let removed = self.directories.remove(placement)?;
        self.remove_qemu_logs(placement);
        Ok(removed)
    }

    fn destroys_keys(&self) -> bool {
        self.directories.have_keys()
    }

    fn keep_images(&self, digests: BTreeSet<Digest>) {
        self.images.keep(digests);
    }

    fn follow_console(&self, placement: Placement) {
        let log = self.directories.console_log(placement);
        self.consoles.follow(placement, &log, &self.uplink);
    }

    fn end_console(&self, placement: Placement) {
        let log = self.directories.console_log(placement);
        self.consoles.end(placement, &log);
    }
}

fn keep_private(path: &Utf8PathBuf) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// OVMF's variable store as Debian ships it.
pub fn default_ovmf_vars() -> Utf8PathBuf {
    domain_xml::OVMF_VARS.into()
}
