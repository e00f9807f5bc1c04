//! What the market keeps: one record for each row of the store.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::admission::{Admission, Asker, Selectors};
use surplus_protocol::api::{HostState, Role};
use surplus_protocol::ids::{
    AdmissionRuleId, BootId, Epoch, Generation, HostId, KeyId, LeaseId, QuoteId, TokenId,
};
use surplus_protocol::inventory::{Capacity, HardwareIdentity, Inventory, Resources};
use surplus_protocol::lease::{DiskEnd, Forward, GuestPhase, GuestSpec, ImageFormat, OnLostLink};
use surplus_protocol::{Digest, Money};

use crate::lease::Lease;

/// A join token. Its secret is known to nobody but its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: Digest,
    pub uses: Option<u32>,
    pub used: u32,
    pub expires_at: Option<Timestamp>,
    pub networks: Vec<String>,
    pub created_at: Timestamp,
}

/// Lets hosts in without a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionRuleRecord {
    pub id: AdmissionRuleId,
    /// In their one form, and naming something.
    pub selectors: Selectors,
    pub uses: Option<u32>,
    pub used: u32,
    pub expires_at: Option<Timestamp>,
    /// Name of the API key that made it.
    pub created_by: String,
    pub created_at: Timestamp,
}

/// An API key of an operator or buyer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    pub id: KeyId,
    pub name: String,
    pub role: Role,
    /// SHA-256 of the secret.
    pub hash: Digest,
    pub created_at: Timestamp,
}

/// A host in the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRecord {
    pub id: HostId,
    pub state: HostState,
    /// Why it is in that state, in one sentence.
    pub detail: String,
    pub site: String,
    pub rack: String,
    pub key_storage: String,
    /// SHA-256 of the public key that it enrolled with (SubjectPublicKeyInfo).
    pub key: Digest,
    /// A new key that was certified and not used yet. With its first use it
    /// takes the old one's place; until then both are good, for the answer
    /// that brought its certificate may have been lost.
    pub next_key: Option<Digest>,
    pub identity: HardwareIdentity,
    pub cpu_model: String,
    /// As it said when it asked to join; 0 where it did not say.
    pub memory_bytes: u64,
    /// Where it asked to join or began its present boot from.
    pub address: Option<IpAddr>,
    /// Who let it in. On a pending host: it was approved, and waits for an
    /// earlier boot of its hardware to fall silent.
    pub admitted_by: Option<Admission>,
    /// When it joined; of a pending host, since when it asks.
    pub enrolled_at: Timestamp,
    pub certificate_expires_at: Timestamp,
    /// When it last got an answer, as last written down.
    pub last_seen_at: Option<Timestamp>,
    /// The boot that speaks for this host.
    pub boot: Option<BootId>,
    /// Boots that were followed by another, oldest first.
    pub former_boots: Vec<FormerBoot>,
    /// Of the present boot.
    pub inventory: Option<Inventory>,
    /// Of the present boot.
    pub capacity: Option<Capacity>,
    pub generation: Generation,
    /// The host that the same hardware is now. What was placed here is gone
    /// once that one speaks up.
    pub replaced_by: Option<HostId>,
}

impl HostRecord {
    /// The host as an admission rule sees it.
    pub fn asker(&self) -> Asker<'_> {
        Asker {
            from: self.address,
            rack: &self.rack,
            identity: &self.identity,
        }
    }
}

/// A boot that another one took over from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerBoot {
    pub boot: BootId,
    /// Where it called from.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// How often it spoke up after that.
    pub sightings: u32,
}

/// A quote, and the lease that it becomes when taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    pub id: LeaseId,
    pub quote: QuoteId,
    pub owner: KeyId,
    pub host: HostId,
    /// The site of its host.
    pub site: String,
    /// The site that its buyer asked for, if any: it is placed nowhere else.
    pub wanted_site: Option<String>,
    pub resources: Resources,
    /// Length of the window.
    pub seconds: u64,
    pub on_lost_link: OnLostLink,
    /// For the whole window, traffic apart.
    pub price: Money,
    pub currency: String,
    pub price_book: u32,
    pub quote_expires_at: Timestamp,
    pub created_at: Timestamp,
    /// When it ends by itself; from when the quote was taken.
    pub ends_at: Timestamp,
    /// The guest; none before the quote is taken.
    pub guest: Option<GuestSpec>,
    pub life: Lease,
    /// The host's last word on it.
    pub phase: Option<GuestPhase>,
    pub detail: String,
    pub addresses: Vec<String>,
    /// Where its ports are reached.
    pub forwards: Vec<Forward>,
    /// What became of its disk, by the last receipt.
    pub disk: Option<DiskEnd>,
}

/// The host's signed word that a guest is gone, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRecord {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub host: HostId,
    pub signed: String,
    pub received_at: Timestamp,
}

/// A guest image in the image store, under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    pub digest: Digest,
    pub name: String,
    pub format: ImageFormat,
    pub size_bytes: u64,
    pub virtual_bytes: u64,
    pub owner: KeyId,
    /// An operator's: every buyer may rent with it.
    pub public: bool,
    pub added_at: Timestamp,
}
