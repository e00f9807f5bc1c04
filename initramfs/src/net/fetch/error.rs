//! Why an attempt to fetch the root from one address ended.

use std::io;

/// An attempt's end; all but [`FetchError::Keep`] may go better elsewhere, or
/// later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("asking the server: {0}")]
    Ask(String),
    #[error("asking the server: {0}")]
    NoNameServer(String),
    #[error("the server answered {0}")]
    Status(String),
    #[error(
        "the file there has {found} bytes instead of {expected}: it is truncated, or the root of \
         another image"
    )]
    Size { found: u64, expected: u64 },
    #[error("the server answered with other bytes than it was asked for")]
    Range,
    #[error("the transfer ended at byte {at} of {of}: {why}")]
    Ended { at: u64, of: u64, why: String },
    #[error(
        "bytes {at} to {to} are not those of the root that belongs to this initramfs: they were \
         damaged or altered on the way, or it is the root of another image"
    )]
    Piece { at: u64, to: u64 },
    /// What was fetched cannot be kept in memory.
    #[error("keeping the root image in memory: {0}")]
    Keep(io::Error),
}

impl FetchError {
    /// What the person at the console can do, where trying again does not help.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Ask(_) => "check the boot server and the network to it",
            Self::NoNameServer(_) => {
                "write the boot server's address in numbers, or let DHCPv4 or DHCPv6 name a name \
                 server: one in router advertisements is not heard"
            }
            Self::Status(_) => "check that root.img lies at this address",
            Self::Size { .. } => {
                "put the root.img there that was built with this kernel and initrd"
            }
            Self::Range => "serve the file by a server that knows HTTP ranges",
            Self::Ended { .. } => "check the network to the boot server",
            Self::Piece { .. } => {
                "check the file there with the SHA256SUMS of this kernel and initrd"
            }
            Self::Keep(_) => "give this host more memory, or boot it from the ISO",
        }
    }
}
