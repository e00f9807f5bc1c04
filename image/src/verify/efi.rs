//! Checking one EFI program: checksum, root, signature.

use std::fs;
use std::path::Path;

use super::{
    Check, Outcome, SUMS, VerifyError, check_bare_root, describe, name_of, read_sums, sums,
};
use crate::efi;
use crate::signing::{self, Programs};

/// Checks an EFI program against the `SHA256SUMS` and the root image beside it,
/// and its signature against `certificate` (PEM).
pub fn verify_efi(
    path: &Path,
    certificate: Option<&Path>,
    programs: Programs<'_>,
) -> Result<Vec<Check>, VerifyError> {
    let read = |source| VerifyError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(read)?;
    let mut checks = vec![Check {
        what: name_of(path),
        outcome: check_sum(path)?,
    }];
    if efi::command_line(&bytes).is_ok() {
        let root = path.with_file_name("root.img");
        checks.push(Check {
            what: "root image beside it".to_owned(),
            outcome: if root.exists() {
                check_bare_root(&root, path)
            } else {
                match crate::root_of_hash(&bytes) {
                    Ok(hash) => Outcome::Skipped(format!("no root.img; it boots the root {hash}")),
                    Err(error) => describe(Err(error)),
                }
            },
        });
    }
    checks.push(Check {
        what: format!("signature of {}", name_of(path)),
        outcome: check_signature(&bytes, path, certificate, programs)?,
    });
    Ok(checks)
}

/// A customised or signed image is not in the list, and need not be.
fn check_sum(path: &Path) -> Result<Outcome, VerifyError> {
    let list = path.with_file_name(SUMS);
    if !list.exists() {
        return Ok(Outcome::Skipped(format!("no {SUMS} beside it")));
    }
    let known = read_sums(&list)?;
    let found = sums::of_file(path).map_err(|source| VerifyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let name = name_of(path);
    Ok(if known.iter().any(|(sum, _)| *sum == found) {
        Outcome::Good(format!("matches {SUMS}"))
    } else if known.iter().any(|(_, known)| *known == name) {
        Outcome::Bad(format!("its SHA-256 is {found}, which is not in {SUMS}"))
    } else {
        Outcome::Skipped(format!("{SUMS} does not name it"))
    })
}

fn check_signature(
    bytes: &[u8],
    path: &Path,
    certificate: Option<&Path>,
    programs: Programs<'_>,
) -> Result<Outcome, VerifyError> {
    let signers = match efi::signers(bytes) {
        Ok(signers) => signers.join(", "),
        Err(error) => return Ok(Outcome::Bad(error.to_string())),
    };
    let Some(certificate) = certificate else {
        return Ok(Outcome::Skipped(if signers.is_empty() {
            "not signed; firmware with Secure Boot on refuses it".to_owned()
        } else {
            format!("it names {signers}; give the certificate by --cert to check it")
        }));
    };
    Ok(match signing::check(path, certificate, programs)? {
        Ok(()) => Outcome::Good(format!(
            "signed by {signers}, as {} says, and unaltered",
            certificate.display()
        )),
        Err(_) if signers.is_empty() => Outcome::Bad("not signed".to_owned()),
        Err(said) => Outcome::Bad(format!(
            "not signed with the key of {}, or altered since ({})",
            certificate.display(),
            said.replace('\n', ", ")
        )),
    })
}
