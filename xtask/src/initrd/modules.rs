//! Chooses the modules of the initramfs and the order of their loading.
//!
//! Reads depmod's text files beside the modules. A line of `/modules/order` is
//! five words, `-` for nothing: name, `always|match|network|need`,
//! `here|aside`, the modules to load before it with commas, and its parameters with commas.
//! Dependencies stand before what needs them, so the file read from top to
//! bottom is an order in which everything loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use surplus_medium::cpio::Archive;

use super::list::{List, Wanted, kernel_name};
use super::xz::{self, Content};

/// Adds the modules of `list` with their dependencies, order and aliases.
pub(super) fn pack(directory: &Path, list: &List, archive: &mut Archive) -> anyhow::Result<()> {
    let tree = Tree::read(directory)?;
    let mut order = Vec::new();
    // What every boot may need first: what then is still missing, the network
    // alone needs.
    let (network, local): (Vec<_>, Vec<_>) = list
        .modules
        .iter()
        .partition(|module| module.when == "network");
    for module in local {
        tree.add(module, directory, &mut order)?;
    }
    let plain = order.len();
    for module in network {
        tree.add(module, directory, &mut order)?;
    }

    let packed = compressed(&tree, &order[plain..])?;
    let mut lines = String::new();
    for (index, name) in order.iter().enumerate() {
        match index.checked_sub(plain) {
            None => archive.file(&format!("modules/{name}.ko"), 0o644, &tree.content(name)?),
            Some(index) => {
                archive.file(&format!("modules/{name}.ko.xz"), 0o644, &packed[index]);
            }
        }
        let line = list.modules.iter().find(|module| module.name == *name);
        lines += &order_line(name, line, &tree.dependencies(name));
    }
    archive.file("modules/order", 0o644, lines.as_bytes());
    let aliases = tree.aliases_of(&list.modules);
    archive.file("modules/aliases", 0o644, aliases.as_bytes());
    Ok(())
}

/// The modules' contents, compressed as the kernel takes them.
fn compressed(tree: &Tree, names: &[String]) -> anyhow::Result<Vec<Vec<u8>>> {
    let contents: Vec<_> = names
        .iter()
        .map(|name| tree.content(name))
        .collect::<Result<_, _>>()?;
    xz::compress_all(&contents, Content::Code)
}

fn order_line(name: &str, wanted: Option<&Wanted>, before: &[String]) -> String {
    let joined = |words: &[String]| match words {
        [] => "-".to_owned(),
        words => words.join(","),
    };
    let (when, place, parameters) = match wanted {
        None => ("need", "here", "-".to_owned()),
        Some(module) => (
            module.when,
            if module.aside { "aside" } else { "here" },
            joined(&module.parameters),
        ),
    };
    format!("{name} {when} {place} {} {parameters}\n", joined(before))
}

/// depmod's knowledge of one kernel's modules, by the kernel's names for them.
#[derive(Debug)]
struct Tree {
    files: BTreeMap<String, PathBuf>,
    hard: BTreeMap<String, Vec<String>>,
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
    aliases: Vec<(String, String)>,
}

