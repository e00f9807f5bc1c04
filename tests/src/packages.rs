//! Debian packages beside the tools tree: downloaded and unpacked, never
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use surplus_tools::Tools;

use crate::lab::run;

/// apt with a state of its own below `home`: the tools tree is read-only.
#[derive(Debug)]
pub struct Packages<'a> {
    tools: &'a Tools,
    home: PathBuf,
}

impl<'a> Packages<'a> {
    /// Fetches the package lists (about 10 MB).
    pub fn prepare(home: impl Into<PathBuf>, tools: &'a Tools) -> Result<Self> {
        let home = home.into();
        for part in ["state/lists/partial", "cache/archives/partial", "downloads"] {
            fs::create_dir_all(home.join(part))?;
        }
        let packages = Self { tools, home };
        let sources = tools.mirror().sources().join("\n");
        fs::write(packages.home.join("sources.list"), sources)?;
        run(packages.command("apt-get").args(["-q", "update"]))?;
        Ok(packages)
    }

    /// What `package` depends on, as `apt-cache depends` says it.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = run(self.command("apt-cache").args(["depends", package]))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads `packages` and unpacks them into `target`.
    pub fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        let downloads = self.home.join("downloads");
        let mut apt = self.command("apt-get");
        run(apt
            .current_dir(&downloads)
            .args(["-q", "download"])
            .args(packages))?;
        let debs: Vec<_> = fs::read_dir(&downloads)?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        ensure!(
            debs.len() == packages.len(),
            "apt-get downloaded {debs:?} for {packages:?}"
        );
        for deb in debs {
            run(self
                .tools
                .command("dpkg-deb")
                .arg("-x")
                .arg(&deb)
                .arg(target))
            .with_context(|| format!("could not unpack {}", deb.display()))?;
            fs::remove_file(&deb)?;
        }
        Ok(())
    }

    /// Removes lists and caches.
    pub fn clean(self) -> Result<()> {
        fs::remove_dir_all(&self.home)
            .with_context(|| format!("could not remove {}", self.home.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.tools.command(program);
        let home = self.home.display();
        for option in [
            format!("Dir::State={home}/state"),
            format!("Dir::Cache={home}/cache"),
            format!("Dir::Etc::sourcelist={home}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::State::status=/var/lib/dpkg/status".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}
