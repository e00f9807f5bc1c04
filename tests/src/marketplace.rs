//! A real marketplace, and the real command line speaking to it.
//!
//! It listens on a free port of loopback, and machines reach it through QEMU's
//! user-mode network at 10.0.2.2; or on a station of a private network. That
//! address is in its certificate and in every site file that it gives out.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use surplus_protocol::api::{CreatedKey, CreatedToken};

use crate::client::Client;
use crate::lab::Lab;
use crate::network::Station;
use crate::process::Supervised;

/// Where QEMU's user-mode network shows this computer's loopback.
pub const SEEN_FROM_MACHINES: &str = "10.0.2.2";

/// Where it listens on a private network.
const PORT: u16 = 8443;

/// The first start makes a CA; a debug build on a busy machine takes its time.
const START: Duration = Duration::from_secs(60);

/// A running marketplace.
#[derive(Debug)]
pub struct Marketplace<'a> {
    lab: &'a Lab,
    data: PathBuf,
    port: u16,
    log: PathBuf,
    station: Option<&'a Station<'a>>,
    process: Option<Supervised>,
}

impl<'a> Marketplace<'a> {
    /// Starts one with a fresh data directory.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        Self::start_named(lab, "marketplace")
    }

    /// The same under a name of its own: a second marketplace beside the first
    /// has another CA.
    pub fn start_named(lab: &'a Lab, name: &str) -> Result<Self> {
        Self::start_on(lab, name, free_port()?)
    }

    /// The same on a port of one's own choice.
    pub fn start_on(lab: &'a Lab, name: &str, port: u16) -> Result<Self> {
        Self::start_at(lab, name, port, None)
    }

    /// The same on a station of a private network.
    pub fn start_in(station: &'a Station<'a>) -> Result<Self> {
        let name = format!("marketplace-{}", station.name());
        Self::start_at(station.lab(), &name, PORT, Some(station))
    }

    fn start_at(
        lab: &'a Lab,
        name: &str,
        port: u16,
        station: Option<&'a Station<'a>>,
    ) -> Result<Self> {
        let data = lab.scratch().join(name);
        let log = lab.logs().join(format!("{name}.log"));
        let mut marketplace = Self {
            lab,
            data,
            port,
            log,
            station,
            process: None,
        };
        marketplace.resume()?;
        Ok(marketplace)
    }

    /// Starts it again on the same data and port, after [`stop`](Self::stop).
    pub fn resume(&mut self) -> Result<()> {
        let mut command = self.lab.program("surplus-marketplace")?;
        command
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &format!("{}:{}", self.address(), self.port)])
            .args(["--url", &self.url_for_machines()])
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
            );
        if let Some(station) = self.station {
            command = station.enter(&command);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("could not open {}", self.log.display()))?;
        let also = log.try_clone()?;
        let address = SocketAddr::from((self.address(), self.port));
        let process = self.process.insert(Supervised::spawn(&command, |command| {
            command.stdin(Stdio::null()).stdout(log).stderr(also);
        })?);
        let listens = || match self.station {
            Some(station) => station.listens(self.port),
            None => Ok(TcpStream::connect(address).is_ok()),
        };
        let deadline = Instant::now() + crate::patience(START);
        let (key, ca) = (self.data.join("admin.key"), self.data.join("ca.pem"));
        // It listens before its first start has made its keys.
        while !listens()? || !key.exists() || !ca.exists() {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = process.ended()? {
                bail!("surplus-marketplace ended ({status}):\n{}", log());
            }
            if Instant::now() >= deadline {
                bail!(
                    "surplus-marketplace does not listen on {address}:\n{}",
                    log()
                );
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Where it listens.
    fn address(&self) -> Ipv4Addr {
        self.station.map_or(Ipv4Addr::LOCALHOST, Station::address)
    }

    /// Kills it: hosts see an unreachable marketplace.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// `https://…` as machines see it.
    pub fn url_for_machines(&self) -> String {
        match self.station {
            Some(_) => self.url(),
            None => format!("https://{SEEN_FROM_MACHINES}:{}", self.port),
        }
    }

    /// `https://…` as the command line sees it.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address(), self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA's certificate, PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.data.join("ca.pem")
    }

    /// The operator's key that the first start made.
    pub fn admin_key_file(&self) -> PathBuf {
        self.data.join("admin.key")
    }

    /// The command line with the operator's key.
    pub fn operator(&self) -> Result<Client<'a>> {
        let key = self.admin_key_file();
        let key = fs::read_to_string(&key)
            .with_context(|| format!("the marketplace left no key in {}", key.display()))?;
        Ok(Client {
            lab: self.lab,
            url: self.url(),
            ca: self.ca_file(),
            key: key.trim().to_owned(),
            station: self.station,
        })
    }

    /// The command line with a new buyer's key.
    pub fn buyer(&self, name: &str) -> Result<Client<'a>> {
        let operator = self.operator()?;
        let created: CreatedKey = operator.ask(&["key", "create", name, "--role", "buyer"])?;
        Ok(Client {
            key: created.secret,
            ..operator
        })
    }

    /// Makes a join token for `uses` hosts and returns its secret's file.
    pub fn token(&self, name: &str, uses: u32) -> Result<PathBuf> {
        let uses = uses.to_string();
        let created: CreatedToken = self
            .operator()?
            .ask(&["token", "create", name, "--uses", &uses])?;
        let file = self.lab.scratch().join(format!("{name}.token"));
        fs::write(&file, created.secret)?;
        Ok(file)
    }

    /// A site file for a host that joins with `token`.
    pub fn site_file(&self, token: &Path) -> Result<String> {
        let token = token.to_string_lossy();
        self.operator()?.run(&[
            "site-file",
            "--site",
            "lab",
            "--token-file",
            &token,
            "-o",
            "-",
        ])
    }

    /// `surplus.iso` with `site` written into it, in the lab's directory.
    pub fn customised_iso(&self, name: &str, site: &str) -> Result<PathBuf> {
        customise(self.lab, name, site)
    }

    /// A token and an ISO that joins with it: what most tests boot.
    pub fn joining_iso(&self, name: &str) -> Result<PathBuf> {
        let token = self.token(name, 1)?;
        self.customised_iso(name, &self.site_file(&token)?)
    }
}

/// Writes `site` into a copy of `surplus.iso`, by `surplus-image customize`.
pub fn customise(lab: &Lab, name: &str, site: &str) -> Result<PathBuf> {
    let site_file = lab.scratch().join(format!("{name}.toml"));
    fs::write(&site_file, site)?;
    let iso = lab.scratch().join(format!("{name}.iso"));
    let output = lab
        .program("surplus-image")?
        .arg("customize")
        .arg("--site")
        .arg(&site_file)
        .arg(lab.artefact("surplus.iso")?)
        .arg(&iso)
        .output()?;
    if !output.status.success() {
        bail!(
            "surplus-image customize failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(iso)
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