impl Tree {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path)
                .with_context(|| format!("reading {} (depmod writes it)", path.display()))
        };
        let mut files = BTreeMap::new();
        let mut hard = BTreeMap::new();
        for line in text("modules.dep")?.lines() {
            let (path, needs) = line
                .split_once(':')
                .context("modules.dep: a line without `:`")?;
            let name = name_of(path);
            files.insert(name.clone(), directory.join(path));
            hard.insert(name, needs.split_whitespace().map(name_of).collect());
        }
        let soft = text("modules.softdep")?
            .lines()
            .filter_map(parse_softdep)
            .fold(BTreeMap::<_, Vec<_>>::new(), |mut soft, (name, before)| {
                soft.entry(name).or_default().extend(before);
                soft
            });
        let builtin = text("modules.builtin")?.lines().map(name_of).collect();
        let aliases = text("modules.alias")?
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("alias ")?.split_whitespace();
                Some((words.next()?.to_owned(), kernel_name(words.next()?)))
            })
            .collect();
        Ok(Self {
            files,
            hard,
            soft,
            builtin,
            aliases,
        })
    }

    /// Adds a module of the list, unless it is built in or may be missing.
    fn add(
        &self,
        module: &Wanted,
        directory: &Path,
        order: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        if self.files.contains_key(&module.name) {
            self.visit(&module.name, &mut Vec::new(), order)?;
        } else if !self.builtin.contains(&module.name) && !module.optional {
            bail!(
                "the kernel in {} has no module {}; if it was renamed, change initramfs/modules.list",
                directory.display(),
                module.name
            );
        }
        Ok(())
    }

    /// Adds `name` behind all that must be loaded before it.
    fn visit(
        &self,
        name: &str,
        path: &mut Vec<String>,
        order: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        if order.iter().any(|done| done == name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            bail!(
                "modules depend on each other in a circle: {} → {name}",
                path.join(" → ")
            );
        }
        path.push(name.to_owned());
        for before in self.dependencies(name) {
            self.visit(&before, path, order)?;
        }
        path.pop();
        order.push(name.to_owned());
        Ok(())
    }

    /// What must be loaded before `name`: hard dependencies, which must be
    /// there, and soft ones, by module name or alias, as far as there are any.
    fn dependencies(&self, name: &str) -> Vec<String> {
        let mut before = Vec::new();
        // depmod lists the ones to load first last.
        for needed in self.hard.get(name).into_iter().flatten().rev() {
            before.push(needed.clone());
        }
        for wish in self.soft.get(name).into_iter().flatten() {
            let resolved = if self.files.contains_key(&kernel_name(wish)) {
                vec![kernel_name(wish)]
            } else {
                let named = |(alias, _): &&(String, String)| alias == wish;
                self.aliases
                    .iter()
                    .filter(named)
                    .map(|(_, module)| module.clone())
                    .collect()
            };
            before.extend(
                resolved
                    .into_iter()
                    .filter(|module| self.files.contains_key(module)),
            );
        }
        let mut seen = BTreeSet::new();
        before.retain(|module| module != name && seen.insert(module.clone()));
        before
    }

    fn content(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.files.get(name).ok_or_else(|| {
            anyhow!("modules.dep names {name} as a dependency, but has no line for it")
        })?;
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        decompress(path, bytes).with_context(|| format!("decompressing {}", path.display()))
    }

    /// `PATTERN NAME` for each module that waits for a device.
    fn aliases_of(&self, list: &[Wanted]) -> String {
        let mut lines = BTreeSet::new();
        for module in list {
            if !["match", "network"].contains(&module.when) {
                continue;
            }
            let carrier = module.like.as_ref().unwrap_or(&module.name);
            let patterns = self
                .aliases
                .iter()
                .filter(|(_, name)| name == carrier)
                // Only what sysfs calls a device by; `block-major-8-*` and
                // `crypto-sha256` are requests, which nobody answers here.
                .filter(|(pattern, _)| pattern.contains(':') && !pattern.starts_with("devname:"));
            lines.extend(patterns.map(|(pattern, _)| format!("{pattern} {}\n", module.name)));
        }
        lines.into_iter().collect()
    }
}

fn decompress(path: &Path, bytes: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => content = bytes,
        Some("xz") => _ = liblzma::read::XzDecoder::new(&bytes[..]).read_to_end(&mut content)?,
        Some("zst") => _ = zstd::Decoder::new(&bytes[..])?.read_to_end(&mut content)?,
        _ => bail!("its compression is not known here (.ko, .ko.xz and .ko.zst are)"),
    }
    Ok(content)
}

/// `softdep NAME pre: a b post: c` gives a and b; what comes after the module
/// is not needed to reach the root.
fn parse_softdep(line: &str) -> Option<(String, Vec<String>)> {
    let mut words = line.strip_prefix("softdep ")?.split_whitespace();
    let name = kernel_name(words.next()?);
    let before = words
        .skip_while(|word| *word != "pre:")
        .skip(1)
        .take_while(|word| *word != "post:")
        .map(str::to_owned)
        .collect();
    Some((name, before))
}

