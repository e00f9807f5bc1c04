//! What the engine needs of the place where guests are made: everything of a
//! guest but its domain and what is remembered of it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;

use futures_util::future::BoxFuture;
use surplus_protocol::Digest;

use super::directories::DirectoryError;
use super::placement::Placement;
use super::prepare::PrepareError;
use super::record::Record;

/// Makes and removes guests' files. Every call may be repeated.
pub trait Workshop: Send + Sync + fmt::Debug {
    /// Makes image, disk and seed, from an empty directory each time, and
    /// returns the domain's XML. Dropped, it leaves what it had made.
    fn prepare<'a>(
        &'a self,
        record: &'a Record,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<String, PrepareError>>;

    /// Placements that have files on this host.
    fn placements(&self) -> Vec<Placement>;

    /// Removes everything of a guest; whether there was any.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] where something stays.
    fn remove(&self, placement: Placement) -> Result<bool, DirectoryError>;

    /// Whether a guest's files had a key that [`Workshop::remove`] destroyed with
    /// them. Without keys they lay in memory.
    fn destroys_keys(&self) -> bool {
        false
    }

    /// Says which images leases use; those stay.
    fn keep_images(&self, digests: BTreeSet<Digest>);

    /// Sees to it that the guest's console is handed to the marketplace.
    fn follow_console(&self, placement: Placement);

    /// The guest is gone: what is left of its console is still handed over.
    /// Before [`Workshop::remove`].
    fn end_console(&self, placement: Placement);
}

/// How far a guest has come, for the lease's status.
#[derive(Debug, Default)]
pub struct Progress {
    /// Of its image.
    pub bytes: AtomicU64,
    /// 0 while fetching, 1 once the image is there.
    pub fetched: AtomicU64,
}
