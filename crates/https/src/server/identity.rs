//! The certificate that the server shows, exchangeable while it runs.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use surplus_pki::{Certificate, KeyPair};

/// Key and certificate chain of a server. Clones share what they show.
#[derive(Clone)]
pub struct ServerIdentity(Arc<RwLock<Arc<CertifiedKey>>>);

/// Why key and certificate make no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the server's certificate is for another key")]
    Mismatch,
    #[error("cannot use the server's key for TLS")]
    Key(#[source] rustls::Error),
}

impl ServerIdentity {
    /// Shows `certificate` and then `authority`, its CA: clients that pinned
    /// the CA look for it in the chain.
    pub fn new(
        key: &KeyPair,
        certificate: &Certificate,
        authority: &Certificate,
    ) -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(RwLock::new(certified(
            key,
            certificate,
            authority,
        )?))))
    }

    /// From the next handshake on, shows this instead.
    pub fn replace(
        &self,
        key: &KeyPair,
        certificate: &Certificate,
        authority: &Certificate,
    ) -> Result<(), IdentityError> {
        let next = certified(key, certificate, authority)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

fn certified(
    key: &KeyPair,
    certificate: &Certificate,
    authority: &Certificate,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    if key.fingerprint() != certificate.key_fingerprint() {
        return Err(IdentityError::Mismatch);
    }
    let signer =
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::from(key.to_pkcs8_der()))
            .map_err(IdentityError::Key)?;
    let chain = vec![certificate.der().clone(), authority.der().clone()];
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerIdentity")
    }
}
