//! Chooses the modules of the initramfs and the order of their loading.
//!
//! Reads depmod's text files beside the modules. A line of `/modules/order` is
//! five words, `-` for nothing: name, `always|match|need`, `here|aside`,
//! the modules to load before it with commas, and its parameters with commas.
//! Dependencies stand before what needs them, so the file read from top to
//! bottom is an order in which everything loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use surplus_medium::cpio::Archive;

/// One line of `initramfs/modules.list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    when: &'static str,
    aside: bool,
    optional: bool,
    parameters: Vec<String>,
}

/// Adds the modules of `list` with their dependencies, order and aliases.
pub(super) fn pack(directory: &Path, list: &str, archive: &mut Archive) -> anyhow::Result<()> {
    let tree = Tree::read(directory)?;
    let wanted = parse_list(list)?;
    let mut order = Vec::new();
    for module in &wanted {
        if tree.files.contains_key(&module.name) {
            tree.visit(&module.name, &mut Vec::new(), &mut order)?;
        } else if !tree.builtin.contains(&module.name) && !module.optional {
            bail!(
                "the kernel in {} has no module {}; if it was renamed, change initramfs/modules.list",
                directory.display(),
                module.name
            );
        }
    }

    let mut lines = String::new();
    for name in &order {
        let content = tree.content(name)?;
        archive.file(&format!("modules/{name}.ko"), 0o644, &content);
        let line = wanted.iter().find(|module| module.name == *name);
        lines += &order_line(name, line, &tree.dependencies(name));
    }
    archive.file("modules/order", 0o644, lines.as_bytes());

    let by_match: BTreeSet<_> = wanted
        .iter()
        .filter(|module| module.when == "match")
        .map(|module| &*module.name)
        .collect();
    archive.file(
        "modules/aliases",
        0o644,
        tree.aliases_of(&by_match).as_bytes(),
    );
    Ok(())
}

pub(super) fn parse_list(list: &str) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for (index, line) in list.lines().enumerate() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(when) = words.next() else { continue };
        let at = || format!("initramfs/modules.list, line {}", index + 1);
        let when = ["always", "match", "need"]
            .into_iter()
            .find(|known| *known == when)
            .with_context(|| format!("{}: {when:?} is none of `always`, `match`, `need`", at()))?;
        let name = words
            .next()
            .with_context(|| format!("{}: the name is missing", at()))?;
        let mut module = Wanted {
            name: kernel_name(name),
            when,
            aside: false,
            optional: false,
            parameters: Vec::new(),
        };
        for word in words {
            match word {
                "aside" => module.aside = true,
                "optional" => module.optional = true,
                word if word.contains('=') => module.parameters.push(word.to_owned()),
                other => bail!("{}: {other:?} means nothing here", at()),
            }
        }
        wanted.push(module);
    }
    Ok(wanted)
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

    fn aliases_of(&self, modules: &BTreeSet<&str>) -> String {
        let wanted: BTreeSet<_> = self
            .aliases
            .iter()
            .filter(|(_, module)| modules.contains(&**module))
            // Only what sysfs calls a device by; `block-major-8-*` and
            // `crypto-sha256` are requests, which nobody answers here.
            .filter(|(pattern, _)| pattern.contains(':') && !pattern.starts_with("devname:"))
            .map(|(pattern, module)| format!("{pattern} {module}\n"))
            .collect();
        wanted.into_iter().collect()
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

/// The kernel's own name has no dashes, whatever the file's has.
fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
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
        assert_eq!(
            tree.aliases_of(&["usb_storage"].into()),
            "usb:v*ic08* usb_storage\n"
        );
    }

    #[test]
    fn an_order_line_says_all_that_init_needs() {
        let list = parse_list("match usb-storage aside delay_use=0 # why\n\nalways ext4").unwrap();
        let before = ["scsi_mod".to_owned(), "crc32c_generic".to_owned()];
        assert_eq!(
            order_line("usb_storage", list.first(), &before),
            "usb_storage match aside scsi_mod,crc32c_generic delay_use=0\n"
        );
        assert_eq!(
            order_line("scsi_mod", None, &[]),
            "scsi_mod need here - -\n"
        );
    }

    #[test]
    fn a_slip_in_the_list_is_named_with_its_line() {
        for (list, word) in [
            ("always", "name"),
            ("never x", "never"),
            ("always x asside", "asside"),
        ] {
            let error = parse_list(&format!("# first\n{list}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains("line 2") && error.contains(word), "{error}");
        }
    }
}
