//! Debian's cloud kernel and the few modules that a rented machine needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use surplus_tools::Tools;

use crate::lab::run;
use crate::packages::Packages;

const PACKAGE: &str = "linux-image-cloud-amd64";

/// Loaded at once: virtio, seed file systems, the power button.
pub(super) const FIRST: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "button",
    "evdev",
];

/// Loaded only when no seed was found: they take their time.
pub(super) const THEN: &[&str] = &["virtio_scsi", "sd_mod", "ahci", "ata_piix", "sr_mod"];

/// A kernel, unpacked.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// `lib/modules/<version>`.
    modules: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks the kernel package below `directory`, once per
    /// tools tree.
    pub(super) fn fetch(directory: &Path, tools: &Tools, progress: &dyn Fn(&str)) -> Result<Self> {
        let unpacked = directory.join("kernel");
        if let Ok(kernel) = Self::unpacked(&unpacked) {
            return Ok(kernel);
        }
        progress("guest image: downloading Debian's cloud kernel (about 30 MB)");
        let packages = Packages::prepare(directory.join("apt"), tools)?;
        let depends = packages.depends(PACKAGE)?;
        let package = depends
            .iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{PACKAGE} names no kernel: {depends:?}"))?;
        packages.unpack(&[package], &unpacked)?;
        packages.clean()?;
        Self::unpacked(&unpacked)
    }

    fn unpacked(tree: &Path) -> Result<Self> {
        // Debian 13 ships modules below /usr/lib, Debian 12 below /lib.
        let parents = [tree.join("usr/lib/modules"), tree.join("lib/modules")];
        let modules = parents.iter().find_map(|parent| {
            fs::read_dir(parent)
                .ok()?
                .flatten()
                .next()
                .map(|entry| entry.path())
        });
        let modules = modules.with_context(|| format!("no modules in {}", tree.display()))?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy();
        let image = tree.join(format!("boot/vmlinuz-{version}"));
        if !image.is_file() {
            bail!("{} is missing", image.display());
        }
        Ok(Self { image, modules })
    }

    /// `wanted` and all that they depend on, in the order of loading, as file
    /// name and (decompressed) content. Modules built into the kernel are
    /// passed over.
    pub(super) fn modules(&self, wanted: &[&str], tools: &Tools) -> Result<Vec<(String, Vec<u8>)>> {
        let files = self.files()?;
        let mut order: Vec<String> = Vec::new();
        for name in wanted {
            self.add(name, &files, tools, &mut order)?;
        }
        order
            .into_iter()
            .map(|name| {
                let path = &files[&name];
                let bytes = match path.extension().and_then(|end| end.to_str()) {
                    Some("xz") => run(tools.command("xz").arg("-dc").arg(path))?,
                    Some("zst") => run(tools.command("zstd").arg("-dcq").arg(path))?,
                    _ => fs::read(path)?,
                };
                Ok((format!("{name}.ko"), bytes))
            })
            .collect()
    }

    /// Appends `name` behind all that it depends on.
    fn add(
        &self,
        name: &str,
        files: &BTreeMap<String, PathBuf>,
        tools: &Tools,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if order.iter().any(|loaded| loaded == name) {
            return Ok(());
        }
        let Some(path) = files.get(name) else {
            let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
            let ending = format!("/{name}.ko");
            if builtin
                .replace('-', "_")
                .lines()
                .any(|line| line.ends_with(&ending))
            {
                return Ok(());
            }
            bail!("the kernel has no module {name}");
        };
        let depends = run(tools.command("modinfo").args(["-F", "depends"]).arg(path))?;
        for dependency in String::from_utf8_lossy(&depends).trim().split(',') {
            if !dependency.is_empty() {
                self.add(&dependency.replace('-', "_"), files, tools, order)?;
            }
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// Every module file by its name, written with underscores.
    fn files(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.modules.join("kernel")];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory)?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    pending.push(path);
                } else if let Some((name, _)) =
                    entry.file_name().to_string_lossy().split_once(".ko")
                {
                    found.insert(name.replace('-', "_"), path);
                }
            }
        }
        Ok(found)
    }
}
