//! What this program knows of the root: `/root.conf`, packed beside it, and the
//! kernel command line, which must not contradict.

use std::fs;
use std::path::Path;

use crate::failure::{Context as _, Failure, MEDIUM};

/// Bytes of a block of the verity tree.
pub(crate) const BLOCK: u64 = 4096;

const ARGUMENT: &str = "surplus.roothash=";

/// The root's hash and the shape of its verity tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootConf {
    /// 64 hexadecimal digits, lower case.
    pub(crate) hash: String,
    /// Blocks of [`BLOCK`] bytes.
    pub(crate) data_blocks: u64,
    /// Bytes; a multiple of [`BLOCK`].
    pub(crate) hash_offset: u64,
}

impl RootConf {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).failed("root", "reading /root.conf", MEDIUM)?;
        Self::parse(&text)
            .ok_or_else(|| Failure::new("root", "/root.conf does not describe a root", MEDIUM))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut values = text
                .lines()
                .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            values.next().filter(|_| values.next().is_none())
        };
        let conf = Self {
            hash: value("hash")
                .filter(|hash| is_hash(hash))?
                .to_ascii_lowercase(),
            data_blocks: value("data_blocks")?.parse().ok()?,
            hash_offset: value("hash_offset")?.parse().ok()?,
        };
        // Bounds that keep every later computation inside 64 bits.
        let sound = (1..1 << 40).contains(&conf.data_blocks)
            && conf.hash_offset < 1 << 52
            && conf.hash_offset.is_multiple_of(BLOCK)
            && conf.hash_offset >= conf.data_blocks * BLOCK;
        sound.then_some(conf)
    }

    /// Refuses a command line that names another root: it and the initramfs
    /// come from different images then, or someone altered one of them.
    pub(crate) fn agrees_with(&self, command_line: &str) -> Result<(), Failure> {
        for word in command_line.split_ascii_whitespace() {
            let Some(hash) = word.trim_matches('"').strip_prefix(ARGUMENT) else {
                continue;
            };
            if !hash.eq_ignore_ascii_case(&self.hash) {
                return Err(Failure::new(
                    "root",
                    format!(
                        "the kernel command line names the root {hash}, and the initramfs knows {}",
                        self.hash
                    ),
                    "kernel, command line and initramfs must come from one image: boot an unaltered \
                     medium, or correct surplus.roothash",
                ));
            }
        }
        Ok(())
    }

    /// The volume id of the medium that carries this root.
    pub(crate) fn volume_id(&self) -> String {
        format!("SURPLUS_{}", self.hash[..16].to_ascii_uppercase())
    }
}

/// The kernel's command line.
pub(crate) fn command_line() -> Result<String, Failure> {
    fs::read_to_string("/proc/cmdline").failed(
        "root",
        "reading the command line",
        crate::failure::KERNEL,
    )
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf() -> RootConf {
        RootConf {
            hash: "ab".repeat(32),
            data_blocks: 3,
            hash_offset: 12288,
        }
    }

    #[test]
    fn the_packer_s_file_is_read() {
        let text = format!(
            "hash={}\ndata_blocks=3\nhash_offset=12288\n",
            "AB".repeat(32)
        );
        assert_eq!(RootConf::parse(&text), Some(conf()));
        assert_eq!(conf().volume_id(), "SURPLUS_ABABABABABABABAB");
    }

    #[test]
    fn files_that_cannot_be_right_are_refused() {
        let good = format!(
            "hash={}\ndata_blocks=3\nhash_offset=12288\n",
            "ab".repeat(32)
        );
        for (from, to) in [
            ("abab", "xyzz"),
            ("data_blocks=3", "data_blocks=0"),
            ("data_blocks=3", "data_blocks=4"),
            ("data_blocks=3", "data_blocks=18446744073709551615"),
            ("hash_offset=12288", "hash_offset=12289"),
            ("hash_offset=12288\n", ""),
            ("data_blocks=3", "data_blocks=3\ndata_blocks=2"),
        ] {
            assert_eq!(RootConf::parse(&good.replacen(from, to, 1)), None, "{to}");
        }
    }

    #[test]
    fn a_command_line_that_names_another_root_is_refused() {
        let hash = "AB".repeat(32);
        conf().agrees_with("quiet console=ttyS0").unwrap();
        conf()
            .agrees_with(&format!("quiet surplus.roothash={hash}\n"))
            .unwrap();
        let other = format!(
            "surplus.roothash={hash} surplus.roothash={}",
            "cd".repeat(32)
        );
        let failure = conf().agrees_with(&other).unwrap_err();
        assert!(
            failure.error.contains(&"cd".repeat(32)),
            "{}",
            failure.error
        );
        assert!(conf().agrees_with("surplus.roothash=").is_err());
    }
}
