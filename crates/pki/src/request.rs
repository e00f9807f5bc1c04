//! Certificate requests (PKCS#10, RFC 2986): made by hosts, read by the
//! marketplace. A request that exists as a value has proved possession of its
//! key: its signature was verified when it was read.

use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::certificate::Certificate;
use crate::key::KeyPair;
use crate::names::Names;

/// A certificate request whose signature was verified.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    der: Vec<u8>,
    names: Names,
    spki: Vec<u8>,
}

/// Why a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("cannot make a certificate request: {name:?} is not a DNS name")]
    Name { name: String },
    #[error("cannot sign a certificate request")]
    Sign(#[source] rcgen::Error),
    #[error("cannot read back the certificate request just made")]
    ReadBack(#[source] RequestError),
}

/// Why bytes are not a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the certificate request is not PKCS#10 in DER")]
    NotPkcs10,
    #[error("the certificate request is not signed by the key that it asks a certificate for")]
    Signature,
    #[error(
        "the certificate request's key is of a kind that is not supported: expected ECDSA (P-256, P-384), RSA of 2048 bits or more, or Ed25519"
    )]
    Key,
}

impl CertificateRequest {
    /// A request for `key` that names `common_name` and `dns_names`; a first
    /// enrolment names anything, for the marketplace chooses the name.
    pub fn create(
        key: &KeyPair,
        common_name: &str,
        dns_names: &[String],
    ) -> Result<Self, CreateError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, common_name);
        for name in dns_names {
            let dns = name
                .as_str()
                .try_into()
                .map_err(|_| CreateError::Name { name: name.clone() })?;
            params.subject_alt_names.push(rcgen::SanType::DnsName(dns));
        }
        let request = params
            .serialize_request(key.rcgen())
            .map_err(CreateError::Sign)?;
        Self::from_der(request.der()).map_err(CreateError::ReadBack)
    }

    /// The request that renews `certificate`: same subject, same alternative
    /// names (RFC 7030, 4.2.2), for `key`, old or new.
    pub fn renew(key: &KeyPair, certificate: &Certificate) -> Result<Self, CreateError> {
        let dns_names: Vec<_> = certificate
            .dns_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        Self::create(
            key,
            certificate.common_name().unwrap_or_default(),
            &dns_names,
        )
    }

    /// Parses exactly one request and verifies its signature by its own key.
    pub fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let (rest, parsed) =
            X509CertificationRequest::from_der(der).map_err(|_| RequestError::NotPkcs10)?;
        if !rest.is_empty() {
            return Err(RequestError::NotPkcs10);
        }
        let info = &parsed.certification_request_info;
        rcgen::SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|_| RequestError::Key)?;
        parsed
            .verify_signature()
            .map_err(|_| RequestError::Signature)?;
        let extensions = parsed.requested_extensions().into_iter().flatten();
        Ok(Self {
            names: Names::parse(&info.subject, extensions),
            spki: info.subject_pki.raw.to_vec(),
            der: der.to_vec(),
        })
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The common name that is asked for, if any.
    pub fn common_name(&self) -> Option<&str> {
        self.names.common_name()
    }

    /// The DNS names that are asked for.
    pub fn dns_names(&self) -> Vec<&str> {
        self.names.dns_names().collect()
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the public key: compare with the key in the register.
    pub fn key_fingerprint(&self) -> [u8; 32] {
        crate::sha256(&self.spki)
    }

    /// Whether subject and alternative names are those of `certificate`,
    /// compared as parsed (RFC 7030, 4.2.2). Says nothing about the key.
    pub fn same_identity(&self, certificate: &Certificate) -> bool {
        self.names == *certificate.names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_flipped_bit_is_refused() {
        let key = KeyPair::generate().unwrap();
        let request =
            CertificateRequest::create(&key, "host", &["host.example".to_owned()]).unwrap();
        assert_eq!(request.common_name(), Some("host"));
        assert_eq!(request.dns_names(), ["host.example"]);
        assert_eq!(request.spki_der(), key.spki_der());
        let (_, parsed) = X509CertificationRequest::from_der(request.der()).unwrap();
        let signed = parsed.certification_request_info.raw;
        let start = request
            .der()
            .windows(signed.len())
            .position(|w| w == signed)
            .unwrap();
        for at in start..start + signed.len() {
            let mut der = request.der().to_vec();
            der[at] ^= 1;
            assert!(CertificateRequest::from_der(&der).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let key = KeyPair::generate().unwrap();
        let other = KeyPair::generate().unwrap();
        let request = CertificateRequest::create(&key, "host", &[]).unwrap();
        let foreign = CertificateRequest::create(&other, "host", &[]).unwrap();
        let at = request
            .der()
            .windows(key.spki_der().len())
            .position(|w| w == key.spki_der())
            .unwrap();
        let mut der = foreign.der().to_vec();
        der[at..at + key.spki_der().len()].copy_from_slice(&key.spki_der());
        assert!(matches!(
            CertificateRequest::from_der(&der),
            Err(RequestError::Signature)
        ));
    }
}
