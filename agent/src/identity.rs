//! Who this host is: its key, made here, and the certificate for it.
//!
//! What always holds: the key never leaves the host; it is stored before it is
//! first used, so that an agent that is restarted asks again with the same key
//! and no token is spent twice; a certificate is stored only with the key that
//! it certifies.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use surplus_pki::{Certificate, KeyPair};
use surplus_protocol::ids::HostId;

/// A key and its certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    pub host: HostId,
    pub key: KeyPair,
    /// Leaf first.
    pub chain: Vec<Certificate>,
}

/// Why certificates do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("none of the certificates that the marketplace sent is for this host's key")]
    OtherKey,
    #[error("the certificate names {0:?}, which is not a host id")]
    NotAHost(String),
}

impl Identity {
    /// Picks the key's own certificate out of an answer (PKCS#7 is a set).
    pub fn new(key: KeyPair, mut certificates: Vec<Certificate>) -> Result<Self, IdentityError> {
        let own = key.fingerprint();
        let leaf = certificates
            .iter()
            .position(|certificate| certificate.key_fingerprint() == own)
            .ok_or(IdentityError::OtherKey)?;
        certificates.swap(0, leaf);
        let name = certificates[0].common_name().unwrap_or_default();
        let host = name
            .parse()
            .map_err(|_| IdentityError::NotAHost(name.to_owned()))?;
        Ok(Self {
            host,
            key,
            chain: certificates,
        })
    }

    pub fn certificate(&self) -> &Certificate {
        // `new` put one there.
        &self.chain[0]
    }

    /// When renewal is due: half of the validity gone (RFC 7030 leaves it to
    /// the client).
    pub fn renewal_due_at(&self) -> jiff::Timestamp {
        let certificate = self.certificate();
        let (from, to) = (certificate.not_before(), certificate.not_after());
        let half = (to.as_second() - from.as_second()) / 2;
        jiff::Timestamp::from_second(from.as_second() + half).unwrap_or(from)
    }
}

/// Where a key and its certificate are kept.
pub trait Storage: fmt::Debug + Send + Sync {
    /// As the register shows it: `tpm`, `disk` or `ram`.
    fn kind(&self) -> &'static str;

    /// The key kept here, if any.
    fn key(&self) -> Result<Option<KeyPair>, StorageError>;

    /// The key and its certificate, if both are kept here.
    fn identity(&self) -> Result<Option<Identity>, StorageError>;

    fn keep_key(&self, key: &KeyPair) -> Result<(), StorageError>;

    fn keep_certificates(&self, chain: &[Certificate]) -> Result<(), StorageError>;
}

/// Why an identity could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} does not hold what was written there")]
    Damaged { path: PathBuf },
}

/// Files in a tmpfs: they outlive the agent, not the boot.
#[derive(Clone, Debug)]
pub struct Ram(PathBuf);

impl Ram {
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    fn key_path(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn chain_path(&self) -> PathBuf {
        self.0.join("certificates.pem")
    }

    /// Replaces a file at once, readable by root alone.
    fn write(&self, path: &Path, text: &str) -> Result<(), StorageError> {
        let failed = |source| StorageError::Write {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(&self.0).map_err(failed)?;
        let next = path.with_extension("new");
        let _ = fs::remove_file(&next);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&next)
            .map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        fs::rename(&next, path).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Option<String>, StorageError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StorageError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

impl Storage for Ram {
    fn kind(&self) -> &'static str {
        "ram"
    }

    fn key(&self) -> Result<Option<KeyPair>, StorageError> {
        let path = self.key_path();
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        KeyPair::from_pem(&text)
            .map(Some)
            .map_err(|_| StorageError::Damaged { path })
    }

    fn identity(&self) -> Result<Option<Identity>, StorageError> {
        let path = self.chain_path();
        let (Some(key), Some(text)) = (self.key()?, read(&path)?) else {
            return Ok(None);
        };
        let damaged = || StorageError::Damaged { path: path.clone() };
        let chain = text
            .split_inclusive("-----END CERTIFICATE-----\n")
            .map(Certificate::from_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| damaged())?;
        // A certificate of an earlier key: as if there were none.
        Ok(Identity::new(key, chain).ok())
    }

    fn keep_key(&self, key: &KeyPair) -> Result<(), StorageError> {
        self.write(&self.key_path(), key.to_pem().expose_secret())
    }

    fn keep_certificates(&self, chain: &[Certificate]) -> Result<(), StorageError> {
        let text: String = chain.iter().map(Certificate::to_pem).collect();
        self.write(&self.chain_path(), &text)
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use jiff::{SignedDuration, Timestamp};
    use newtype_uuid::GenericUuid as _;
    use surplus_pki::{Authority, CertificateRequest, host_dns_name};

    use super::*;

    /// An identity issued by `authority` for some host.
    pub(crate) fn identity(
        authority: &Authority,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let host = HostId::from_untyped_uuid(uuid::Uuid::new_v4());
        let request = CertificateRequest::create(&key, "x", &[host_dns_name("x")]).unwrap();
        let leaf = authority
            .issue_host(&request, &host.to_string(), now, lifetime)
            .unwrap();
        Identity::new(key, vec![authority.certificate().clone(), leaf]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::{SignedDuration, Timestamp};
    use surplus_pki::Authority;

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    #[test]
    fn an_identity_survives_the_agent_and_its_key_is_roots_alone() {
        let directory = tempfile::tempdir().unwrap();
        let ram = Ram::at(directory.path().join("identity"));
        assert!(ram.identity().unwrap().is_none() && ram.key().unwrap().is_none());
        let now = Timestamp::now();
        let identity = fixture::identity(&Authority::create(now).unwrap(), now, DAY);
        ram.keep_key(&identity.key).unwrap();
        assert!(ram.identity().unwrap().is_none());
        ram.keep_certificates(&identity.chain).unwrap();
        let again = ram.identity().unwrap().unwrap();
        assert_eq!(again.host, identity.host);
        assert_eq!(again.chain, identity.chain);
        let mode = fs::metadata(ram.key_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_certificate_of_an_earlier_key_is_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        let ram = Ram::at(directory.path());
        let now = Timestamp::now();
        let identity = fixture::identity(&Authority::create(now).unwrap(), now, DAY);
        ram.keep_certificates(&identity.chain).unwrap();
        ram.keep_key(&KeyPair::generate().unwrap()).unwrap();
        assert!(ram.identity().unwrap().is_none());
        fs::write(ram.key_path(), "garbage").unwrap();
        assert!(matches!(ram.key(), Err(StorageError::Damaged { .. })));
    }

    #[test]
    fn renewal_is_due_when_half_of_the_validity_is_gone() {
        let now = Timestamp::now();
        let identity = fixture::identity(&Authority::create(now).unwrap(), now, DAY);
        let due = identity.renewal_due_at();
        assert!(due > now + SignedDuration::from_hours(11));
        assert!(due < now + SignedDuration::from_hours(13));
    }
}
