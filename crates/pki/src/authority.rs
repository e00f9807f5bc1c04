//! The marketplace's certificate authority.
//!
//! In its directory lie `ca.pem` and `ca.key` (mode 0600). The key is written
//! first, so that where a certificate is, its key is too. What is issued takes
//! its public key from the request and everything else from us.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use secrecy::ExposeSecret as _;

use crate::certificate::{Certificate, CertificateError, DOCUMENT_SIGNING};
use crate::key::{KeyError, KeyPair};
use crate::request::CertificateRequest;

/// How long a new CA certificate is valid: 20 years.
pub const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(20 * 365 * 24);

/// How long a host's certificate is valid: 90 days, renewed at half.
pub const HOST_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long a certificate of the TLS port is valid: 90 days.
pub const SERVER_LIFETIME: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long a ticket signer's certificate is valid: a year, so that a host
/// that restarts offline can still judge the tickets that it holds.
pub const SIGNER_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Validity starts this long before `now`: clocks differ.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// A certificate authority: its certificate, its key, and what it issues.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("cannot make a key for the authority")]
    Key(#[from] KeyError),
    #[error("cannot issue a certificate for {name:?}: it is neither a DNS name nor an address")]
    Name { name: String },
    #[error("cannot issue a certificate: its validity would lie outside of the calendar")]
    Validity,
    #[error("cannot issue a certificate: the system gives no random bytes")]
    Random,
    #[error("cannot issue the certificate of {subject:?}")]
    Sign {
        subject: String,
        source: rcgen::Error,
    },
    #[error("cannot read back the certificate just issued")]
    ReadBack(#[from] CertificateError),
}

/// Why an authority could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a CA certificate", path.display())]
    NotAuthority { path: PathBuf },
    #[error("cannot use {}", path.display())]
    Certificate {
        path: PathBuf,
        source: CertificateError,
    },
    #[error("cannot use {}", path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("{} does not hold the key of {}", key.display(), certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
}

/// Why an authority could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("{} exists already; an authority is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Authority {
    /// Makes a new key and its self-signed certificate, for a marketplace.
    pub fn create(now: Timestamp) -> Result<Self, IssueError> {
        Self::create_named("Surplus marketplace", now)
    }

    /// The same for somebody else; the name gets a mark of the key.
    pub fn create_named(owner: &str, now: Timestamp) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        // A roll-over makes a second authority: names must differ, or the
        // issuer of a certificate would be ambiguous.
        let name = format!("{owner} {}", &hex::encode(key.fingerprint())[..8]);
        let mut params = params(&name, now, CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issued = params
            .self_signed(key.rcgen())
            .map_err(|source| IssueError::Sign {
                subject: name,
                source,
            })?;
        Ok(Self {
            certificate: Certificate::from_der(issued.der())?,
            key,
        })
    }

    /// Whether `dir` holds an authority.
    pub fn exists(dir: &Path) -> bool {
        dir.join(CERTIFICATE_FILE).exists()
    }

    /// Reads what [`save`](Self::save) wrote into `dir`.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let key_path = dir.join(KEY_FILE);
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| LoadError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let certificate = Certificate::from_pem(&read(&certificate_path)?).map_err(|source| {
            LoadError::Certificate {
                path: certificate_path.clone(),
                source,
            }
        })?;
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|source| LoadError::Key {
            path: key_path.clone(),
            source,
        })?;
        if !certificate.is_authority() {
            return Err(LoadError::NotAuthority {
                path: certificate_path,
            });
        }
        if certificate.key_fingerprint() != key.fingerprint() {
            return Err(LoadError::Mismatch {
                key: key_path,
                certificate: certificate_path,
            });
        }
        Ok(Self { certificate, key })
    }

    /// Writes certificate and key (mode 0600) into `dir`, which must exist and
    /// hold no authority yet.
    pub fn save(&self, dir: &Path) -> Result<(), SaveError> {
        let certificate_path = dir.join(CERTIFICATE_FILE);
        if certificate_path.exists() {
            return Err(SaveError::Exists {
                path: certificate_path,
            });
        }
        // A key without a certificate is what a crash left: nothing was issued.
        write_private(dir, KEY_FILE, self.key.to_pem().expose_secret())?;
        write_private(dir, CERTIFICATE_FILE, &self.certificate.to_pem())
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A host's certificate, for the key in `request` and for nothing else of
    /// it. `host` is the host's id.
    pub fn issue_host(
        &self,
        request: &CertificateRequest,
        host: &str,
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<Certificate, IssueError> {
        let key = rcgen::SubjectPublicKeyInfo::from_der(request.spki_der()).map_err(|source| {
            IssueError::Sign {
                subject: host.to_owned(),
                source,
            }
        })?;
        let mut params = params(host, now, lifetime)?;
        params.subject_alt_names = vec![alternative_name(&crate::host_dns_name(host))?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params, &key, host)
    }

    /// The TLS port's certificate for `names` (DNS names or addresses), valid
    /// for [`SERVER_LIFETIME`].
    pub fn issue_server(
        &self,
        names: &[String],
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<Certificate, IssueError> {
        let subject = names.first().map_or("surplus-marketplace", String::as_str);
        let mut params = params(subject, now, SERVER_LIFETIME)?;
        params.subject_alt_names = names
            .iter()
            .map(|name| alternative_name(name))
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params, key.rcgen(), subject)
    }

    /// The certificate of a key that signs tickets, valid for
    /// [`SIGNER_LIFETIME`].
    pub fn issue_signer(&self, key: &KeyPair, now: Timestamp) -> Result<Certificate, IssueError> {
        let subject = "Surplus ticket signer";
        let mut params = params(subject, now, SIGNER_LIFETIME)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec())];
        self.issue(&params, key.rcgen(), subject)
    }

    fn issue(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
        subject: &str,
    ) -> Result<Certificate, IssueError> {
        let sign = |source| IssueError::Sign {
            subject: subject.to_owned(),
            source,
        };
        let issuer =
            Issuer::from_ca_cert_der(self.certificate.der(), self.key.rcgen()).map_err(sign)?;
        let issued = params.signed_by(key, &issuer).map_err(sign)?;
        Ok(Certificate::from_der(issued.der())?)
    }
}

/// What all certificates have in common.
fn params(
    subject: &str,
    now: Timestamp,
    lifetime: SignedDuration,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IssueError::Random)?;
    // Positive, and of full length (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let at = |time: Result<Timestamp, jiff::Error>| {
        let seconds = time
            .ok()
            .and_then(|time| u64::try_from(time.as_second()).ok());
        let seconds = seconds.ok_or(IssueError::Validity)?;
        Ok::<_, IssueError>(
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds),
        )
    };
    params.not_before = at(now.checked_sub(BACKDATE))?;
    params.not_after = at(now.checked_add(lifetime))?;
    Ok(params)
}

fn alternative_name(name: &str) -> Result<SanType, IssueError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let invalid = || IssueError::Name {
        name: name.to_owned(),
    };
    rustls_pki_types::DnsName::try_from(name).map_err(|_| invalid())?;
    name.try_into().map(SanType::DnsName).map_err(|_| invalid())
}

/// Puts `text` into `dir/name` for the owner alone, whole or not at all.
fn write_private(dir: &Path, name: &str, text: &str) -> Result<(), SaveError> {
    let path = dir.join(name);
    let unfinished = dir.join(format!("{name}.new"));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|source| SaveError::Write {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests;
