//! Key pairs: ECDSA on P-256, the one kind that Surplus makes.
//!
//! The private half leaves this module only as a masked [`SecretString`].

use std::fmt;
use std::sync::Arc;

use rcgen::PublicKeyData as _;
use secrecy::SecretString;

/// An ECDSA P-256 key pair. Cheap to clone.
#[derive(Clone)]
pub struct KeyPair(Arc<rcgen::KeyPair>);

/// Why a key pair could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot generate an ECDSA P-256 key")]
    Generate(#[source] rcgen::Error),
    #[error("cannot read the private key: expected one PEM block `PRIVATE KEY` (PKCS#8)")]
    NotPem,
    #[error("cannot read the private key: it is not an ECDSA P-256 key in PKCS#8")]
    NotP256,
}

impl KeyPair {
    /// Makes a new key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|key| Self(Arc::new(key)))
            .map_err(KeyError::Generate)
    }

    /// Reads a PKCS#8 key as [`to_pem`](Self::to_pem) writes it.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let block = pem::parse(text).map_err(|_| KeyError::NotPem)?;
        if block.tag() != "PRIVATE KEY" {
            return Err(KeyError::NotPem);
        }
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &block.contents().into(),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
        .map(|key| Self(Arc::new(key)))
        .map_err(|_| KeyError::NotP256)
    }

    /// The private key as PKCS#8 in PEM.
    pub fn to_pem(&self) -> SecretString {
        self.0.serialize_pem().into()
    }

    /// The private key as PKCS#8 in DER, for a TLS stack. Keep it out of logs.
    pub fn to_pkcs8_der(&self) -> rustls_pki_types::PrivatePkcs8KeyDer<'static> {
        self.0.serialize_der().into()
    }

    /// The public half: SubjectPublicKeyInfo in DER (RFC 5280, 4.1.2.7).
    pub fn spki_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// SHA-256 of [`spki_der`](Self::spki_der).
    pub fn fingerprint(&self) -> [u8; 32] {
        crate::sha256(&self.spki_der())
    }

    pub(crate) fn rcgen(&self) -> &rcgen::KeyPair {
        &self.0
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KeyPair(public {}, private masked)",
            hex::encode(self.fingerprint())
        )
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_key_survives_the_round_trip_through_pem() {
        let key = KeyPair::generate().unwrap();
        let again = KeyPair::from_pem(key.to_pem().expose_secret()).unwrap();
        assert_eq!(again.spki_der(), key.spki_der());
        assert_eq!(again.clone().fingerprint(), key.fingerprint());
    }

    #[test]
    fn debug_output_shows_nothing_of_the_private_key() {
        let key = KeyPair::generate().unwrap();
        let pem = key.to_pem();
        let body = pem.expose_secret().lines().nth(1).unwrap().to_owned();
        assert!(!format!("{key:?} {pem:?}").contains(&body));
    }

    #[test]
    fn other_texts_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(matches!(
            KeyPair::from_pem(&p384.serialize_pem()),
            Err(KeyError::NotP256)
        ));
        assert!(matches!(KeyPair::from_pem("hello"), Err(KeyError::NotPem)));
    }
}
