//! UEFI Secure Boot with keys of the test's own: firmware that boots only what
//! they have signed, and images that they have or have not.
//!
//! What always holds: keys and images lie in the lab's scratch directory and go
//! with it; `target/image` is not touched.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_image::efi;
use surplus_image::signing::{self, MadeKeys, Signer};
use surplus_medium::iso9660;

use crate::lab::{Lab, run};
use crate::machine::Machine;

/// What firmware says of an image that it will not start.
pub const REFUSED: &str = "Access Denied";

/// How long firmware may take to its refusal, by way of the network too.
const FIRMWARE: Duration = Duration::from_secs(60);

/// What the kernel's log says when firmware has checked it.
pub const CHECKED: &str = "Secure boot enabled";

/// Where UEFI firmware looks for what to boot in the EFI image of the ISO.
const BOOT_IMAGE: &str = "::/EFI/BOOT/BOOTX64.EFI";

/// An operator's keys, and the variables of firmware that has them enrolled.
#[derive(Debug)]
pub struct SecureBoot<'a> {
    lab: &'a Lab,
    keys: MadeKeys,
    variables: PathBuf,
}

impl<'a> SecureBoot<'a> {
    /// Makes keys, and enrols them.
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let keys = keys(lab, "owner")?;
        let variables = lab.scratch().join("secure-boot-variables.fd");
        let guid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let mut enrol = lab.tools().command("virt-fw-vars");
        enrol.arg("--input").arg("/usr/share/OVMF/OVMF_VARS_4M.fd");
        for (option, name) in [("--set-pk", "PK"), ("--add-kek", "KEK"), ("--add-db", "db")] {
            enrol
                .arg(option)
                .arg(guid.trim())
                .arg(keys.certificate(name));
        }
        enrol.arg("--sb").arg("--output").arg(&variables);
        run(&mut enrol).context("could not enrol the keys in OVMF's variables")?;
        Ok(Self {
            lab,
            keys,
            variables,
        })
    }

    /// For [`Builder::secure_boot`](crate::machine::Builder::secure_boot).
    pub fn variables(&self) -> &Path {
        &self.variables
    }

    /// The pair whose signature the firmware takes.
    pub fn signer(&self) -> Signer {
        self.keys.signer()
    }

    /// The image signed by the owner, whoever had signed it before.
    pub fn sign(&self, image: Vec<u8>) -> Result<Vec<u8>> {
        sign(self.lab, image, &self.signer())
    }
}

/// A pair that no firmware knows.
pub fn stranger(lab: &Lab) -> Result<Signer> {
    Ok(keys(lab, "stranger")?.signer())
}

fn keys(lab: &Lab, name: &str) -> Result<MadeKeys> {
    let directory = lab.scratch().join(format!("keys-of-{name}"));
    signing::make_keys(&directory, name, &|program| lab.tools().command(program))
        .context("could not make keys")
}

/// The image signed by `signer` alone.
pub fn sign(lab: &Lab, image: Vec<u8>, signer: &Signer) -> Result<Vec<u8>> {
    signing::sign(&efi::unsigned(image)?, signer, &|program| {
        lab.tools().command(program)
    })
    .context("could not sign the image")
}

/// The firmware says no, and nothing of ours has run before.
pub fn refused(machine: &mut Machine) -> Result<()> {
    machine.wait_for(REFUSED, FIRMWARE)?;
    nothing_has_run(machine)
}

/// Neither our initramfs nor what comes after it has said a word.
pub fn nothing_has_run(machine: &mut Machine) -> Result<()> {
    let stages = machine.stages();
    ensure!(stages.is_empty(), "a refused image has run: {stages:?}");
    Ok(())
}

/// The image with one byte of a section flipped.
pub fn altered(mut image: Vec<u8>, section: &str) -> Result<Vec<u8>> {
    let place = efi::section(&image, section)?;
    image[place.start + place.len() / 2] ^= 1;
    Ok(image)
}

/// What UEFI firmware boots from an ISO of ours.
pub fn boot_image(lab: &Lab, iso: &Path) -> Result<Vec<u8>> {
    let mut read = lab.tools().command("mcopy");
    read.arg("-i").arg(efi_image(iso)?).arg(BOOT_IMAGE).arg("-");
    run(&mut read)
}

/// Puts another image in its place. BIOS machines do not boot the ISO any more:
/// their boot loader knows where the old one lay.
pub fn set_boot_image(lab: &Lab, iso: &Path, image: &[u8]) -> Result<()> {
    let file = iso.with_extension("boot-image");
    fs::write(&file, image)?;
    let mut write = lab.tools().command("mcopy");
    write
        .arg("-o")
        .arg("-i")
        .arg(efi_image(iso)?)
        .arg(&file)
        .arg(BOOT_IMAGE);
    run(&mut write)?;
    fs::remove_file(&file)?;
    Ok(())
}

/// The EFI image in an ISO, as mtools name a part of a file.
fn efi_image(iso: &Path) -> Result<String> {
    let mut file = File::open(iso)?;
    let volume = iso9660::volume(&mut file)?;
    let extent = iso9660::file(&mut file, &volume, "/efi.img")?;
    Ok(format!("{}@@{}", iso.display(), extent.offset))
}
