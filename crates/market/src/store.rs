//! What the market keeps, behind a trait: SQL in the marketplace, memory in
//! simulations.
//!
//! A transaction sees its own writes and nobody else's; what was not committed
//! did not happen. Writing transactions behave as if they ran one after the
//! other.

use std::future::Future;

use jiff::Timestamp;
use surplus_protocol::Digest;
use surplus_protocol::api::PriceBook;
use surplus_protocol::ids::{AdmissionRuleId, Epoch, HostId, KeyId, LeaseId, QuoteId};
use surplus_protocol::lease::UsageRecord;

use crate::records::{
    AdmissionRuleRecord, HostRecord, ImageRecord, KeyRecord, LeaseRecord, ReceiptRecord,
    TokenRecord,
};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique value exists already.
    #[error("{what} exists already")]
    Exists { what: &'static str },
    /// Another transaction came between; trying again can help.
    #[error("another transaction came between")]
    Conflict,
    /// A transaction that only reads was asked to write.
    #[error("a transaction that only reads cannot write")]
    ReadOnly,
    /// The store itself failed.
    #[error("store failed at {attempt}")]
    Failed {
        attempt: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Which leases to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseFilter {
    All,
    /// Those of one buyer's key.
    Owner(KeyId),
    /// Those that hold a reservation.
    Live,
    /// Those that hold a reservation on one host.
    LiveOn(HostId),
    /// Those that ended and wait to be settled.
    Unsettled,
}

/// Where the market keeps its records.
pub trait Store: Clone + Send + Sync + 'static {
    type Tx: Tx;

    /// Begins a transaction that may write.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, StoreError>> + Send;

    /// Begins a transaction that only reads; it answers a write with
    /// [`StoreError::ReadOnly`]. It waits for no writer.
    fn read(&self) -> impl Future<Output = Result<Self::Tx, StoreError>> + Send;
}

type Answer<T> = Result<T, StoreError>;

/// One transaction. Dropped without [`Tx::commit`], it did nothing.
///
/// Lists come in a fixed order: tokens, keys and images by name, admission
/// rules by age, hosts and leases by id, usage by epoch.
pub trait Tx: Send + 'static {
    fn commit(self) -> impl Future<Output = Answer<()>> + Send;

    fn token(&mut self, hash: &Digest) -> impl Future<Output = Answer<Option<TokenRecord>>> + Send;
    fn tokens(&mut self) -> impl Future<Output = Answer<Vec<TokenRecord>>> + Send;
    /// Stores it under its id. Names are unique.
    fn put_token(&mut self, token: &TokenRecord) -> impl Future<Output = Answer<()>> + Send;
    /// Whether there was one of that name.
    fn delete_token(&mut self, name: &str) -> impl Future<Output = Answer<bool>> + Send;

    fn admission_rules(&mut self) -> impl Future<Output = Answer<Vec<AdmissionRuleRecord>>> + Send;
    /// Stores it under its id.
    fn put_admission_rule(
        &mut self,
        rule: &AdmissionRuleRecord,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Whether there was one.
    fn delete_admission_rule(
        &mut self,
        id: AdmissionRuleId,
    ) -> impl Future<Output = Answer<bool>> + Send;

    fn key(&mut self, hash: &Digest) -> impl Future<Output = Answer<Option<KeyRecord>>> + Send;
    fn keys(&mut self) -> impl Future<Output = Answer<Vec<KeyRecord>>> + Send;
    /// Stores it under its id. Names are unique.
    fn put_key(&mut self, key: &KeyRecord) -> impl Future<Output = Answer<()>> + Send;
    /// Whether there was one of that name.
    fn delete_key(&mut self, name: &str) -> impl Future<Output = Answer<bool>> + Send;

    fn host(&mut self, id: HostId) -> impl Future<Output = Answer<Option<HostRecord>>> + Send;
    /// The host whose key, or next key, this is.
    fn host_of_key(
        &mut self,
        key: &Digest,
    ) -> impl Future<Output = Answer<Option<HostRecord>>> + Send;
    fn hosts(&mut self) -> impl Future<Output = Answer<Vec<HostRecord>>> + Send;
    /// Stores it under its id. Keys are unique.
    fn put_host(&mut self, host: &HostRecord) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a host that never held a lease; whether there was one.
    fn delete_host(&mut self, id: HostId) -> impl Future<Output = Answer<bool>> + Send;
    /// Writes down when each host last got an answer.
    fn touch_hosts(
        &mut self,
        seen: &[(HostId, Timestamp)],
    ) -> impl Future<Output = Answer<()>> + Send;

    fn lease(&mut self, id: LeaseId) -> impl Future<Output = Answer<Option<LeaseRecord>>> + Send;
    fn lease_of_quote(
        &mut self,
        quote: QuoteId,
    ) -> impl Future<Output = Answer<Option<LeaseRecord>>> + Send;
    fn leases(
        &mut self,
        filter: LeaseFilter,
    ) -> impl Future<Output = Answer<Vec<LeaseRecord>>> + Send;
    fn put_lease(&mut self, lease: &LeaseRecord) -> impl Future<Output = Answer<()>> + Send;

    /// Forgets settled quotes that never became a lease and ran out before
    /// `before`; how many there were.
    fn purge_quotes(&mut self, before: Timestamp) -> impl Future<Output = Answer<u64>> + Send;

    /// Stores a record once by (lease, epoch, seq); whether it was new. A late
    /// record came after the bill was closed and does not count in it.
    fn add_usage(
        &mut self,
        record: &UsageRecord,
        late: bool,
    ) -> impl Future<Output = Answer<bool>> + Send;
    /// The last record of each epoch that is not late.
    fn usage(&mut self, lease: LeaseId) -> impl Future<Output = Answer<Vec<UsageRecord>>> + Send;

    /// The epochs for which a receipt came, in order.
    fn receipts(&mut self, lease: LeaseId) -> impl Future<Output = Answer<Vec<Epoch>>> + Send;
    /// Stores a receipt once by (lease, epoch); whether it was new.
    fn add_receipt(&mut self, receipt: &ReceiptRecord)
    -> impl Future<Output = Answer<bool>> + Send;

    fn images(&mut self) -> impl Future<Output = Answer<Vec<ImageRecord>>> + Send;
    /// Stores it under its owner and name, which must be free.
    fn put_image(&mut self, image: &ImageRecord) -> impl Future<Output = Answer<()>> + Send;
    /// Whether the owner had one of that name.
    fn delete_image(
        &mut self,
        owner: KeyId,
        name: &str,
    ) -> impl Future<Output = Answer<bool>> + Send;

    fn price_book(
        &mut self,
        version: u32,
    ) -> impl Future<Output = Answer<Option<PriceBook>>> + Send;
    /// Stores a version that is not there yet.
    fn add_price_book(&mut self, book: &PriceBook) -> impl Future<Output = Answer<()>> + Send;
}
