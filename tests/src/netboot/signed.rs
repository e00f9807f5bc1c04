//! A boot server for firmware with Secure Boot on: the owner has signed what
//! UEFI starts from it.
//!
//! Firmware takes no arguments from outside then, so the server's own words are
//! in `surplus.efi` before that is signed. What always holds: the artefacts are
//! copies; `target/image` is not touched.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use surplus_image::efi;

use super::{BootServer, copy_of_artefacts};
use crate::network::Station;
use crate::secure_boot::SecureBoot;

/// What firmware starts by HTTP boot, and what iPXE chains.
pub const SYSTEM: &str = "surplus.efi";
/// What firmware starts by PXE: iPXE.
pub const LOADER: &str = "snponly.efi";

/// A boot server, and where its artefacts lie.
#[derive(Debug)]
pub struct SignedServer<'a> {
    server: BootServer<'a>,
    artefacts: PathBuf,
    words: String,
}

impl<'a> SignedServer<'a> {
    /// One whose loader and system the owner has signed.
    pub fn start(switch: &'a Station<'a>, site: &str, owner: &SecureBoot<'_>) -> Result<Self> {
        let mut server = Self::start_unsigned(switch, site)?;
        server.put(LOADER, &owner.sign(server.loader()?)?)?;
        server.put(SYSTEM, &owner.sign(server.system()?)?)?;
        server.restart()?;
        Ok(server)
    }

    /// One that serves what was built: nobody has signed it.
    pub fn start_unsigned(switch: &'a Station<'a>, site: &str) -> Result<Self> {
        let artefacts = copy_of_artefacts(switch.lab(), "signed")?;
        let server = BootServer::start_with(switch, "boot", site, &artefacts)?;
        let words = format!(
            "{} surplus.root={}",
            server.words()?,
            server.url("root.img")
        );
        Ok(Self {
            server,
            artefacts,
            words,
        })
    }

    /// The built loader, unsigned.
    pub fn loader(&self) -> Result<Vec<u8>> {
        let built = fs::read(self.server.station.lab().artefact(LOADER)?)?;
        Ok(efi::unsigned(built)?)
    }

    /// The built system with the server's own words in it, unsigned.
    pub fn system(&self) -> Result<Vec<u8>> {
        let built = fs::read(self.server.station.lab().artefact(SYSTEM)?)?;
        Ok(efi::with_arguments(efi::unsigned(built)?, &self.words)?)
    }

    /// Puts other bytes in an artefact's place. A signed system is served as it
    /// is now; of anything else the server knows after [`restart`](Self::restart).
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (beside, path) = (
            self.artefacts.join(format!("{name}.new")),
            self.artefacts.join(name),
        );
        fs::write(&beside, bytes)
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| format!("could not put {}", path.display()))
    }

    /// The server anew, with the artefacts as they are now.
    pub fn restart(&mut self) -> Result<()> {
        self.server.stop();
        self.server.resume()
    }

    /// CPU seconds that it has used so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }
}
