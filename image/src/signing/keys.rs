//! Making the three key pairs of UEFI Secure Boot: the platform key (PK), the
//! key exchange key (KEK), and the one that signs what may boot (db).
//!
//! RSA with 2048 bits and SHA-256, which is what every firmware takes; UEFI
//! specification 2.10, section 32.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{PIPED, Programs, Signer, piped};

/// Firmware does not look at the end of validity; twenty years serve those who
/// do.
const DAYS: &str = "7300";

const RSA_2048: [&str; 5] = [
    "genpkey",
    "-algorithm",
    "RSA",
    "-pkeyopt",
    "rsa_keygen_bits:2048",
];

/// The keys in a directory: `PK`, `KEK` and `db`, each as `.key` (private, PEM),
/// `.pem` (certificate) and `.cer` (the same in DER, for firmware menus).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeKeys {
    directory: PathBuf,
}

/// Why no keys were made. Those that were there are as they were.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "{} is there already; keys are never written over: give another directory",
        path.display()
    )]
    Exists { path: PathBuf },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("openssl is not on this machine; install it (`apt install openssl`) and try again")]
    Missing,
    #[error("running openssl")]
    Run(#[source] io::Error),
    #[error("openssl failed: {said}")]
    Failed { said: String },
}

impl MadeKeys {
    /// The pair that signs images.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer {
            key: self.key("db"),
            certificate: self.certificate("db"),
        }
    }

    /// The private key of `PK`, `KEK` or `db`, in PEM.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    /// The certificate of `PK`, `KEK` or `db`, in PEM.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }
}

/// Makes three key pairs in `directory`, private keys readable by their owner
/// alone. `owner` is part of the certificates' names.
pub fn make_keys(
    directory: &Path,
    owner: &str,
    programs: Programs<'_>,
) -> Result<MadeKeys, KeyError> {
    let write = |path: &Path, source| KeyError::Write {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(|source| write(directory, source))?;
    let names = ["PK", "KEK", "db"];
    let of = |name: &str, end: &str| directory.join(format!("{name}.{end}"));
    for path in names
        .iter()
        .flat_map(|name| ["key", "pem", "cer"].map(|end| of(name, end)))
    {
        if path.exists() {
            return Err(KeyError::Exists { path });
        }
    }
    for (name, purpose) in names.into_iter().zip(["platform", "key exchange", "boot"]) {
        let key = openssl(programs, &RSA_2048, b"")?;
        let subject = format!("/CN={} {purpose} key", owner.replace('/', " "));
        let certificate = openssl(
            programs,
            &[
                "req", "-x509", "-new", "-sha256", "-key", PIPED, "-days", DAYS, "-subj", &subject,
            ],
            &key,
        )?;
        let der = openssl(programs, &["x509", "-outform", "DER"], &certificate)?;
        for (end, mode, bytes) in [
            ("key", 0o600, &key),
            ("pem", 0o644, &certificate),
            ("cer", 0o644, &der),
        ] {
            let path = of(name, end);
            create(&path, mode, bytes).map_err(|source| write(&path, source))?;
        }
    }
    Ok(MadeKeys {
        directory: directory.to_owned(),
    })
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)
}

/// What openssl prints.
fn openssl(programs: Programs<'_>, args: &[&str], input: &[u8]) -> Result<Vec<u8>, KeyError> {
    let output = piped(programs("openssl").args(args), input).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            KeyError::Missing
        } else {
            KeyError::Run(source)
        }
    })?;
    if !output.status.success() {
        return Err(KeyError::Failed {
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(output.stdout)
}
