//! A real `surplus-netboot` on a station of a private network, and what hosts
//! are given by it.

pub mod signed;

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use surplus_image::efi;

use crate::lab::{Lab, run};
use crate::machine::Kernel;
use crate::network::Station;
use crate::process::Supervised;

/// Where it serves the artefacts, and where the site file.
pub const HTTP: u16 = 8080;
pub const HTTPS: u16 = 8444;

const START: Duration = Duration::from_secs(60);

/// A boot server that can be stopped and started; its certificate stays.
#[derive(Debug)]
pub struct BootServer<'a> {
    station: &'a Station<'a>,
    artefacts: PathBuf,
    site: PathBuf,
    state: PathBuf,
    answers_dhcp: bool,
    log: PathBuf,
    process: Option<Supervised>,
    /// Of earlier runs.
    cpu_seconds: f64,
}

impl<'a> BootServer<'a> {
    /// Serves `target/image` and the site file `site`.
    pub fn start(station: &'a Station<'a>, site: &str) -> Result<Self> {
        let image = station.lab().artefact("SHA256SUMS")?;
        let image = image.parent().context("the artefacts lie in a directory")?;
        Self::start_with(station, "boot", site, image)
    }

    /// The same beside a DHCP server that says itself where to boot from.
    pub fn start_without_dhcp(station: &'a Station<'a>, site: &str) -> Result<Self> {
        let mut server = Self::start(station, site)?;
        server.stop();
        server.answers_dhcp = false;
        server.resume()?;
        Ok(server)
    }

    /// The same with other artefacts, under a name of its own: another name
    /// has another certificate.
    pub fn start_with(
        station: &'a Station<'a>,
        name: &str,
        site: &str,
        artefacts: &Path,
    ) -> Result<Self> {
        let lab = station.lab();
        let file = lab.scratch().join(format!("{name}.toml"));
        fs::write(&file, site)?;
        let mut server = Self {
            station,
            artefacts: artefacts.to_owned(),
            site: file,
            state: lab.scratch().join(format!("{name}.state")),
            answers_dhcp: true,
            log: lab.logs().join(format!("netboot-{name}.log")),
            process: None,
            cpu_seconds: 0.0,
        };
        server.resume()?;
        Ok(server)
    }

    /// Starts it, also after [`stop`](Self::stop).
    pub fn resume(&mut self) -> Result<()> {
        let lab = self.station.lab();
        let mut command = lab.program("surplus-netboot")?;
        command
            .args(["serve", "--interface", self.station.interface()])
            .arg("--artefacts")
            .arg(&self.artefacts)
            .arg("--site")
            .arg(&self.site)
            .arg("--state")
            .arg(&self.state);
        if !self.answers_dhcp {
            command.arg("--no-dhcp");
        }
        let command = self.station.enter(&command);
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("could not open {}", self.log.display()))?;
        let also = log.try_clone()?;
        let process = self.process.insert(Supervised::spawn(&command, |command| {
            command.stdin(Stdio::null()).stdout(log).stderr(also);
        })?);
        for port in [HTTP, HTTPS] {
            self.station.wait_to_listen(port, START, || {
                let ended = process.ended()?;
                Ok(ended.map(|status| {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    format!("surplus-netboot ended ({status}):\n{log}")
                }))
            })?;
        }
        Ok(())
    }

    /// Kills it.
    pub fn stop(&mut self) {
        self.cpu_seconds = self.cpu_seconds();
        self.process = None;
    }

    /// CPU seconds that it has used so far.
    pub fn cpu_seconds(&self) -> f64 {
        let now = self.process.as_ref().map_or(0.0, Supervised::cpu_seconds);
        self.cpu_seconds + now
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A file that it serves.
    pub fn artefact(&self, file: &str) -> PathBuf {
        self.artefacts.join(file)
    }

    /// `http://…/<file>`.
    pub fn url(&self, file: &str) -> String {
        format!("http://{}:{HTTP}/{file}", self.station.address())
    }

    /// What it puts on every host's command line: where the site file is and
    /// which certificate to trust, never a secret.
    pub fn words(&self) -> Result<String> {
        let mut curl = self.station.tool("curl");
        let script = run(curl.args(["-sSf", &self.url("start.ipxe")]))?;
        let script = String::from_utf8(script).context("start.ipxe is not text")?;
        let mut lines = script.lines();
        let words = lines.find_map(|line| line.strip_prefix("set extra "));
        Ok(words
            .with_context(|| format!("no `set extra` in start.ipxe:\n{script}"))?
            .to_owned())
    }

    /// Kernel and initramfs as its boot script would start them, for tests of
    /// what comes after.
    pub fn kernel(&self) -> Result<Kernel> {
        let words = format!("surplus.root={} {}", self.url("root.img"), self.words()?);
        kernel(self.station.lab(), &words)
    }
}

/// The built kernel and initramfs with the build's own command line and
/// `words` behind it.
pub fn kernel(lab: &Lab, words: &str) -> Result<Kernel> {
    let own = efi::command_line(&fs::read(lab.artefact("surplus.efi")?)?)?;
    Ok(Kernel {
        image: lab.artefact("vmlinuz")?,
        initrd: lab.artefact("initrd")?,
        command_line: format!("{} {words}", own.trim()),
    })
}

/// Any HTTP server at all, here busybox's: serves a directory at `port` of this
/// address, which belongs to the station.
pub fn plain_http(
    station: &Station<'_>,
    address: IpAddr,
    port: u16,
    directory: &Path,
) -> Result<Supervised> {
    let mut command = station.tool("busybox");
    command
        .args(["httpd", "-f", "-p"])
        .arg(SocketAddr::new(address, port).to_string())
        .arg("-h")
        .arg(directory);
    let mut server = Supervised::spawn(&command, |command| {
        command.stdin(Stdio::null());
    })?;
    station.wait_to_listen(port, START, || {
        let ended = server.ended()?;
        Ok(ended.map(|status| format!("busybox httpd ended ({status})")))
    })?;
    Ok(server)
}

/// A copy of the artefacts to be damaged: everything is linked but the root.
pub fn copy_of_artefacts(lab: &Lab, name: &str) -> Result<PathBuf> {
    let copy = lab.scratch().join(name);
    fs::create_dir(&copy).with_context(|| format!("could not make {}", copy.display()))?;
    let image = lab.root().join("target/image");
    for entry in fs::read_dir(&image)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let to = copy.join(entry.file_name());
        if entry.file_name() == "root.img" {
            fs::copy(entry.path(), &to)?;
        } else if entry.path().extension().is_none_or(|end| end != "iso") {
            std::os::unix::fs::symlink(entry.path(), &to)?;
        }
    }
    Ok(copy)
}
