//! The root: packages, what of them stays, what is ours, packed and hashed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};

use super::programs::Programs;
use super::stamp::{Inputs, Key, up_to_date_or};
use super::{Build, EPOCH, Progress, run};
use crate::initrd::RootConf;

/// Bytes of a block of the verity tree, and of what it covers.
const BLOCK: u64 = 4096;

/// What mkosi left: the pruned tree and, beside it, kernel and microcode.
#[derive(Debug)]
pub(crate) struct Base {
    key: Key,
    /// The pruned tree.
    tree: PathBuf,
    /// Debian's kernel.
    pub(crate) vmlinuz: PathBuf,
    /// The archive that the kernel reads microcode from.
    pub(crate) microcode: PathBuf,
}

impl Base {
    /// The kernel's module directory.
    pub(crate) fn modules(&self) -> anyhow::Result<PathBuf> {
        let all = self.tree.join("usr/lib/modules");
        let mut entries =
            fs::read_dir(&all).with_context(|| format!("listing {}", all.display()))?;
        let first = entries
            .next()
            .ok_or_else(|| anyhow!("no kernel in {}", all.display()))??;
        Ok(first.path())
    }
}

/// The root image and what the initramfs has to know of it.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) key: Key,
    pub(crate) path: PathBuf,
    pub(crate) conf: RootConf,
}

/// Installs the packages and prunes the tree, unless it stands already.
pub(crate) fn base(build: &Build, progress: &Progress) -> anyhow::Result<Base> {
    let stage = progress.stage("base");
    let lists = build.workspace.join("image/mkosi");
    let mirror = build.tools.mirror();
    let mut inputs = Inputs::new("base 1")
        .text(&mirror.main)
        .text(&mirror.security);
    for name in [
        "mkosi.conf",
        "mkosi.conf.d",
        "keep",
        "modules.list",
        "microcode.list",
        "prune.finalize",
    ] {
        inputs = inputs.path(&lists.join(name))?;
    }
    let key = inputs.key();
    let out = build.work.join("base");
    let base = Base {
        key: key.clone(),
        tree: out.join("base"),
        vmlinuz: out.join("vmlinuz"),
        microcode: out.join("microcode.cpio"),
    };
    let outputs = [
        base.tree.clone(),
        base.vmlinuz.clone(),
        base.microcode.clone(),
        out.join("packages.tsv"),
    ];
    let ran = up_to_date_or(&build.work, "base", &key, &outputs, || {
        stage.say("installing Debian packages (one to two minutes)");
        install(build, &lists, &out)
    })?;
    stage.done(if ran {
        "packages installed and pruned"
    } else {
        "packages unchanged"
    });
    Ok(base)
}

fn install(build: &Build, lists: &Path, out: &Path) -> anyhow::Result<()> {
    let sandbox = build.work.join("sandbox");
    let sources = sandbox.join("etc/apt/sources.list.d");
    let packages = build.work.join("packages");
    // mkosi tidies up after itself, unless an interrupt is faster.
    let workspace = build.work.join("mkosi");
    surplus_tests::interrupt::remove_at_end(&workspace);
    if workspace.exists() {
        fs::remove_dir_all(&workspace)
            .with_context(|| format!("removing {}", workspace.display()))?;
    }
    for directory in [&sources, &packages, &workspace, &out.to_owned()] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    // mkosi's own list would ask for archives that not every mirror has.
    fs::write(sources.join("mkosi.sources"), deb822(build))?;
    let mut command = build.tools.root_command("mkosi");
    command
        .arg("--directory")
        .arg(lists)
        .arg("--sandbox-tree")
        .arg(&sandbox)
        .arg("--output-directory")
        .arg(out)
        .arg("--package-cache-dir")
        .arg(&packages)
        .arg("--workspace-directory")
        .arg(&workspace)
        .args(["--force", "build"]);
    run::logged(&mut command, "mkosi", &build.work.join("base.log"))
        .context("installing the packages of image/mkosi: is the Debian mirror reachable?")
}

/// apt's sources in the form that mkosi takes.
fn deb822(build: &Build) -> String {
    let mirror = build.tools.mirror();
    let stanza = |url: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: main non-free-firmware\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        )
    };
    stanza(&mirror.main, "trixie trixie-updates") + &stanza(&mirror.security, "trixie-security")
}

