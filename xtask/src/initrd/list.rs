//! Reads `initramfs/modules.list`, which explains its own form.

use anyhow::{Context as _, bail};

/// What the list asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) modules: Vec<Wanted>,
    /// Files and directories below `/lib/firmware`.
    pub(super) firmware: Vec<String>,
}

/// A module of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) when: &'static str,
    pub(super) aside: bool,
    pub(super) optional: bool,
    /// The module whose aliases say that this one is wanted, if not its own.
    pub(super) like: Option<String>,
    pub(super) parameters: Vec<String>,
}

impl List {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            list.line(line)
                .with_context(|| format!("initramfs/modules.list, line {}", index + 1))?;
        }
        Ok(list)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        let plain = line.split('#').next().unwrap_or_default();
        let mut words = plain.split_whitespace();
        let Some(when) = words.next() else {
            return Ok(());
        };
        if when == "firmware" {
            let path = words.next().context("the path is missing")?;
            self.firmware.push(path.to_owned());
            return words.next().map_or(Ok(()), |other| {
                bail!("{other:?} means nothing here");
            });
        }
        let when = ["always", "match", "network", "need"]
            .into_iter()
            .find(|known| *known == when)
            .with_context(|| {
                format!("{when:?} is none of `always`, `match`, `network`, `need`, `firmware`")
            })?;
        let name = words.next().context("the name is missing")?;
        let mut module = Wanted {
            name: kernel_name(name),
            when,
            aside: false,
            optional: false,
            like: None,
            parameters: Vec::new(),
        };
        for word in words {
            match word.split_once('=') {
                None if word == "aside" => module.aside = true,
                None if word == "optional" => module.optional = true,
                None => bail!("{word:?} means nothing here"),
                Some(("for", other)) => module.like = Some(kernel_name(other)),
                Some(_) => module.parameters.push(word.to_owned()),
            }
        }
        self.modules.push(module);
        Ok(())
    }
}

/// The kernel's own name has no dashes, whatever the file's has.
pub(super) fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_firmware_are_told_apart() {
        let list = List::parse("network mlx4-en for=mlx4-core # why\nfirmware bnx2").unwrap();
        assert_eq!(list.modules[0].name, "mlx4_en");
        assert_eq!(list.modules[0].like.as_deref(), Some("mlx4_core"));
        assert_eq!(list.firmware, ["bnx2"]);
    }

    #[test]
    fn a_slip_in_the_list_is_named_with_its_line() {
        for (list, word) in [
            ("always", "name"),
            ("never x", "never"),
            ("always x asside", "asside"),
            ("firmware", "path"),
            ("firmware x y", "y"),
        ] {
            let error = format!(
                "{:#}",
                List::parse(&format!("# first\n{list}")).unwrap_err()
            );
            assert!(error.contains("line 2") && error.contains(word), "{error}");
        }
    }
}
