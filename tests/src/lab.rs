//! The place where machines are tried: tools tree, accelerator, directories.
//!
//! Each test has one [`Lab`]. Logs lie under `target/test-logs/<test>` and are
//! removed when the test succeeds; everything else is in a temporary directory
//! that goes with the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use surplus_tools::Tools;

use crate::accel::Accel;
use crate::machine::Builder;
use crate::{guest, interrupt};

/// What tests and the demo run machines with.
#[derive(Debug)]
pub struct Lab {
    tools: Tools,
    accel: Accel,
    root: PathBuf,
    logs: PathBuf,
    scratch: tempfile::TempDir,
}

impl Lab {
    /// Makes the tools tree if it is missing, probes KVM, empties the logs of
    /// `name`.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_with(name, &|line| eprintln!("{line}"))
    }

    /// The same, telling `progress` what takes long.
    pub fn open_with(name: &str, progress: &dyn Fn(&str)) -> Result<Self> {
        let root = repository();
        let tools = Tools::ensure(&root, progress).context("could not make the tools tree")?;
        let scratch = tempfile::Builder::new()
            .prefix("surplus-")
            .tempdir()
            .context("could not make a temporary directory")?;
        interrupt::remove_at_end(scratch.path());
        let logs = root.join("target/test-logs").join(name);
        if logs.exists() {
            fs::remove_dir_all(&logs)
                .with_context(|| format!("could not empty {}", logs.display()))?;
        }
        fs::create_dir_all(&logs)
            .with_context(|| format!("could not create {}", logs.display()))?;
        let accel = Accel::choose(&tools, scratch.path())?;
        Ok(Self {
            tools,
            accel,
            root,
            logs,
            scratch,
        })
    }

    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// The repository's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The temporary directory; short enough for Unix sockets.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The directory of this lab's logs.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A machine to be built.
    pub fn machine(&self, name: &str) -> Builder<'_> {
        Builder::new(self, name)
    }

    pub(crate) fn machine_directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.logs.join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not create {}", directory.display()))?;
        Ok(directory)
    }

    /// A built artefact, `target/image/<name>`.
    pub fn artefact(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join("target/image").join(name);
        if !path.exists() {
            bail!(
                "{} is missing: make it by `cargo xtask image`",
                path.display()
            );
        }
        Ok(path)
    }

    /// The small guest's disk, `target/guest/guest.<format>` (`raw` or
    /// `qcow2`), made if it is missing or old.
    pub fn guest_image(&self, format: &str) -> Result<PathBuf> {
        let directory = guest::ensure_built(&self.root, &self.tools, &|line| eprintln!("{line}"))
            .context("could not make the small guest's image")?;
        Ok(directory.join(format!("guest.{format}")))
    }

    /// Puts one of our own programs into the kit that machines with a shell have
    /// (see [`crate::shell`]).
    pub fn bring(&self, name: &str) -> Result<()> {
        let kit = self.scratch().join("kit/bin");
        let program = self.program(name)?;
        fs::create_dir_all(&kit)
            .and_then(|()| fs::copy(program.get_program(), kit.join(name)))
            .with_context(|| format!("could not copy {name} to {}", kit.display()))?;
        Ok(())
    }

    /// The disk of a guest that does nothing at all.
    pub fn halting_image(&self) -> Result<PathBuf> {
        self.image("halting.raw", &guest::halting_disk())
    }

    /// The disk of a guest that does nothing but burn its processor.
    pub fn burning_image(&self) -> Result<PathBuf> {
        self.image("burning.raw", &guest::burning_disk())
    }

    fn image(&self, name: &str, disk: &[u8]) -> Result<PathBuf> {
        let path = self.scratch().join(name);
        fs::write(&path, disk).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    /// One of our own programs, as built beside this one.
    pub fn program(&self, name: &str) -> Result<Command> {
        let ours = std::env::current_exe().context("could not find the running program")?;
        let found = ours
            .ancestors()
            .skip(1)
            .take(3)
            .map(|dir| dir.join(name))
            .find(|p| p.is_file());
        let Some(path) = found else {
            bail!(
                "{name} is missing beside {}: `cargo build -p {name}`",
                ours.display()
            );
        };
        Ok(Command::new(path))
    }

    /// Removes the logs: what a test does when it has succeeded.
    pub fn forget_logs(&self) {
        if std::env::var_os("SURPLUS_TEST_KEEP_LOGS").is_none() {
            let _ = fs::remove_dir_all(&self.logs);
        }
    }
}

/// Runs a test body in a lab of its own; the logs stay when it fails.
pub fn test(name: &str, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::open(name)?;
    body(&lab).with_context(|| format!("logs: {}", lab.logs().display()))?;
    lab.forget_logs();
    Ok(())
}

/// Runs a command to its end and returns its output; when it fails, its output
/// is the error's text.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("could not start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

/// The repository that this was built from.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}
