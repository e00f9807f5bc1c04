//! Makes what a guest needs before its domain: image, disk, seed, XML.
//!
//! Starts from an empty directory each time, so that what an earlier try left
//! half-made is never used.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use camino::Utf8PathBuf;
use surplus_protocol::lease::{Firmware, Ticket};

use super::disk::{DiskError, QemuImg};
use super::domain_xml::{self, DomainSpec, Owner};
use super::image::{ImageError, ImageStore};
use super::placement::Placement;
use super::seed;
use super::store::{Store, StoreError};
use super::uplink::Uplink;

/// What is needed to make guests.
#[derive(Clone, Debug)]
pub struct Workshop {
    pub store: Store,
    pub images: Arc<ImageStore>,
    pub uplink: Arc<dyn Uplink>,
    pub qemu_img: QemuImg,
    pub bridge: String,
    pub emulation: bool,
    /// OVMF's empty variable store.
    pub ovmf_vars: Utf8PathBuf,
    pub owner: Option<Owner>,
}

/// How far the fetch has come, for the lease's status.
#[derive(Debug, Default)]
pub struct Progress {
    pub bytes: AtomicU64,
    /// 0 while fetching, 1 once the image is there.
    pub fetched: AtomicU64,
}

/// Why a guest could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Store(#[from] StoreError),
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
            | Self::Store(_)
            | Self::Write { .. }
            | Self::Make { .. } => Cure::Few,
        }
    }
}

impl Workshop {
    /// Makes everything up to the domain's XML, which it returns.
    pub async fn prepare(
        &self,
        ticket: &Ticket,
        progress: &Progress,
    ) -> Result<String, PrepareError> {
        let guest = &ticket.guest;
        let placement = Placement::of(ticket);
        let count = |bytes| progress.bytes.store(bytes, Ordering::Relaxed);
        let image = self
            .images
            .fetch(self.uplink.as_ref(), guest.image, guest.image_bytes, &count)
            .await?;
        progress.fetched.store(1, Ordering::Relaxed);
        let disk_bytes = guest.resources.disk_bytes;
        self.qemu_img
            .check(&image, guest.image_format, disk_bytes)
            .await?;

        let write = |path: &Utf8PathBuf, source| PrepareError::Write {
            path: path.clone(),
            source,
        };
        let dir = self.store.make_guest_dir(placement)?;
        let disk = dir.join("disk.qcow2");
        let disk = self
            .qemu_img
            .overlay(&image, guest.image_format, &disk, disk_bytes)
            .await?;
        // No other guest's QEMU may read it; libvirt gives it to this one's.
        keep_private(&disk.path).map_err(|source| write(&disk.path, source))?;
        let volume = seed::volume(placement, guest).map_err(|source| PrepareError::Make {
            what: "NoCloud seed",
            source,
        })?;
        let seed = dir.join("seed.img");
        super::store::write_atomically(&seed, &volume, false)
            .map_err(|source| write(&seed, source))?;
        let variables = dir.join("vars.fd");
        if guest.firmware == Firmware::Uefi {
            let copied = tokio::fs::copy(&self.ovmf_vars, &variables).await;
            copied.map_err(|source| write(&variables, source))?;
            keep_private(&variables).map_err(|source| write(&variables, source))?;
        }
        let spec = DomainSpec {
            ticket,
            disk,
            seed,
            console: console_log(&self.store, placement),
            variables,
            bridge: &self.bridge,
            emulation: self.emulation,
            owner: self.owner,
        };
        spec.to_xml().map_err(|source| PrepareError::Make {
            what: "domain XML",
            source,
        })
    }
}

fn keep_private(path: &Utf8PathBuf) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// Where a guest's console is logged.
pub fn console_log(store: &Store, placement: Placement) -> Utf8PathBuf {
    store.guest_dir(placement).join("console.log")
}

/// OVMF's variable store as Debian ships it.
pub fn default_ovmf_vars() -> Utf8PathBuf {
    domain_xml::OVMF_VARS.into()
}
