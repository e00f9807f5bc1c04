//! The REST interface for operators, buyers and programs, under `/api/v1`.
//!
//! | method and path | body → answer | role |
//! |---|---|---|
//! | `POST /keys` | [`CreateKey`] → [`CreatedKey`] | operator |
//! | `GET /keys`, `DELETE /keys/{name}` | → [`Vec<Key>`], – | operator |
//! | `POST /tokens` | [`CreateToken`] → [`CreatedToken`] | operator |
//! | `GET /tokens`, `DELETE /tokens/{name}` | → [`Vec<Token>`], – | operator |
//! | `POST /admission-rules` | [`CreateAdmissionRule`] → [`AdmissionRule`] | operator |
//! | `GET /admission-rules`, `DELETE /admission-rules/{id}` | → [`Vec<AdmissionRule>`], – | operator |
//! | `GET /trust` | → [`Trust`] | anyone |
//! | `GET /hosts`, `GET /hosts/{id}` | → [`Vec<Host>`], [`Host`] | operator |
//! | `POST /hosts/{id}/approve`, `…/reject` | → [`Host`] | operator |
//! | `POST /hosts/{id}/confirm-off` | → [`Host`]; what it ran is gone | operator |
//! | `GET /offers` | → [`Vec<Offer>`] | buyer |
//! | `GET /prices` | → [`PriceBook`] | buyer |
//! | `GET /images` | → [`Vec<Image>`] | buyer |
//! | `PUT /images/{digest}?name=…&format=…` | bytes → [`Image`] | buyer |
//! | `POST /quotes` | [`QuoteRequest`] → [`Quote`] | buyer |
//! | `POST /leases` | [`CreateLease`] → [`Lease`] | buyer |
//! | `GET /leases`, `GET /leases/{id}` | → [`Vec<Lease>`], [`Lease`] | buyer: own; operator: all |
//! | `POST /leases/{id}/end` | → [`Lease`] | the same |
//! | `GET /leases/{id}/console?offset=N&wait=S` | → bytes, [`CONSOLE_OFFSET`] header | the same |
//! | `GET /leases/{id}/bill` | → [`Bill`] | the same |
//!
//! Requests carry `Authorization: Bearer <API key>`. Refusals are
//! [`Problem`](crate::Problem) documents.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::admission::{Admission, AdmissionRule, CreateAdmissionRule, Selectors};
use crate::ids::{Epoch, HostId, KeyId, LeaseId, QuoteId, TokenId};
use crate::inventory::{Capacity, DiskRate, HardwareIdentity, Inventory, Resources};
use crate::lease::{
    DiskEnd, EndReason, Firmware, Forward, GuestPhase, GuestPort, ImageFormat, LeaseState,
    OnLostLink, UsageRecord,
};
use crate::{Digest, Money};

/// Answer header of a console read: the offset of the first byte sent. The
/// next read goes on at this plus the body's length.
pub const CONSOLE_OFFSET: &str = "surplus-console-offset";

