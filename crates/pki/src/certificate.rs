//! Certificates as they are read: DER that was parsed once, so that what is
//! asked of it later cannot fail.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::names::Names;

/// What a certificate of ours is for, told by its extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A host: client authentication.
    Host,
    /// The marketplace's TLS port: server authentication.
    Server,
    /// Signs tickets: document signing (RFC 9336).
    TicketSigner,
}

/// `id-kp-documentSigning` (RFC 9336).
pub(crate) const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];
const DOCUMENT_SIGNING_TEXT: &str = "1.3.6.1.5.5.7.3.36";

/// An X.509 certificate. Cheap to clone.
#[derive(Clone)]
pub struct Certificate(Arc<Parsed>);

struct Parsed {
    der: CertificateDer<'static>,
    names: Names,
    not_before: Timestamp,
    not_after: Timestamp,
    spki: Vec<u8>,
    serial: String,
    is_authority: bool,
    role: Option<Role>,
}

/// Why bytes are not a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read the certificate: expected one PEM block `CERTIFICATE`")]
    NotPem,
    #[error("cannot read the certificate: it is not X.509 in DER")]
    NotX509,
    #[error("cannot read the certificate: its validity lies outside of the calendar")]
    Validity,
}

impl Certificate {
    /// Parses exactly one certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|_| CertificateError::NotX509)?;
        if !rest.is_empty() {
            return Err(CertificateError::NotX509);
        }
        let time = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|_| CertificateError::Validity)
        };
        Ok(Self(Arc::new(Parsed {
            der: CertificateDer::from(der.to_vec()),
            names: Names::parse(
                parsed.subject(),
                parsed.iter_extensions().map(|e| e.parsed_extension()),
            ),
            not_before: time(parsed.validity().not_before)?,
            not_after: time(parsed.validity().not_after)?,
            spki: parsed.public_key().raw.to_vec(),
            serial: hex::encode(parsed.raw_serial()),
            is_authority: parsed.is_ca(),
            role: role(&parsed),
        })))
    }

    /// Reads the first PEM block, which must be a certificate.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let block = pem::parse(text).map_err(|_| CertificateError::NotPem)?;
        if block.tag() != "CERTIFICATE" {
            return Err(CertificateError::NotPem);
        }
        Self::from_der(block.contents())
    }

    pub fn to_pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", self.der().to_vec()), config)
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// The subject's common name: a host's id in a host's certificate.
    pub fn common_name(&self) -> Option<&str> {
        self.0.names.common_name()
    }

    /// The DNS names among the subject alternative names.
    pub fn dns_names(&self) -> Vec<&str> {
        self.0.names.dns_names().collect()
    }

    /// Subject and alternative names, to compare with another's.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }

    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// Whether `now` lies within the validity.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before() <= now && now <= self.not_after()
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// SHA-256 of the public key: equal to [`crate::KeyPair::fingerprint`] of
    /// the key that it certifies.
    pub fn key_fingerprint(&self) -> [u8; 32] {
        crate::sha256(&self.0.spki)
    }

    /// The serial number's bytes in hexadecimal digits.
    pub fn serial_hex(&self) -> &str {
        &self.0.serial
    }

    /// SHA-256 of the DER: what a pin names.
    pub fn fingerprint(&self) -> [u8; 32] {
        crate::sha256(self.der())
    }

    /// Whether it may issue others (basic constraints).
    pub fn is_authority(&self) -> bool {
        self.0.is_authority
    }

    /// What it is for; `None` when it is not one of the kinds that we issue.
    pub fn role(&self) -> Option<Role> {
        self.0.role
    }

    /// Whether `issuer` is an authority, bears the name that this names as its
    /// issuer, and its key made this signature. Says nothing about validity in
    /// time.
    pub fn is_issued_by(&self, issuer: &Self) -> bool {
        let (Ok((_, this)), Ok((_, authority))) = (
            X509Certificate::from_der(self.der()),
            X509Certificate::from_der(issuer.der()),
        ) else {
            return false;
        };
        issuer.is_authority()
            && this.issuer().as_raw() == authority.subject().as_raw()
            && this.verify_signature(Some(authority.public_key())).is_ok()
    }
}

fn role(certificate: &X509Certificate<'_>) -> Option<Role> {
    let usage = certificate.extended_key_usage().ok()??.value;
    match (usage.client_auth, usage.server_auth, usage.other.as_slice()) {
        (true, false, []) => Some(Role::Host),
        (false, true, []) => Some(Role::Server),
        (false, false, [other]) if other.to_id_string() == DOCUMENT_SIGNING_TEXT => {
            Some(Role::TicketSigner)
        }
        _ => None,
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der() == other.der()
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("common_name", &self.common_name())
            .field("serial", &self.serial_hex())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}
