//! What proves to hosts that the site file is ours: a CA and a certificate of
//! it, kept in the state directory, so that the pin outlives a restart.
//!
//! | file | what |
//! |---|---|
//! | `ca.pem`, `ca.key` | the CA; hosts are told its fingerprint |
//! | `server.pem`, `server.key` | what the TLS port shows |
//!
//! Keys are mode 0600, and each file is written whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use surplus_https::ServerIdentity;
use surplus_https::server::IdentityError as ShowError;
use surplus_pki::authority::{IssueError, LoadError, SERVER_LIFETIME, SaveError};
use surplus_pki::key::KeyError;
use surplus_pki::{Authority, Certificate, KeyPair};

const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// The CA, and what it has issued for this server.
#[derive(Debug)]
pub struct Identity {
    state: PathBuf,
    authority: Authority,
    key: KeyPair,
    names: Vec<String>,
    shown: ServerIdentity,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot use {}; give another directory with --state, or the right to write there", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the certificate authority")]
    Load(#[from] LoadError),
    #[error("cannot keep the certificate authority")]
    Save(#[from] SaveError),
    #[error("cannot issue a certificate")]
    Issue(#[from] IssueError),
    #[error("cannot use {}; without it and {CERTIFICATE} beside it, new ones are made", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("cannot show the certificate")]
    Show(#[from] ShowError),
}

impl Identity {
    /// Opens what `state` holds, and makes what is missing there: a certificate
    /// for `addresses` above all.
    ///
    /// # Errors
    ///
    /// Where something cannot be read, made or written.
    pub fn open(state: &Path, addresses: &[IpAddr], now: Timestamp) -> Result<Self, IdentityError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state);
        made.map_err(|source| IdentityError::File {
            path: state.to_owned(),
            source,
        })?;
        let authority = if Authority::exists(state) {
            Authority::load(state)?
        } else {
            let authority = Authority::create_named("Surplus netboot", now)?;
            authority.save(state)?;
            authority
        };
        let key = key(state)?;
        let names: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        let certificate = certificate(state, &authority, &key, &names, now)?;
        let shown = ServerIdentity::new(&key, &certificate, authority.certificate())?;
        Ok(Self {
            state: state.to_owned(),
            authority,
            key,
            names,
            shown,
        })
    }

    /// What hosts are told: SHA-256 of the CA certificate's DER.
    pub fn pin(&self) -> [u8; 32] {
        self.authority.certificate().fingerprint()
    }

    pub fn authority(&self) -> &Certificate {
        self.authority.certificate()
    }

    /// What the TLS port shows; it follows each renewal.
    pub fn shown(&self) -> &ServerIdentity {
        &self.shown
    }

    /// Issues the certificate anew where half of its time is over.
    ///
    /// # Errors
    ///
    /// Where it cannot be issued or kept; the old one is shown on.
    pub fn renew(&self, now: Timestamp) -> Result<(), IdentityError> {
        let certificate = certificate(&self.state, &self.authority, &self.key, &self.names, now)?;
        let authority = self.authority.certificate();
        Ok(self.shown.replace(&self.key, &certificate, authority)?)
    }
}

fn key(state: &Path) -> Result<KeyPair, IdentityError> {
    let path = state.join(KEY);
    let failed = |source| IdentityError::Key {
        path: path.clone(),
        source,
    };
    if let Some(text) = read(&path)? {
        return KeyPair::from_pem(&text).map_err(failed);
    }
    let key = KeyPair::generate().map_err(failed)?;
    write(state, KEY, key.to_pem().expose_secret())?;
    Ok(key)
}

/// The kept certificate while it is good and says the same as a new one would,
/// else the new one.
fn certificate(
    state: &Path,
    authority: &Authority,
    key: &KeyPair,
    names: &[String],
    now: Timestamp,
) -> Result<Certificate, IdentityError> {
    let fresh = authority.issue_server(names, key, now)?;
    let kept = read(&state.join(CERTIFICATE))?;
    // One that cannot be read is replaced like an old one.
    if let Some(kept) = kept.and_then(|text| Certificate::from_pem(&text).ok()) {
        let good = kept.key_fingerprint() == key.fingerprint()
            && kept.is_issued_by(authority.certificate())
            && kept.not_before() <= now
            && kept.not_after().duration_since(now) > SERVER_LIFETIME / 2;
        if good && kept.names() == fresh.names() {
            return Ok(kept);
        }
    }
    write(state, CERTIFICATE, &fresh.to_pem())?;
    Ok(fresh)
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(state: &Path, name: &str, text: &str) -> Result<(), IdentityError> {
    let path = state.join(name);
    let unfinished = state.join(format!("{name}.new"));
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
        fs::File::open(state)?.sync_all()
    };
    write().map_err(|source| IdentityError::File {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::SignedDuration;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn shown(dir: &Path) -> Certificate {
        Certificate::from_pem(&fs::read_to_string(dir.join(CERTIFICATE)).unwrap()).unwrap()
    }

    #[test]
    fn the_pin_survives_restarts_and_renewals() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let address = ["10.77.0.2".parse().unwrap()];
        let first = Identity::open(&state, &address, at(0)).unwrap();
        let certificate = shown(&state);
        let again = Identity::open(&state, &address, at(60)).unwrap();
        assert_eq!(again.pin(), first.pin());
        assert_eq!(shown(&state), certificate);
        let half = SignedDuration::from_hours(46 * 24);
        again.renew(at(0) + half).unwrap();
        assert_ne!(shown(&state), certificate);
        let moved = Identity::open(&state, &["10.77.0.3".parse().unwrap()], at(0) + half);
        assert_eq!(moved.unwrap().pin(), first.pin());
        assert!(shown(&state).is_issued_by(first.authority()));
    }

    #[test]
    fn a_second_server_with_a_copy_of_the_ca_has_the_same_pin() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        let first = Identity::open(&one, &["10.77.0.2".parse().unwrap()], at(0)).unwrap();
        fs::create_dir(&two).unwrap();
        for name in ["ca.pem", "ca.key"] {
            fs::copy(one.join(name), two.join(name)).unwrap();
        }
        let second = Identity::open(&two, &["10.77.0.3".parse().unwrap()], at(60)).unwrap();
        assert_eq!(second.pin(), first.pin());
        assert!(shown(&two).is_issued_by(first.authority()));
        assert_ne!(shown(&two).names(), shown(&one).names());
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        Identity::open(&state, &["10.77.0.2".parse().unwrap()], at(0)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        for key in ["ca.key", KEY] {
            assert_eq!(mode(&state.join(key)), 0o600, "{key}");
        }
    }
}
