//! Packs the initramfs: `/init`, the kernel modules that it needs, and what it
//! must know of the root.
//!
//! What is packed, all owned by root, with times of zero, in one fixed order,
//! so that equal input gives equal bytes:
//!
//! | path | what |
//! |---|---|
//! | `/init` | the static program of `initramfs/` |
//! | `/root.conf` | `hash=`, `data_blocks=`, `hash_offset=` of the root image |
//! | `/root.pieces` | hashes of its pieces, for a root that comes over the network |
//! | `/modules/NAME.ko` | decompressed modules, named as the kernel names them |
//! | `/modules/NAME.ko.xz` | modules that only a boot from the network loads |
//! | `/lib/firmware/PATH.xz` | the firmware of network cards |
//! | `/modules/order` | a line a module, dependencies first (see [`modules`]) |
//! | `/modules/aliases` | `PATTERN NAME`, for modules loaded by match |
//! | `/dev`, `/proc`, … | mount points, and the first console |
//!
//! Early microcode is not packed here: the image build prepends it, since the
//! kernel wants it uncompressed and first.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use surplus_medium::cpio::Archive;
use surplus_medium::pieces;

use self::list::List;

mod firmware;
mod list;
mod modules;
mod xz;

/// The list that says which modules and firmware go in, and why.
const MODULES: &str = include_str!("../../initramfs/modules.list");

/// Zstandard's level: the initramfs is packed once and read over slow media.
const LEVEL: i32 = 19;

/// What the initramfs must know of the root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootConf {
    /// Root hash of the verity tree: 64 hexadecimal digits.
    pub(crate) hash: String,
    /// Blocks of 4096 bytes that the tree covers.
    pub(crate) data_blocks: u64,
    /// Where the tree begins in the image, in bytes; a multiple of 4096.
    pub(crate) hash_offset: u64,
}

/// Packs the initramfs into `out` (newc cpio, zstd).
///
/// `modules` is the kernel's module directory with its `modules.dep`, as
/// `…/usr/lib/modules/6.12.0-amd64`, and the firmware lies beside in
/// `…/usr/lib/firmware`; `init` is the static program, `image` the root image. `out`
/// is replaced as a whole or not at all.
pub(crate) fn build(
    modules: &Path,
    init: &Path,
    root: &RootConf,
    image: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let mut archive = Archive::default();
    for directory in ["dev", "modules", "proc", "run", "sys", "sysroot"] {
        archive.directory(directory);
    }
    archive.console("dev/console");
    let program = fs::read(init).with_context(|| format!("reading {}", init.display()))?;
    archive.file("init", 0o755, &program);
    archive.file("root.conf", 0o644, root.text()?.as_bytes());
    let pieces = File::open(image).and_then(|mut image| pieces::list(&mut image));
    let pieces = pieces.with_context(|| format!("reading {}", image.display()))?;
    archive.file("root.pieces", 0o644, &pieces);
    let list = List::parse(MODULES)?;
    modules::pack(modules, &list, &mut archive)?;
    let beside = modules.join("../../firmware");
    firmware::pack(&beside, &list.firmware, &mut archive)?;

    let packed =
        compress(&archive.finish()).with_context(|| format!("compressing {}", out.display()))?;
    let part = out.with_extension("part");
    fs::write(&part, packed).with_context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, out).with_context(|| format!("renaming {} into place", part.display()))
}

impl RootConf {
    /// The text of `/root.conf`.
    fn text(&self) -> anyhow::Result<String> {
        let Self {
            hash,
            data_blocks,
            hash_offset,
        } = self;
        let hexadecimal = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(
            hexadecimal,
            "the root hash {hash:?} is not 64 hexadecimal digits"
        );
        ensure!(*data_blocks > 0, "the root image has no data blocks");
        ensure!(
            hash_offset % 4096 == 0,
            "the hash offset {hash_offset} is no multiple of 4096"
        );
        let hash = hash.to_ascii_lowercase();
        Ok(format!(
            "hash={hash}\ndata_blocks={data_blocks}\nhash_offset={hash_offset}\n"
        ))
    }
}

