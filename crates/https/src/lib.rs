//! HTTP over TLS as Surplus speaks it.
//!
//! Owns the accept loop that tells handlers who the peer is, and the client
//! that trusts one CA or one pin. What always holds: no TLS session is resumed
//! on either side, so every connection has proved its certificate; a server
//! takes client certificates of its own CAs alone; a client trusts what it was
//! told to trust and never the system's list.

pub mod client;
pub mod clock;
pub mod peer;
pub mod problem;
pub mod server;

pub use client::{Body, Client, ClientError, Response, Trust};
pub use clock::Clock;
pub use peer::{Peer, PeerCertificate, TlsVersion};
pub use problem::ProblemResponse;
pub use server::{Server, ServerIdentity};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
