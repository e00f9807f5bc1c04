//! The data directory: keys, certificates, store, images, consoles.
//!
//! | file | what |
//! |---|---|
//! | `ca.pem`, `ca.key` | the certificate authority |
//! | `admin.key` | the first operator's API key: the secret and a newline |
//! | `server.pem`, `server.key` | what the TLS port shows |
//! | `signer.pem`, `signer.key` | what signs tickets |
//! | `store.db` | the store |
//! | `images/`, `consoles/` | by content hash, by lease |
//!
//! Keys are mode 0600, and each is written whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use surplus_pki::authority::{IssueError, LoadError, SERVER_LIFETIME, SIGNER_LIFETIME, SaveError};
use surplus_pki::certificate::CertificateError;
use surplus_pki::key::KeyError;
use surplus_pki::{Authority, Certificate, KeyPair};

use crate::notary::Signer;
use crate::secret::{self, NoRandomness};

/// The first operator's API key.
pub const ADMIN_KEY: &str = "admin.key";

/// The CA's certificate.
pub const CA_CERTIFICATE: &str = "ca.pem";

/// A data directory that exists.
#[derive(Clone, Debug)]
pub(crate) struct DataDir(PathBuf);

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the authority")]
    Load(#[from] LoadError),
    #[error("cannot keep the authority")]
    Save(#[from] SaveError),
    #[error("cannot issue a certificate of our own")]
    Issue(#[from] IssueError),
    #[error("cannot use {}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("cannot use {}", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl DataDir {
    /// Opens the directory; makes it, for its owner alone, where it is missing.
    ///
    /// # Errors
    ///
    /// Where that fails.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path);
        made.map_err(|source| DataError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(path.to_owned()))
    }

    /// A directory in it, for the owner alone; made where it is missing.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, DataError> {
        Self::open(&self.join(name)).map(|Self(path)| path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The authority, made now where there is none; and whether it was.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or written.
    pub(crate) fn authority(&self, now: Timestamp) -> Result<(Authority, bool), DataError> {
        if Authority::exists(&self.0) {
            return Ok((Authority::load(&self.0)?, false));
        }
        let authority = Authority::create(now)?;
        authority.save(&self.0)?;
        Ok((authority, true))
    }

    /// The secret of the first operator's API key, where there is one.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read.
    pub(crate) fn admin_key(&self) -> Result<Option<String>, DataError> {
        Ok(self.read(ADMIN_KEY)?.map(|text| text.trim().to_owned()))
    }

    /// Makes the first operator's API key.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub(crate) fn make_admin_key(&self) -> Result<String, DataError> {
        let secret = secret::generate(secret::KEY_PREFIX)?;
        self.write(ADMIN_KEY, &format!("{secret}\n"))?;
        Ok(secret)
    }

    /// Key and certificate of the TLS port for these names, issued anew where
    /// the names differ or half of its time is over.
    ///
    /// # Errors
    ///
    /// Where they cannot be read, issued or written.
    pub(crate) fn server(
        &self,
        authority: &Authority,
        names: &[String],
        now: Timestamp,
    ) -> Result<(KeyPair, Certificate), DataError> {
        let key = self.key("server.key")?;
        let fresh = authority.issue_server(names, &key, now)?;
        let certificate =
            self.keep_or_replace("server.pem", authority, &key, fresh, SERVER_LIFETIME, now)?;
        Ok((key, certificate))
    }

    /// What signs tickets; its certificate is issued anew where half of its
    /// time is over.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, issued or written.
    pub(crate) fn signer(
        &self,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Signer, DataError> {
        let key = self.key("signer.key")?;
        let fresh = authority.issue_signer(&key, now)?;
        let certificate =
            self.keep_or_replace("signer.pem", authority, &key, fresh, SIGNER_LIFETIME, now)?;
        Ok(Signer { key, certificate })
    }

    /// The certificate in file `name` while it is good and says the same as
    /// `fresh`, else `fresh`.
    fn keep_or_replace(
        &self,
        name: &str,
        authority: &Authority,
        key: &KeyPair,
        fresh: Certificate,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Certificate, DataError> {
        if let Some(text) = self.read(name)? {
            let path = self.join(name);
            let old = Certificate::from_pem(&text)
                .map_err(|source| DataError::Certificate { path, source })?;
            let good = old.key_fingerprint() == key.fingerprint()
                && old.is_issued_by(authority.certificate())
                && old.not_before() <= now
                && old.not_after().duration_since(now) > lifetime / 2;
            if good && old.names() == fresh.names() {
                return Ok(old);
            }
        }
        self.write(name, &fresh.to_pem())?;
        Ok(fresh)
    }

    fn key(&self, name: &str) -> Result<KeyPair, DataError> {
        let failed = |source| DataError::Key {
            path: self.join(name),
            source,
        };
        if let Some(text) = self.read(name)? {
            return KeyPair::from_pem(&text).map_err(failed);
        }
        let key = KeyPair::generate().map_err(failed)?;
        self.write(name, key.to_pem().expose_secret())?;
        Ok(key)
    }

    fn read(&self, name: &str) -> Result<Option<String>, DataError> {
        let path = self.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataError::File { path, source }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), DataError> {
        let path = self.join(name);
        let unfinished = self.join(&format!("{name}.new"));
        let write = || {
            // What a crash left may have another mode.
            let _ = fs::remove_file(&unfinished);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| DataError::File {
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_certificate_is_kept_until_its_names_change_or_half_its_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (authority, made) = data.authority(now).unwrap();
        assert!(made && !data.authority(now).unwrap().1);
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let (one, two) = (
            names(&["a.example", "192.0.2.1"]),
            names(&["a.example", "192.0.2.2"]),
        );
        let server = |names, at| data.server(&authority, names, at).unwrap().1;
        let first = server(&one, now);
        assert_eq!(
            server(&one, now + SignedDuration::from_hours(24 * 44)),
            first
        );
        let renewed = server(&one, now + SignedDuration::from_hours(24 * 46));
        assert_ne!(renewed, first);
        let renamed = server(&two, now + SignedDuration::from_hours(24 * 46));
        assert_ne!(renamed.names(), renewed.names());
        assert_eq!(renamed.key_fingerprint(), first.key_fingerprint());
    }
}
