//! Which client certificates TLS lets in: those of our own CAs, also expired.
//!
//! A client that TLS rejects sees a bare reset. What we issued is therefore
//! let in and judged per request, where a refusal can say what to do next.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use surplus_pki::Certificate;

use super::SetupError;
use crate::clock::unix_time;

/// A certificate that expired longer ago than this is not ours any more.
const MAX_EXPIRED_SECONDS: u64 = 5 * 365 * 24 * 3600;

/// [`WebPkiClientVerifier`] that also lets in what expired.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    pub(super) fn new(
        authorities: &[Certificate],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, SetupError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority.der().clone())
                .map_err(SetupError::Authority)?;
        }
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        Ok(Self { inner })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now);
        let Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) = verified
        else {
            return verified;
        };
        let leaf = Certificate::from_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let end = unix_time(leaf.not_after());
        if now.as_secs().saturating_sub(end.as_secs()) > MAX_EXPIRED_SECONDS {
            return verified;
        }
        // All else must hold at the last moment of its life.
        self.inner
            .verify_client_cert(end_entity, intermediates, end)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
