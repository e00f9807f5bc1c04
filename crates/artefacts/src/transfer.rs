//! Who fetches what, for those who want to watch.

use std::net::SocketAddr;

/// One answered request for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub peer: SocketAddr,
    pub name: String,
    pub user_agent: Option<String>,
    /// The first byte that was asked for.
    pub first: u64,
    /// Size of the whole file.
    pub total: u64,
}

/// Told of each transfer. Called on the way of the data: it must not block.
pub trait Observer: Send + Sync + 'static {
    fn begun(&self, transfer: &Transfer);
    /// The bytes up to `position` of the file were handed to the connection.
    fn sent(&self, transfer: &Transfer, position: u64);
}

/// Nobody watches.
impl Observer for () {
    fn begun(&self, _: &Transfer) {}
    fn sent(&self, _: &Transfer, _: u64) {}
}