/// Padded to four bytes: what is appended (the root, by network boot) is read
/// only where it begins at such a place.
fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.write_all(bytes)?;
    let mut packed = encoder.finish()?;
    packed.resize(packed.len().next_multiple_of(4), 0);
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::PathBuf;

    use super::*;

    fn root() -> RootConf {
        RootConf {
            hash: "AB".repeat(32),
            data_blocks: 3,
            hash_offset: 12288,
        }
    }

    /// A module tree in which `squashfs` is compressed and needs `a`, and the
    /// rest of the real list is built in, with all its firmware.
    fn module_tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let list = List::parse(MODULES).unwrap();
        for name in &list.firmware {
            let file = dir.path().join("firmware").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "firmware").unwrap();
        }
        let path = dir.path().join("modules/6.12");
        fs::create_dir_all(path.join("fs")).unwrap();
        fs::write(path.join("fs/a.ko"), "module a").unwrap();
        let packed = zstd::encode_all(&b"module squashfs"[..], 1).unwrap();
        fs::write(path.join("fs/squashfs.ko.zst"), packed).unwrap();
        fs::write(
            path.join("modules.dep"),
            "fs/a.ko:\nfs/squashfs.ko.zst: fs/a.ko\n",
        )
        .unwrap();
        fs::write(path.join("modules.softdep"), "").unwrap();
        fs::write(path.join("modules.alias"), "alias fs-squashfs squashfs\n").unwrap();
        let builtin: String = list
            .modules
            .iter()
            .filter(|m| m.name != "squashfs")
            .fold(String::new(), |text, m| {
                text + "kernel/" + &m.name + ".ko\n"
            });
        fs::write(path.join("modules.builtin"), builtin).unwrap();
        (dir, path)
    }

    #[test]
    fn equal_input_gives_equal_bytes_with_all_parts_in_it() {
        let (_dir, tree) = module_tree();
        let init = tree.join("init");
        fs::write(&init, "program").unwrap();
        let image = tree.join("root.img");
        fs::write(&image, "an image").unwrap();
        let outs = ["one.img", "two.img"].map(|name| tree.join(name));
        for out in &outs {
            build(&tree, &init, &root(), &image, out).unwrap();
        }
        let bytes = fs::read(&outs[0]).unwrap();
        assert_eq!(bytes, fs::read(&outs[1]).unwrap());
        assert!(bytes.len().is_multiple_of(4));
        let mut archive = Vec::new();
        zstd::Decoder::new(&bytes[..])
            .unwrap()
            .single_frame()
            .read_to_end(&mut archive)
            .unwrap();
        let text = String::from_utf8_lossy(&archive);
        for part in [
            "program",
            "module a",
            "module squashfs",
            "data_blocks=3\n",
            "root.pieces",
            "lib/firmware/tigon.xz",
            "TRAILER!!!",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(text.contains(&format!("hash={}\n", "ab".repeat(32))));
    }

    #[test]
    fn a_module_that_the_kernel_lacks_stops_the_build_by_name() {
        let (_dir, tree) = module_tree();
        fs::write(tree.join("modules.builtin"), "").unwrap();
        let nothing = Path::new("/dev/null");
        let error = build(&tree, nothing, &root(), nothing, &tree.join("out"));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("dm_mod"), "{text}");
        assert!(!tree.join("out").exists());
    }

    #[test]
    fn a_root_hash_of_the_wrong_length_is_refused() {
        let short = RootConf {
            hash: "ab".into(),
            ..root()
        };
        assert!(short.text().is_err());
        let uneven = RootConf {
            hash_offset: 5,
            ..root()
        };
        assert!(uneven.text().is_err());
    }
}
