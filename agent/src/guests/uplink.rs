//! What guests need of the marketplace: their image, and a place for their
//! console. Implemented by whoever owns the connection.

use std::fmt;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use surplus_protocol::Digest;

use super::placement::Placement;

#[cfg(test)]
pub mod fake;

/// Bytes of an image, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes, UplinkError>>;

/// The way to the marketplace. Calls may be dropped at any time and repeated.
pub trait Uplink: Send + Sync + fmt::Debug {
    /// The image's bytes from `offset` to its end.
    fn image(&self, digest: Digest, offset: u64) -> BoxFuture<'_, Result<ByteStream, UplinkError>>;

    /// Hands over console bytes that begin at `offset`, and returns the offset
    /// that the marketplace expects next.
    fn console(
        &self,
        placement: Placement,
        offset: u64,
        bytes: Bytes,
    ) -> BoxFuture<'_, Result<u64, UplinkError>>;
}

/// Why the marketplace did not give or take something.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct UplinkError {
    /// One sentence: what was attempted, and what came back.
    pub what: String,
    /// Trying again can help (no connection, server error); otherwise the
    /// marketplace said no for good (no such image).
    pub retryable: bool,
}