/// Answer header of a console read: `true` once nothing more will come.
pub const CONSOLE_ENDED: &str = "surplus-console-ended";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    /// Runs the marketplace: tokens, hosts, keys, every lease.
    Operator,
    /// Rents: images, quotes, own leases and bills.
    Buyer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateKey {
    pub name: String,
    pub role: Role,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Key {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: KeyId,
    pub name: String,
    pub role: Role,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedKey {
    #[serde(flatten)]
    pub key: Key,
    /// Shown this once; only its hash is stored.
    pub secret: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateToken {
    pub name: String,
    /// How many hosts may enrol with it; none: any number.
    pub uses: Option<u32>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// Networks (CIDR) from which it may be used; empty: any.
    #[serde(default)]
    pub networks: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: TokenId,
    pub name: String,
    pub uses: Option<u32>,
    pub used: u32,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    pub networks: Vec<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedToken {
    #[serde(flatten)]
    pub token: Token,
    /// Shown this once; only its hash is stored.
    pub secret: String,
}

/// What a site file needs to trust this marketplace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trust {
    /// The CA's certificate, PEM.
    pub ca_pem: String,
    /// SHA-256 of the CA certificate's DER: `sha256:<hex>`.
    pub ca_fingerprint: String,
    /// Where agents reach the marketplace, as its operator configured it.
    pub urls: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HostState {
    /// Asked to join and may not yet: its detail says what it waits for.
    Pending,
    Enrolled,
    /// Two live machines under one identity: neither may do anything.
    Quarantined,
    Rejected,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Host {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: HostId,
    pub state: HostState,
    /// Why it is in that state, in one sentence.
    pub detail: String,
    pub site: String,
    /// The rack that its site file names; empty where it names none.
    pub rack: String,
    /// Where its key lives: `tpm`, `disk` or `ram`.
    pub key_storage: String,
    /// What its firmware says of it. Nothing of it is proved.
    pub identity: HardwareIdentity,
    pub cpu_model: String,
    /// As it said when it asked to join; 0 where it did not say.
    pub memory_bytes: u64,
    /// Where it asked to join or began its present boot from.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// Who let it in. On a pending host: it was approved, and waits for an
    /// earlier boot of its hardware to fall silent.
    pub admitted_by: Option<Admission>,
    /// When it joined; of a pending host, since when it asks.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub enrolled_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub certificate_expires_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_seen_at: Option<Timestamp>,
    /// Silent for longer than a sync may take. Says nothing about its guests.
    pub unreachable: bool,
    pub inventory: Option<Inventory>,
    pub capacity: Option<Capacity>,
    /// What is left to sell now.
    pub free: Resources,
    pub leases: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Offer {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub host: HostId,
    pub site: String,
    /// The largest guest that fits now (overhead taken off).
    pub free: Resources,
    pub cpu_model: String,
    /// `kvm` or `emulation`.
    pub accelerator: String,
    /// What a guest may send, and receive, in Mbit/s, where the host says so.
    pub guest_mbits: Option<u32>,
    /// What a guest may do with its disk; none where it is held to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_disk: Option<DiskRate>,
    /// What that largest guest would cost for an hour.
    pub price_per_hour: Money,
    pub currency: String,
}

/// Prices, fixed per version. A bill names the version that it was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PriceBook {
    pub version: u32,
    /// ISO 4217.
    pub currency: String,
    pub vcpu_hour: Money,
    /// Per GiB (2^30 bytes) of memory and hour.
    pub memory_gib_hour: Money,
    /// Per GB (10^9 bytes) of disk and month of 30 days.
    pub disk_gb_month: Money,
    /// Per address of a guest's own and hour; nothing in books of before there were any.
    #[serde(default)]
    pub address_hour: Money,
    /// Per GB (10^9 bytes) that the guest receives.
    pub traffic_in_gb: Money,
    /// Per GB (10^9 bytes) that the guest sends.
    pub traffic_out_gb: Money,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Image {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub digest: Digest,
    pub name: String,
    pub format: ImageFormat,
    pub size_bytes: u64,
    /// The disk that the image unfolds to.
    pub virtual_bytes: u64,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub added_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuoteRequest {
    pub resources: Resources,
    /// Length of the window, in seconds.
    pub seconds: u64,
    #[serde(default)]
    pub on_lost_link: OnLostLink,
    /// Only hosts of this site.
    #[serde(default)]
    pub site: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quote {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: QuoteId,
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub host: HostId,
    pub site: String,
    pub resources: Resources,
    pub seconds: u64,
    /// For the whole window, traffic apart.
    pub price: Money,
    pub currency: String,
    pub price_book: u32,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// Takes a quote.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateLease {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub quote: QuoteId,
    /// The guest's host name; a DNS label.
    pub name: String,
    /// Digest or name of an image.
    pub image: String,
    #[serde(default)]
    pub firmware: Firmware,
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    #[serde(default)]
    pub user_data: Option<String>,
    /// What of the guest shall be reached from outside; 16 at most.
    #[serde(default)]
    pub ports: Vec<GuestPort>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lease {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub id: LeaseId,
    pub name: String,
    pub state: LeaseState,
    /// Counts its placements.
    pub epoch: Epoch,
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub host: HostId,
    pub site: String,
    /// Placements that it lost and was placed anew after, oldest first.
    #[serde(default)]
    pub former: Vec<FormerPlacement>,
    pub resources: Resources,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub image: Digest,
    pub on_lost_link: OnLostLink,
    /// The host's last word on it.
    pub phase: Option<GuestPhase>,
    pub detail: String,
    pub addresses: Vec<String>,
    /// Where its ports are reached.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// The host is silent: what stands here is its last word.
    pub unreachable: bool,
    pub end_reason: Option<EndReason>,
    /// What became of its disk, as its host's receipt says.
    #[serde(default)]
    pub disk: Option<DiskEnd>,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub started_at: Option<Timestamp>,
    /// When it will end by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub ends_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub ended_at: Option<Timestamp>,
    /// Price for the whole window, traffic apart.
    pub price: Money,
    pub currency: String,
}

/// A placement of a lease that was lost through no act of buyer, guest or
/// owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FormerPlacement {
    pub epoch: Epoch,
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub host: HostId,
    pub reason: EndReason,
    /// When it was known to be gone.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub gone_at: Timestamp,
}

/// Whether so many enrolled hosts are silent at once that the fault is more
/// likely the marketplace's or the network's: then no lease is fenced or placed
/// anew. Two hosts may both be silent by chance; of three or more, over 30 %
/// hardly.
pub fn is_alarming(silent: usize, enrolled: usize) -> bool {
    enrolled > 2 && silent.saturating_mul(10) > enrolled.saturating_mul(3)
}

/// What a lease costs: a pure function of its usage records and one version of
/// the price book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bill {
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub lease: LeaseId,
    pub price_book: u32,
    pub currency: String,
    /// `true` once the lease is settled and the bill will not change.
    pub closed: bool,
    pub lines: Vec<BillLine>,
    pub total: Money,
    /// The last record of each epoch, which the lines are made from.
    pub usage: Vec<UsageRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BillLine {
    /// `vcpu`, `memory`, `disk`, `traffic_in`, `traffic_out`.
    pub item: String,
    /// Amount in `unit`.
    pub quantity: u64,
    /// `vcpu_millis`, `mib_millis`, `mb_millis` or `bytes`.
    pub unit: String,
    /// The price book's rate, as it stands there.
    pub rate: Money,
    pub amount: Money,
}
