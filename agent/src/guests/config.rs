//! What the guests of a host depend on, fixed at the start.

use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::inventory::NumaNode;
use surplus_site::DiskRate;

use super::disk::QemuImg;
use super::forwards::{Forwards, Nowhere};
use super::keys::{InMemory, KernelKeys, Keys};
use super::prepare;
use crate::storage::Volume;
use crate::system::notify::Pulse;

/// Where guests live and how they are treated.
#[derive(Clone, Debug)]
pub struct GuestsConfig {
    /// This host and this boot of it: tickets for others are refused.
    pub host: HostId,
    pub boot: BootId,
    /// Records (`/var/lib/surplus`).
    pub state_dir: Utf8PathBuf,
    /// Images and guests' files: the state directory too, or a volume.
    pub files_dir: Utf8PathBuf,
    /// What makes guests' files unreadable once they are gone.
    pub keys: Arc<dyn Keys>,
    /// The bridge that guests are plugged into.
    pub bridge: String,
    /// Run guests under emulation; only where the site file asks for it.
    pub emulation: bool,
    /// How long a guest has to power off by itself before it is destroyed.
    pub shutdown_grace: Duration,
    /// How often it is looked whether all is as it shall be, at least.
    pub look_interval: Duration,
    /// How often the counters of running guests are read.
    pub sample_interval: Duration,
    /// How often a usage record is made.
    pub record_interval: Duration,
    /// The most that cached images may take, in bytes.
    pub image_cache_bytes: Option<u64>,
    /// Hands on what comes to the host's ports.
    pub forwards: Arc<dyn Forwards>,
    /// So many seats, the first ones, are for guests with an address of their own.
    pub own_addresses: u16,
    /// The group that QEMU runs as, under each guest's own user; libvirt's
    /// default for both where `None`.
    pub group: Option<u32>,
    /// Guests' memory is the pages of 2 MiB that the owner reserved.
    pub huge_pages: bool,
    /// The host's nodes: a guest lives on one of them where it can.
    pub numa_nodes: Vec<NumaNode>,
    /// What each vCPU may do with the owner's disks.
    pub disk_rate: DiskRate,
    pub qemu_img: QemuImg,
    pub ovmf_vars: Utf8PathBuf,
    /// Where libvirt writes QEMU's logs, one per domain.
    pub qemu_log_dir: Utf8PathBuf,
    /// Where the guard reads until when guests may run.
    pub deadlines_dir: Utf8PathBuf,
    /// Beats at every step of the work.
    pub pulse: Pulse,
}

impl GuestsConfig {
    /// The usual treatment.
    pub fn new(host: HostId, boot: BootId, state_dir: &Utf8Path) -> Self {
        Self {
            host,
            boot,
            state_dir: state_dir.to_owned(),
            files_dir: state_dir.to_owned(),
            keys: Arc::new(InMemory),
            bridge: surplus_seat::BRIDGE.into(),
            emulation: false,
            shutdown_grace: Duration::from_secs(10),
            look_interval: Duration::from_secs(10),
            sample_interval: Duration::from_secs(60),
            record_interval: Duration::from_secs(300),
            image_cache_bytes: None,
            forwards: Arc::new(Nowhere),
            own_addresses: 0,
            group: None,
            huge_pages: false,
            numa_nodes: Vec::new(),
            disk_rate: DiskRate::default(),
            qemu_img: QemuImg::default(),
            ovmf_vars: prepare::default_ovmf_vars(),
            qemu_log_dir: "/var/log/libvirt/qemu".into(),
            deadlines_dir: surplus_guard::deadline::DIRECTORY.into(),
            pulse: Pulse::default(),
        }
    }

    /// Keeps guests' files on the volume, each guest's under a key of its own.
    pub fn keep_on(&mut self, volume: &Volume) {
        self.keys = Arc::new(KernelKeys::new(&volume.path));
        self.files_dir.clone_from(&volume.path);
    }
}