/// `kernel/drivers/usb/storage/usb-storage.ko.xz` is `usb_storage`.
fn name_of(path: impl AsRef<str>) -> String {
    let file = path.as_ref().rsplit('/').next().unwrap_or_default();
    kernel_name(file.split(".ko").next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(
            path.join("modules.dep"),
            "k/usb-storage.ko: k/scsi_mod.ko k/scsi-common.ko\nk/scsi_mod.ko: k/scsi-common.ko\n\
             k/scsi-common.ko:\nk/crc32c_generic.ko:\nk/round.ko: k/about.ko\nk/about.ko: k/round.ko\n",
        )
        .unwrap();
        fs::write(
            path.join("modules.softdep"),
            "# comment\nsoftdep usb_storage pre: crypto-crc32c builtin-one post: late\n",
        )
        .unwrap();
        fs::write(
            path.join("modules.alias"),
            "# comment\nalias crypto-crc32c crc32c_generic\nalias usb:v*ic08* usb_storage\n\
             alias char-major-1 usb_storage\nalias usb:v* other\n",
        )
        .unwrap();
        fs::write(path.join("modules.builtin"), "kernel/ext4.ko\n").unwrap();
        let tree = Tree::read(path).unwrap();
        (dir, tree)
    }

    #[test]
    fn hard_and_soft_dependencies_come_before_what_needs_them() {
        let (_dir, tree) = tree();
        let mut order = Vec::new();
        tree.visit("usb_storage", &mut Vec::new(), &mut order)
            .unwrap();
        assert_eq!(
            order,
            ["scsi_common", "scsi_mod", "crc32c_generic", "usb_storage"]
        );
    }

    #[test]
    fn a_circle_is_an_error_that_names_it() {
        let (_dir, tree) = tree();
        let error = tree
            .visit("round", &mut Vec::new(), &mut Vec::new())
            .unwrap_err();
        assert!(
            error.to_string().contains("round → about → round"),
            "{error}"
        );
    }

    #[test]
    fn only_device_aliases_of_matched_modules_are_packed() {
        let (_dir, tree) = tree();
        let list = List::parse("match usb_storage\nnetwork late for=other\nneed other").unwrap();
        assert_eq!(
            tree.aliases_of(&list.modules),
            "usb:v* late\nusb:v*ic08* usb_storage\n"
        );
    }

    #[test]
    fn an_order_line_says_all_that_init_needs() {
        let list = List::parse("match usb-storage aside delay_use=0 # why\n\nalways ext4").unwrap();
        let before = ["scsi_mod".to_owned(), "crc32c_generic".to_owned()];
        assert_eq!(
            order_line("usb_storage", list.modules.first(), &before),
            "usb_storage match aside scsi_mod,crc32c_generic delay_use=0\n"
        );
        assert_eq!(
            order_line("scsi_mod", None, &[]),
            "scsi_mod need here - -\n"
        );
    }

    #[test]
    fn what_only_the_network_needs_is_compressed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for name in ["disk", "card", "ptp", "phy"] {
            let content = format!("module {name} ").repeat(100);
            fs::write(path.join(format!("{name}.ko")), content).unwrap();
        }
        fs::write(
            path.join("modules.dep"),
            "disk.ko: ptp.ko\ncard.ko: ptp.ko phy.ko\nptp.ko:\nphy.ko:\n",
        )
        .unwrap();
        for name in ["softdep", "alias", "builtin"] {
            fs::write(path.join(format!("modules.{name}")), "").unwrap();
        }
        let mut archive = Archive::default();
        let list = List::parse("network card aside\nmatch disk").unwrap();
        pack(path, &list, &mut archive).unwrap();
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        for plain in [
            "module disk module disk",
            "module ptp module ptp",
            "card network aside phy,ptp -",
        ] {
            assert!(text.contains(plain), "{plain}");
        }
        for packed in ["module card module card", "module phy module phy"] {
            assert!(!text.contains(packed), "{packed}");
        }
        for name in ["card.ko.xz", "phy.ko.xz", "disk.ko\0", "ptp.ko\0"] {
            assert!(text.contains(name), "{name}");
        }
    }
}
