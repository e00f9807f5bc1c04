//! Signed documents: JWS in compact serialisation (RFC 7515), ES256 alone.
//!
//! Tickets go from marketplace to host with the signer's certificate in `x5c`;
//! receipts go from host to marketplace and are verified with the registered
//! key. A payload is parsed only after its signature was verified.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

use crate::certificate::{Certificate, Role};
use crate::key::KeyPair;

const ALGORITHM: &str = "ES256";

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    /// Certificates, leaf first, each as base64 of its DER (RFC 7515, 4.1.6).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
    /// Extensions that must be understood; none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

/// Why a document could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("cannot write the document as JSON")]
    Payload(#[from] serde_json::Error),
    #[error("cannot sign the document with the key given")]
    Key,
}

/// Why a signed document is not believed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the signed document is not JWS in compact serialisation")]
    Form,
    #[error("the signed document uses algorithm {0:?}: only ES256 is accepted")]
    Algorithm(String),
    #[error("the signed document demands extensions that are not known here")]
    Critical,
    #[error("the signed document names no signer certificate")]
    NoSigner,
    #[error("the signer's certificate cannot be read")]
    Signer(#[from] crate::certificate::CertificateError),
    #[error("the signer's certificate was not issued by the marketplace's CA")]
    Untrusted,
    #[error("the signer's certificate is for another use: expected {expected:?}")]
    Role { expected: Role },
    #[error("the signer's certificate is valid from {not_before} to {not_after}, and it is {now}")]
    Validity {
        not_before: Timestamp,
        not_after: Timestamp,
        now: Timestamp,
    },
    #[error("the signature does not fit the document and the signer's key")]
    Signature,
    #[error("the signed document is not what it should be")]
    Payload(#[source] serde_json::Error),
}

/// Signs `payload` with `key`. `chain` holds the signer's certificate first, or
/// nothing where the receiver knows the key.
pub fn sign(
    key: &KeyPair,
    chain: &[Certificate],
    payload: &impl Serialize,
) -> Result<String, SignError> {
    let header = Header {
        alg: ALGORITHM.to_owned(),
        x5c: chain
            .iter()
            .map(|certificate| STANDARD.encode(certificate.der()))
            .collect(),
        crit: None,
    };
    let mut text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(serde_json::to_vec(payload)?));
    let pkcs8 = key.to_pkcs8_der();
    let signer =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.secret_pkcs8_der())
            .map_err(|_| SignError::Key)?;
    let signature = signer
        .sign(&SystemRandom::new(), text.as_bytes())
        .map_err(|_| SignError::Key)?;
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
    Ok(text)
}

/// The payload of `text`, where its signer's certificate was issued by `ca`,
/// is valid at `now` and is for `role`.
pub fn verify_chained<T: DeserializeOwned>(
    text: &str,
    ca: &Certificate,
    now: Timestamp,
    role: Role,
) -> Result<T, VerifyError> {
    let parts = Parts::split(text)?;
    let leaf = parts.header.x5c.first().ok_or(VerifyError::NoSigner)?;
    let leaf = Certificate::from_der(&STANDARD.decode(leaf).map_err(|_| VerifyError::Form)?)?;
    if !leaf.is_issued_by(ca) {
        return Err(VerifyError::Untrusted);
    }
    if leaf.role() != Some(role) {
        return Err(VerifyError::Role { expected: role });
    }
    if !leaf.is_valid_at(now) {
        let (not_before, not_after) = (leaf.not_before(), leaf.not_after());
        return Err(VerifyError::Validity {
            not_before,
            not_after,
            now,
        });
    }
    parts.payload(leaf.spki_der())
}

/// The payload of `text`, where `spki` (SubjectPublicKeyInfo in DER) made its
/// signature. Certificates in the document are ignored.
pub fn verify_with_spki<T: DeserializeOwned>(text: &str, spki: &[u8]) -> Result<T, VerifyError> {
    Parts::split(text)?.payload(spki)
}

struct Parts<'a> {
    header: Header,
    signed: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, VerifyError> {
        let (signed, signature) = text.rsplit_once('.').ok_or(VerifyError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(VerifyError::Form)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| VerifyError::Form);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| VerifyError::Form)?;
        if header.alg != ALGORITHM {
            return Err(VerifyError::Algorithm(header.alg));
        }
        if header.crit.is_some() {
            return Err(VerifyError::Critical);
        }
        Ok(Self {
            header,
            signed,
            payload,
            signature: decode(signature)?,
        })
    }

    fn payload<T: DeserializeOwned>(&self, spki: &[u8]) -> Result<T, VerifyError> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| VerifyError::Signature)?;
        UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_FIXED,
            spki.subject_public_key.data.as_ref(),
        )
        .verify(self.signed.as_bytes(), &self.signature)
        .map_err(|_| VerifyError::Signature)?;
        let payload = URL_SAFE_NO_PAD
            .decode(self.payload)
            .map_err(|_| VerifyError::Form)?;
        serde_json::from_slice(&payload).map_err(VerifyError::Payload)
    }
}

#[cfg(test)]
mod tests;
