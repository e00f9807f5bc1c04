//! What firmware loads first: the unified kernel image from a medium or by UEFI
//! HTTP boot, iPXE by PXE. Signed for Secure Boot if there is a key.
//!
//! What always holds: all that UEFI firmware loads of ours is made here, so that
//! all of it is signed by one key or none of it is. Its arguments are the
//! operator's, which is why the key has no place in the unsigned build.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use surplus_image::signing::{self, Signer};

use super::boot::Boot;
use super::stamp::{Inputs, Key, up_to_date_or};
use super::{Build, Progress};

/// iPXE as Debian builds it: for BIOS, and for UEFI with the firmware's driver.
const BIOS: &str = "undionly.kpxe";
const UEFI: &str = "snponly.efi";

/// The boot loaders.
#[derive(Debug)]
pub(crate) struct Loaders {
    pub(crate) key: Key,
    /// `surplus.efi`.
    pub(crate) uki: PathBuf,
}

/// Makes `surplus.efi`, `snponly.efi` and `undionly.kpxe`.
pub(crate) fn make(
    build: &Build,
    boot: &Boot,
    signer: Option<&Signer>,
    progress: &Progress,
) -> anyhow::Result<Loaders> {
    let stage = progress.stage("loaders");
    let ipxe = |name: &str| build.tools.path("/usr/lib/ipxe").join(name);
    let mut inputs = Inputs::new("loaders 1")
        .text(boot.key.as_str())
        .path(&ipxe(BIOS))?
        .path(&ipxe(UEFI))?;
    if let Some(signer) = signer {
        // Of a pair, the certificate is what a rebuild may know.
        inputs = inputs.text("signed").path(&signer.certificate)?;
    }
    let key = inputs.key();
    let [uki, bios, uefi] = ["surplus.efi", BIOS, UEFI].map(|name| build.out.join(name));
    let outputs = [uki.clone(), bios.clone(), uefi.clone()];
    let ran = up_to_date_or(&build.work, "loaders", &key, &outputs, || {
        fs::copy(ipxe(BIOS), &bios).context("copying iPXE")?;
        for (from, to) in [(&boot.unsigned, &uki), (&ipxe(UEFI), &uefi)] {
            loader(build, from, to, signer)?;
        }
        Ok(())
    })?;
    let signed = signer.map_or("unsigned".to_owned(), |signer| {
        format!("signed, certificate {}", signer.certificate.display())
    });
    let state = if ran { "made" } else { "unchanged" };
    stage.done(&format!("boot loaders {state}, {signed}"));
    Ok(Loaders { key, uki })
}

fn loader(build: &Build, from: &Path, to: &Path, signer: Option<&Signer>) -> anyhow::Result<()> {
    let mut bytes = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if let Some(signer) = signer {
        bytes = signing::sign(&bytes, signer, &|name| build.tools.command(name))
            .with_context(|| format!("signing {}", from.display()))?;
    }
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}
