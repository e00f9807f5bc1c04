//! What a host is made of, and what of it can be sold.

use serde::{Deserialize, Serialize};

/// A host's hardware, as its agent reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inventory {
    pub identity: HardwareIdentity,
    pub cpu: Cpu,
    /// Memory that the kernel manages (`MemTotal`), in bytes.
    pub memory_bytes: u64,
    pub numa_nodes: Vec<NumaNode>,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub kvm: KvmProbe,
    /// `true` when the host booted by UEFI, `false` by BIOS.
    pub uefi: bool,
    /// Version of the agent, and hash of the root file system it runs from.
    pub agent_version: String,
    pub root_hash: String,
    pub kernel: String,
    /// Where the root came from; not known of older agents.
    #[serde(default)]
    pub booted_from: Option<BootSource>,
    /// What came of the host's attacks on itself; empty until they were made, and
    /// of older agents.
    #[serde(default)]
    pub self_test: Vec<SelfCheck>,
}

/// Something that a host tries on itself at its start, as a guest would or somebody
/// who broke out of one. Where anything comes through it offers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SelfCheck {
    /// `forged-frames`, `neighbour`, `host` and the like.
    pub name: String,
    /// How much was tried.
    pub attempts: u32,
    /// What came through, or why nothing could be tried.
    pub failure: Option<String>,
}

/// Where a host's root file system came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BootSource {
    /// A CD, stick or disk, as the kernel names it.
    Medium { device: String },
    /// Fetched from `url` by way of the card that the kernel names `interface`.
    Network { url: String, interface: String },
}

/// What the firmware says of the machine (DMI/SMBIOS). Not unique in the
/// field: boards with the same UUID, or all zeroes, exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HardwareIdentity {
    pub system_uuid: Option<String>,
    pub system_serial: Option<String>,
    pub board_serial: Option<String>,
    pub vendor: Option<String>,
    pub product: Option<String>,
    /// Permanent MAC addresses of the physical NICs, sorted.
    pub macs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cpu {
    pub model: String,
    pub vendor: String,
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
    pub flags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NumaNode {
    pub id: u32,
    pub memory_bytes: u64,
    pub cpus: Vec<u32>,
}

/// A disk, and the one reason why it is used or left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Disk {
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub size_bytes: u64,
    pub rotational: bool,
    pub used: bool,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Nic {
    pub name: String,
    pub mac: String,
    pub driver: Option<String>,
    pub link: bool,
    /// Negotiated speed in Mbit/s, where the driver knows it.
    pub speed_mbits: Option<u32>,
    pub addresses: Vec<String>,
}

/// Whether a guest really runs under KVM here: a tiny one was started, which
/// opening `/dev/kvm` does not prove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KvmProbe {
    /// The probe has not finished.
    #[default]
    Pending,
    /// A guest ran; `millis` from start to its first sign of life.
    Works { millis: u64 },
    /// No guest ran. The host offers nothing, unless its site file asks for
    /// emulation.
    Fails { reason: String },
    /// Guests run under emulation because the site file asks for it (tests).
    Emulated,
}

/// An amount of each resource that is sold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Addresses on the network that guests leave by, each one guest's alone. Others
    /// are behind their host's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub addresses: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Resources {
    /// `self − other` in each resource, or `None` where any would fall below
    /// zero. Addresses come and go with the site's network: where fewer are there
    /// than are taken none is left, and of the rest as much as before.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            vcpus: self.vcpus.checked_sub(other.vcpus)?,
            memory_bytes: self.memory_bytes.checked_sub(other.memory_bytes)?,
            disk_bytes: self.disk_bytes.checked_sub(other.disk_bytes)?,
            addresses: self.addresses.saturating_sub(other.addresses),
        })
    }

    pub fn saturating_add(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
            addresses: self.addresses.saturating_add(other.addresses),
        }
    }
}

/// What a guest may do with its disk in a second, for each vCPU that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskRate {
    /// Reads and writes.
    pub operations: u32,
    /// Millions of bytes, read and written.
    pub mbytes: u32,
}

/// What a host can surely deliver, all leases ended: its total after reserve.
///
/// A lease takes its [`Resources`] plus `guest_overhead` from `sellable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// Grows with each change on the host since its boot, also when the agent
    /// was restarted.
    pub generation: u64,
    pub sellable: Resources,
    /// What each guest costs beyond what it was sold (QEMU's own memory, seed
    /// disk).
    pub guest_overhead: Resources,
    /// What is kept for the host itself, for the register.
    pub reserve: Resources,
    /// What each guest may send, and receive, in Mbit/s; not known of older agents.
    #[serde(default)]
    pub guest_mbits: Option<u32>,
    /// What each guest may do with its disk; none where it is held to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_disk: Option<DiskRate>,
    /// Why nothing is offered, when `sellable` is zero for a reason that the
    /// operator can mend.
    pub withheld: Option<String>,
}
