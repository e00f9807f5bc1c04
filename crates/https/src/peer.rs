//! Who is at the other end of a connection, as handlers see it.

use std::net::SocketAddr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use surplus_pki::Certificate;

/// The peer of a request. The server puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the TCP connection came from.
    pub address: SocketAddr,
    /// Judged anew for each request: a connection outlives a certificate.
    pub certificate: PeerCertificate,
    pub tls_version: TlsVersion,
}

/// The certificate whose key the peer proved to hold. Whoever trusts it still
/// has to look it up in the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCertificate {
    None,
    /// Issued by one of our CAs, and valid now.
    Valid(Certificate),
    /// Issued by one of our CAs, and no longer valid: good for re-enrolling
    /// with the registered key, and for nothing else.
    Expired(Certificate),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Takes the [`Peer`] that [`crate::Server`] put there. Refused with status
/// 500 where a router is served by something else.
impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = http::StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}
