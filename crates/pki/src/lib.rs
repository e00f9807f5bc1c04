//! Keys, certificates, the marketplace's CA, EST's formats and signed
//! documents.
//!
//! Owns everything that is X.509, PKCS or JWS. Reads no clock: where validity
//! matters, `now` is an argument. A certificate is always issued for the key of
//! a request alone; no name, extension or attribute of a request is copied.

pub mod authority;
pub mod certificate;
pub mod est;
pub mod jws;
pub mod key;
pub mod names;
pub mod request;

pub use authority::Authority;
pub use certificate::{Certificate, Role};
pub use key::KeyPair;
pub use request::CertificateRequest;

/// The domain under which each host has its name: `<host id>.host.surplus.internal`.
pub const HOST_DOMAIN: &str = "host.surplus.internal";

/// The DNS name of the host with this id.
pub fn host_dns_name(host: &str) -> String {
    format!("{host}.{HOST_DOMAIN}")
}

/// SHA-256 of `bytes`.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
