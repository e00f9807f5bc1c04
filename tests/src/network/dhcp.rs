//! The network's plain DHCP server: dnsmasq on a station of its own, which
//! knows nothing of booting unless a test tells it.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Network, Station, ipv4};
use crate::process::Supervised;

const START: Duration = Duration::from_secs(20);

/// Which addresses a server gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    /// Router advertisements alone: hosts make their own addresses.
    V6,
    Both,
}

/// A DHCP server that can be stopped and started; it remembers its leases.
#[derive(Debug)]
pub struct Dhcp<'a> {
    station: Station<'a>,
    options: Vec<String>,
    process: Option<Supervised>,
}

impl<'a> Dhcp<'a> {
    /// The usual one, running.
    pub fn start(network: &Network<'a>) -> Result<Self> {
        let mut dhcp = Self::stopped(network, Family::V4, &[])?;
        dhcp.resume()?;
        Ok(dhcp)
    }

    /// One that does not run yet, with further options of dnsmasq(8).
    pub fn stopped(network: &Network<'a>, family: Family, options: &[&str]) -> Result<Self> {
        let station = network.station("dhcp", 2)?;
        let mut options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        if family != Family::V6 {
            let range = format!("--dhcp-range={},{},10m", ipv4(100), ipv4(199));
            options.push(range);
        }
        if family != Family::V4 {
            options.push("--enable-ra".to_owned());
            options.push("--dhcp-range=fd77::,ra-only".to_owned());
        }
        Ok(Self {
            station,
            options,
            process: None,
        })
    }

    /// Starts it, also after [`stop`](Self::stop).
    pub fn resume(&mut self) -> Result<()> {
        let lab = self.station.lab();
        let path = lab.logs().join("dhcp.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("could not open {}", path.display()))?;
        let also = log.try_clone()?;
        let mut command = self.station.tool("dnsmasq");
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
            .args(["--user=root", "--group=root", "--bind-interfaces"])
            .arg(format!("--interface={}", self.station.interface()))
            .args(["--dhcp-authoritative", "--no-ping", "--log-dhcp"])
            .args(["--log-facility=-", "--pid-file="])
            .arg(format!(
                "--dhcp-leasefile={}",
                lab.scratch().join("dhcp.leases").display()
            ))
            .args(&self.options);
        let process = self.process.insert(Supervised::spawn(&command, |command| {
            command.stdin(Stdio::null()).stdout(log).stderr(also);
        })?);
        let deadline = Instant::now() + crate::patience(START);
        // Port 67 of UDP; with advertisements alone there is nothing to see.
        let v4 = self.options.iter().any(|option| option.ends_with(",10m"));
        while v4 && !self.station.hears(67)? {
            if let Some(status) = process.ended()? {
                bail!("dnsmasq ended ({status}): see {}", path.display());
            }
            if Instant::now() >= deadline {
                bail!("dnsmasq does not listen: see {}", path.display());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it: nobody answers.
    pub fn stop(&mut self) {
        self.process = None;
    }
}
