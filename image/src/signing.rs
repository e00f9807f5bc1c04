//! Signing EFI programs with the operator's own key, and making such keys.
//!
//! `sbsign` and `openssl` do the work, run as the caller says: from this
//! machine, or from a tools tree. What always holds: a private key goes to them
//! through a pipe, so that it is never copied to a second place; an output
//! appears complete under its name, checked against the certificate, or not at
//! all.

mod keys;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use self::keys::{KeyError, MadeKeys, make_keys};

/// Makes a command of a program's name.
pub type Programs<'a> = &'a dyn Fn(&str) -> Command;

/// Where a program finds what is piped to it.
const PIPED: &str = "/dev/stdin";

/// A private key and its certificate, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub key: PathBuf,
    pub certificate: PathBuf,
}

/// Why an image was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{program} is not on this machine; install it (`apt install sbsigntool`) and try again"
    )]
    Missing { program: &'static str },
    #[error("running {program}")]
    Run {
        program: &'static str,
        source: io::Error,
    },
    #[error(
        "the key {} does not belong to the certificate {}; give the pair that was made together",
        key.display(), certificate.display()
    )]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("{} is no private RSA key in PEM that sbsign can use", path.display())]
    Key { path: PathBuf },
    #[error("{} is no certificate in PEM", path.display())]
    Certificate { path: PathBuf },
    #[error("{program} failed: {said}")]
    Failed { program: &'static str, said: String },
}

/// Signs `image` and gives the signed bytes.
///
/// An earlier signature stays in it: [`crate::efi::unsigned`] takes it off.
pub fn sign(image: &[u8], signer: &Signer, programs: Programs<'_>) -> Result<Vec<u8>, SignError> {
    let key = read(&signer.key)?;
    let place = tempfile::tempdir().map_err(|source| SignError::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    let [plain, signed, certificate] =
        ["plain.efi", "signed.efi", "certificate.pem"].map(|name| place.path().join(name));
    write(&plain, image)?;
    write(&certificate, &read(&signer.certificate)?)?;

    let mut sbsign = programs("sbsign");
    sbsign
        .args(["--key", PIPED])
        .arg("--cert")
        .arg(&certificate);
    sbsign.arg("--output").arg(&signed).arg(&plain);
    run(sbsign, "sbsign", &key)?.map_err(|said| explained(said, signer))?;
    check(&signed, &certificate, programs)?.map_err(|said| SignError::Failed {
        program: "sbverify",
        said,
    })?;
    read(&signed)
}

/// Whether `image` is signed by this certificate and unaltered; if not, in what
/// words `sbverify` says so.
pub fn check(
    image: &Path,
    certificate: &Path,
    programs: Programs<'_>,
) -> Result<Result<(), String>, SignError> {
    let mut sbverify = programs("sbverify");
    sbverify.arg("--cert").arg(certificate).arg(image);
    run(sbverify, "sbverify", &[])
}

/// What sbsign complained of, as far as it is the caller's to mend.
fn explained(said: String, signer: &Signer) -> SignError {
    if said.contains("key values mismatch") || said.contains("private key does not match") {
        SignError::Mismatch {
            key: signer.key.clone(),
            certificate: signer.certificate.clone(),
        }
    } else if said.contains("Can't load key") {
        SignError::Key {
            path: signer.key.clone(),
        }
    } else if said.contains("Can't load certificate") {
        SignError::Certificate {
            path: signer.certificate.clone(),
        }
    } else {
        SignError::Failed {
            program: "sbsign",
            said,
        }
    }
}

/// Runs a program with `input` on a pipe; gives what it said if it failed.
fn run(
    mut command: Command,
    program: &'static str,
    input: &[u8],
) -> Result<Result<(), String>, SignError> {
    let output = piped(&mut command, input).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            SignError::Missing { program }
        } else {
            SignError::Run { program, source }
        }
    })?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        let said = [output.stderr, output.stdout].concat();
        Err(String::from_utf8_lossy(&said).trim().to_owned())
    })
}

/// A key is smaller than a pipe's buffer, so that writing first cannot hang.
fn piped(command: &mut Command, input: &[u8]) -> io::Result<std::process::Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it reads says why itself.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

fn read(path: &Path) -> Result<Vec<u8>, SignError> {
    fs::read(path).map_err(|source| SignError::Read {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SignError> {
    fs::write(path, bytes).map_err(|source| SignError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
