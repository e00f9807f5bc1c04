//! What is leased, the order that runs it, and what the host reports of it.

use std::fmt;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BootId, Epoch, HostId, KeyId, LeaseId, QuoteId};
use crate::inventory::Resources;
use crate::{Digest, Money};

/// The guest as the buyer ordered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestSpec {
    /// The guest's host name: a DNS label.
    pub name: String,
    pub resources: Resources,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub image: Digest,
    pub image_format: ImageFormat,
    /// Length of the image file, in bytes.
    pub image_bytes: u64,
    #[serde(default)]
    pub firmware: Firmware,
    /// Public keys in OpenSSH's one-line format.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// cloud-init user data, handed on as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    #[serde(default)]
    pub on_lost_link: OnLostLink,
    /// What of the guest is reached from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<GuestPort>,
}

/// Ports of one guest that may be forwarded.
pub const MAX_PORTS: usize = 16;

/// A port of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestPort {
    pub transport: Transport,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where a port of a guest is reached: the host hands on what comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Forward {
    #[serde(flatten)]
    pub guest: GuestPort,
    /// The host's address on its site's network.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: Ipv4Addr,
    pub host_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vmdk,
    Vhd,
    Vhdx,
    /// An OVF package in one file, with one VMDK disk.
    Ova,
}

impl ImageFormat {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Ova => "ova",
        }
    }

    /// Whether a host converts it before guests run from it.
    pub fn is_foreign(self) -> bool {
        !matches!(self, Self::Raw | Self::Qcow2)
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

/// What happens to the guest when host and marketplace lose each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "clause", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnLostLink {
    /// It runs to the lease's end and is never started elsewhere meanwhile.
    #[default]
    Keep,
    /// The host stops it this long after its last acknowledged sync. Lost by
    /// this, or with its host, it is started afresh from its image on a host
    /// that has room, for the rest of its window.
    Fence { after_seconds: u32 },
}

/// The order to run a lease on one host, in one boot of it. It travels signed
/// (see [`SignedTicket`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub host: HostId,
    pub boot: BootId,
    pub issued_at: Timestamp,
    /// The guest may not be *started* after this time.
    pub not_after: Timestamp,
    /// The lease's end: the host stops the guest then, by itself.
    pub ends_at: Timestamp,
    pub guest: GuestSpec,
    /// None in tickets of before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// The same ticket without what the guest alone needs (keys, user data), for
    /// the receipt. None where the host was known to run the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<SignedTicket>,
    /// On the host, the text that this was read from; never part of that text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<SignedTicket>,
}

/// What the lease was taken for. With the rest of the ticket it is all that
/// there is to know of a lease, so that a marketplace whose store was restored
/// from an older backup learns of the lease from its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub quote: QuoteId,
    /// The buyer's API key.
    pub owner: KeyId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_site: Option<String>,
    /// Length of the window.
    pub seconds: u64,
    /// For the whole window, traffic apart.
    pub price: Money,
    pub currency: String,
    pub price_book: u32,
    pub created_at: Timestamp,
}

/// A [`Ticket`] as JWS compact serialisation (RFC 7515), ES256, with the
/// signer's certificate chain in `x5c`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedTicket(pub String);

/// Where a lease stands. Unreachable is a flag beside it, not a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LeaseState {
    Quoted,
    Reserved,
    Preparing,
    Active,
    Reclaiming,
    /// Its placement is gone, and another host is looked for.
    Lost,
    Draining,
    Ended,
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EndReason {
    /// The window was over.
    Expired,
    /// The buyer ended it.
    Ended,
    /// The operator or the owner ended it.
    Reclaimed,
    /// The guest shut itself down.
    GuestStopped,
    /// The host could not start it.
    StartFailed,
    /// The host came back from a reboot without it.
    HostRebooted,
    /// The quote ran out before the lease was taken.
    QuoteExpired,
    /// The link was lost for longer than the lease's `fence` clause allows.
    LinkLost,
}

/// What the host says of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseStatus {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub phase: GuestPhase,
    /// One sentence on what is being done or waited for.
    pub detail: String,
    /// Addresses the guest was given, where known.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Where its ports are reached, while it runs.
    #[serde(default)]
    pub forwards: Vec<Forward>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum GuestPhase {
    /// The image is being fetched and verified.
    Fetching,
    /// Disk, seed and domain are being made.
    Preparing,
    Running,
    /// A retry may cure it; the host goes on trying until the ticket's
    /// `not_after`.
    Retrying,
    Stopping,
}

/// Cumulative counters of one lease, epoch by epoch. `seq` counts the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageRecord {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub seq: u64,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub measured_at: Timestamp,
    /// Time in which the guest ran, in milliseconds. What is billed.
    pub running_millis: u64,
    /// CPU time that the guest used, in milliseconds. For information.
    pub cpu_millis: u64,
    /// Bytes that the guest received.
    pub rx_bytes: u64,
    /// Bytes that the guest sent.
    pub tx_bytes: u64,
}

/// The host's word that a guest is gone and nothing of it is left. It travels
/// signed by the host's key (see [`SignedReceipt`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReceipt {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub host: HostId,
    pub boot: BootId,
    pub reason: EndReason,
    /// One sentence for the buyer, for instance why the start failed.
    pub detail: String,
    /// When the guest first ran, if it did.
    pub started_at: Option<Timestamp>,
    pub ended_at: Timestamp,
    /// The last record of this epoch; the bill can be closed with it.
    pub usage: UsageRecord,
    /// The ticket's own claim: with it the receipt is believed also by a
    /// marketplace whose store forgot that it placed the lease there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<SignedTicket>,
    /// What became of the guest's disk. None where it never had one, and from
    /// older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskEnd>,
}

/// What became of a guest's disk, with all else that the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DiskEnd {
    /// It lay in the host's memory, and the memory was given back.
    MemoryFreed,
    /// It lay on a disk of the host, under a random key that was its alone and
    /// only in the kernel's memory. From this time on there was no such key.
    KeyDestroyed {
        #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
        at: Timestamp,
    },
}

/// An [`EndReceipt`] as JWS compact serialisation (RFC 7515), ES256, signed
/// with the key of the host's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedReceipt(pub String);