/// Completes the tree with ours, packs it, appends agent, guard and the verity
/// tree.
pub(crate) fn image(
    build: &Build,
    base: &Base,
    programs: &Programs,
    progress: &Progress,
) -> anyhow::Result<Root> {
    let stage = progress.stage("root");
    let level = std::env::var("SURPLUS_SQUASH_LEVEL").unwrap_or_else(|_| "19".into());
    let ours = build.workspace.join("systemd");
    let compose = build.workspace.join("image/mkosi/compose");
    let told = seats();
    let key = Inputs::new("squash 2")
        .text(base.key.as_str())
        .text(&level)
        .text(&told[0].1)
        .text(&told[1].1)
        .path(&ours)?
        .path(&compose)?
        .key();
    let tree = build.work.join("tree");
    let squash = build.work.join("base.squashfs");
    up_to_date_or(
        &build.work,
        "squash",
        &key,
        std::slice::from_ref(&squash),
        || {
            stage.say("completing the tree with units and settings");
            let mut command = build.tools.root_command(&compose.to_string_lossy());
            let seats = build.work.join("seats");
            for (path, text) in &told {
                write(&seats.join(path), text)?;
            }
            command.arg(&base.tree).arg(&ours).arg(&seats).arg(&tree);
            run::logged(&mut command, "compose", &build.work.join("compose.log"))?;
            stage.say("packing the tree (half a minute)");
            pack(build, &tree, &squash, &level)
        },
    )?;

    let key = Inputs::new("root 2")
        .text(key.as_str())
        .path(&programs.agent)?
        .path(&programs.guard)?
        .key();
    let path = build.out.join("root.img");
    let conf = build.work.join("root.conf");
    let ran = up_to_date_or(
        &build.work,
        "root",
        &key,
        &[path.clone(), conf.clone()],
        || {
            stage.say("adding agent, guard and the verity tree");
            let part = build.work.join("root.part");
            fs::copy(&squash, &part).with_context(|| format!("copying to {}", part.display()))?;
            append_programs(build, [&programs.agent, &programs.guard], &part)?;
            let root = append_verity(build, &part)?;
            fs::write(
                &conf,
                format!("{} {} {}\n", root.hash, root.data_blocks, root.hash_offset),
            )?;
            fs::rename(&part, &path).with_context(|| format!("renaming to {}", path.display()))
        },
    )?;
    let conf = read_conf(&conf)?;
    let state = if ran { "made" } else { "unchanged" };
    stage.done(&format!("root {} {state}", &conf.hash[..16]));
    Ok(Root { key, path, conf })
}

/// What the packet filter and the guests' DHCP server are told: files of the
/// image with their texts.
fn seats() -> [(&'static str, String); 2] {
    [
        (
            "usr/lib/surplus/seats.nft",
            surplus_seat::render::packet_filter(),
        ),
        (
            "usr/lib/systemd/network/10-surplus0.network.d/seats.conf",
            surplus_seat::render::dhcp_leases(),
        ),
    ]
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Packs the tree as SquashFS; the larger the level, the smaller and slower.
fn pack(build: &Build, tree: &Path, out: &Path, level: &str) -> anyhow::Result<()> {
    let part = out.with_extension("part");
    // Written by root, who reads everything in the tree; readable by us.
    let mut command = build.tools.root_command("mksquashfs");
    command
        .arg(tree)
        .arg(&part)
        .args([
            "-noappend",
            "-comp",
            "zstd",
            "-Xcompression-level",
            level,
            "-b",
            "128K",
        ])
        .args(["-no-xattrs", "-no-exports", "-quiet", "-no-progress"])
        .args(["-all-time", EPOCH, "-mkfs-time", EPOCH]);
    run::quiet(&mut command, "mksquashfs")?;
    fs::rename(&part, out).with_context(|| format!("renaming to {}", out.display()))
}

/// Appends `/opt/surplus` with these programs to a packed tree, which is what
/// makes a build with nothing but a new agent take seconds.
fn append_programs(build: &Build, programs: [&Path; 2], image: &Path) -> anyhow::Result<()> {
    let opt = build.work.join("programs/opt");
    let place = opt.join("surplus");
    fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        fs::copy(program, place.join(name))
            .with_context(|| format!("copying {}", program.display()))?;
    }
    let mut command = build.tools.command("mksquashfs");
    command
        .arg(&opt)
        .arg(image)
        .args([
            "-keep-as-directory",
            "-all-root",
            "-no-recovery",
            "-no-xattrs",
            "-no-exports",
        ])
        .args([
            "-quiet",
            "-no-progress",
            "-all-time",
            EPOCH,
            "-mkfs-time",
            EPOCH,
        ]);
    run::quiet(&mut command, "mksquashfs (adding the programs)")
}

/// Appends the verity tree, without superblock and salt: all that it would say
/// is in the initramfs.
fn append_verity(build: &Build, image: &Path) -> anyhow::Result<RootConf> {
    let size = image.metadata()?.len();
    if size % BLOCK != 0 {
        bail!(
            "{} has {size} bytes, which is no multiple of {BLOCK}",
            image.display()
        );
    }
    let data_blocks = size / BLOCK;
    let mut command = build.tools.command("veritysetup");
    command
        .args(["format", "--no-superblock", "--salt=-", "--hash=sha256"])
        .arg(format!("--data-blocks={data_blocks}"))
        .arg(format!("--hash-offset={size}"))
        .arg(image)
        .arg(image);
    let said = run::output(&mut command, "veritysetup")?;
    let hash = said
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"));
    let hash = hash.ok_or_else(|| anyhow!("veritysetup named no root hash:\n{said}"))?;
    Ok(RootConf {
        hash: hash.trim().to_owned(),
        data_blocks,
        hash_offset: size,
    })
}

fn read_conf(path: &Path) -> anyhow::Result<RootConf> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [hash, data_blocks, hash_offset] = words[..] else {
        bail!(
            "{} is not of this build: remove it and build again",
            path.display()
        );
    };
    Ok(RootConf {
        hash: hash.to_owned(),
        data_blocks: data_blocks.parse()?,
        hash_offset: hash_offset.parse()?,
    })
}
