//! What a server has to prove: a certificate of one CA, known whole or by its
//! fingerprint.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use surplus_pki::Certificate;

use crate::clock::unix_time;

/// How many certificates of a chain are named when none of them fits.
const MOST_SHOWN: usize = 3;

/// What a client believes in. The system's list of CAs is never asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// This CA.
    Authority(Certificate),
    /// The CA whose certificate has this SHA-256 (of its DER). The server has
    /// to send that certificate in its chain.
    Pin([u8; 32]),
}

/// Why a chain does not fit a pin.
#[derive(Debug, thiserror::Error)]
#[error(
    "its chain holds no CA certificate with the pinned fingerprint sha256:{}, {}",
    hex(pin),
    shown(seen)
)]
pub struct PinMismatch {
    pin: [u8; 32],
    /// Fingerprints of the CA certificates that the server sent instead.
    seen: Vec<[u8; 32]>,
}

fn shown(seen: &[[u8; 32]]) -> String {
    if seen.is_empty() {
        return "nor any other".to_owned();
    }
    let seen: Vec<_> = seen.iter().take(MOST_SHOWN).map(|one| hex(one)).collect();
    format!("but sha256:{}", seen.join(", sha256:"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Verifies servers by a [`Trust`].
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// Judge validity by the certificate's own start, and remember it.
    timeless: bool,
    seen: Mutex<Option<Certificate>>,
}

impl Verifier {
    pub(super) fn new(trust: Trust) -> Self {
        Self {
            trust,
            provider: crate::provider(),
            timeless: false,
            seen: Mutex::new(None),
        }
    }

    /// Takes certificates whatever the time is. The caller has to judge what
    /// [`seen`](Self::seen) returns.
    pub(super) fn timeless(trust: Trust) -> Self {
        Self {
            timeless: true,
            ..Self::new(trust)
        }
    }

    /// The certificate that was accepted last.
    pub(super) fn seen(&self) -> Option<Certificate> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn root(&self, chain: &[CertificateDer<'_>]) -> Result<CertificateDer<'static>, Error> {
        match &self.trust {
            Trust::Authority(certificate) => Ok(certificate.der().clone()),
            Trust::Pin(pin) => {
                let authorities: Vec<_> = chain
                    .iter()
                    .filter_map(|der| Certificate::from_der(der).ok())
                    .filter(Certificate::is_authority)
                    .collect();
                let pinned = authorities
                    .iter()
                    .find(|certificate| certificate.fingerprint() == *pin);
                pinned
                    .map(|certificate| certificate.der().clone())
                    .ok_or_else(|| {
                        let seen = authorities.iter().map(Certificate::fingerprint).collect();
                        let mismatch = Arc::new(PinMismatch { pin: *pin, seen });
                        Error::InvalidCertificate(CertificateError::Other(OtherError(mismatch)))
                    })
            }
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = Certificate::from_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let mut roots = RootCertStore::empty();
        roots.add(self.root(intermediates)?)?;
        let now = if self.timeless {
            unix_time(leaf.not_before())
        } else {
            now
        };
        let verified =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))?
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if self.timeless {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
