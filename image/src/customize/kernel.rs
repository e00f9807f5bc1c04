//! Writing where the site file is into a unified kernel image, and signing it.
//!
//! Such an image goes over the network in clear, so it gets an address and the
//! hash of a certificate, never the site file itself.

use std::fs;
use std::path::Path;

use surplus_site::Pointer;

use super::{CustomizeError, is_same_file, replace};
use crate::efi;
use crate::signing::{self, Programs, Signer};

/// What goes onto the kernel command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteAddress {
    /// `https://HOST[:PORT]/PATH` of the site file.
    pub site: String,
    /// `sha256:` and 64 hexadecimal digits: the CA that the server of the site
    /// file must have its certificate from.
    pub ca: String,
    /// `http://…`: where the root image can be fetched.
    pub roots: Vec<String>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomizedKernel {
    pub command_line: String,
    /// Whether a signature of the input was taken off.
    pub unsigned: bool,
    /// Who has signed the output.
    pub signers: Vec<String>,
}

/// Copies a unified kernel image with the address on its command line, signed
/// if there is somebody to sign it. `output` is replaced as a whole.
///
/// # Errors
///
/// A signed input without a signer is refused, among what [`CustomizeError`]
/// names; the output is then as it was.
pub fn customize_kernel(
    address: &SiteAddress,
    signer: Option<&Signer>,
    input: &Path,
    output: &Path,
    programs: Programs<'_>,
) -> Result<CustomizedKernel, CustomizeError> {
    let arguments = address.arguments()?;
    let in_input = |source| CustomizeError::Kernel {
        path: input.to_owned(),
        source,
    };
    let mut bytes = fs::read(input).map_err(|source| CustomizeError::ReadKernel {
        path: input.to_owned(),
        source,
    })?;
    if is_same_file(input, output) {
        return Err(CustomizeError::SameFile {
            path: input.to_owned(),
        });
    }
    let was_signed = efi::is_signed(&bytes).map_err(in_input)?;
    if was_signed && signer.is_some() {
        bytes = efi::unsigned(bytes).map_err(in_input)?;
    }
    bytes = efi::with_arguments(bytes, &arguments).map_err(in_input)?;
    if let Some(signer) = signer {
        bytes = signing::sign(&bytes, signer, programs)?;
    }
    let done = CustomizedKernel {
        command_line: efi::command_line(&bytes).map_err(in_input)?,
        unsigned: was_signed,
        signers: efi::signers(&bytes).map_err(in_input)?,
    };
    replace(output, PUBLIC, |file| {
        std::io::Write::write_all(file, &bytes)
    })
    .map_err(|source| CustomizeError::Write {
        path: output.to_owned(),
        source,
    })?;
    Ok(done)
}

/// A boot server must be able to read it, and no secret is in it.
const PUBLIC: u32 = 0o644;

impl SiteAddress {
    /// As words of the kernel command line, which a host would understand.
    fn arguments(&self) -> Result<String, CustomizeError> {
        let mut words = vec![
            format!("surplus.site={}", self.site),
            format!("surplus.ca={}", self.ca),
        ];
        let (_, errors) = Pointer::read(&words.join(" "));
        if let Some(error) = errors.into_iter().next() {
            return Err(CustomizeError::SiteAddress(error));
        }
        for root in &self.roots {
            if !is_root_url(root) {
                return Err(CustomizeError::RootAddress { url: root.clone() });
            }
            words.push(format!("surplus.root={root}"));
        }
        Ok(words.join(" "))
    }
}

/// The initramfs speaks plain HTTP, and needs no password for what is public.
fn is_root_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").unwrap_or_default();
    rest.split_once('/')
        .is_some_and(|(host, path)| !host.is_empty() && !host.contains('@') && !path.is_empty())
}

#[cfg(test)]
mod tests;
