//! The network's DHCP server, on a station of its own: usually dnsmasq that
//! knows nothing of booting, or one with the settings that operators get.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Network, Station, ipv4, ipv6};
use crate::process::Supervised;

const START: Duration = Duration::from_secs(20);

/// The server is 10.77.0.2 and fd77::2.
const HOST: u8 = 2;

/// What the server calls fd77::1, where it is a name server, too: for IPv6.
pub const NAME: &str = "boot.surplus.test";

/// Which addresses a server gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    /// Of fd77::100 to fd77::1ff, by DHCPv6 alone: the router's advertisements say so,
    /// and no host makes an address of its own.
    V6,
    Both,
}

impl Family {
    /// Where a server of it hears hosts.
    fn port(self) -> u16 {
        if self == Self::V6 { 547 } else { 67 }
    }
}

/// A DHCP server that can be stopped and started.
#[derive(Debug)]
pub struct Dhcp<'a> {
    station: Station<'a>,
    server: Server,
    process: Option<Supervised>,
}

/// Which program, and what it is told.
#[derive(Debug)]
enum Server {
    /// dnsmasq with options alone; it remembers its leases.
    Plain {
        family: Family,
    },
    Dnsmasq {
        settings: PathBuf,
    },
    Kea {
        settings: PathBuf,
    },
}

impl<'a> Dhcp<'a> {
    /// The usual one, running.
    pub fn start(network: &Network<'a>) -> Result<Self> {
        Self::start_for(network, Family::V4)
    }

    /// The same for other kinds of addresses.
    pub fn start_for(network: &Network<'a>, family: Family) -> Result<Self> {
        Self::start_server(network.station("dhcp", HOST)?, Server::Plain { family })
    }

    /// dnsmasq as `pxe/dnsmasq.conf` has it, filled in for this network.
    pub fn start_dnsmasq(network: &Network<'a>) -> Result<Self> {
        let station = network.station("dhcp", HOST)?;
        let settings = filled(&station, "dnsmasq.conf", &[])?;
        Self::start_server(station, Server::Dnsmasq { settings })
    }

    /// Kea as `pxe/kea-dhcp4.conf` has it, filled in for this network.
    pub fn start_kea(network: &Network<'a>) -> Result<Self> {
        let station = network.station("dhcp", HOST)?;
        // Where Kea would keep leases there is none of its directories.
        let in_memory = ("\"memfile\"", "\"memfile\", \"persist\": false");
        let settings = filled(&station, "kea-dhcp4.conf", &[in_memory])?;
        Self::start_server(station, Server::Kea { settings })
    }

    fn start_server(station: Station<'a>, server: Server) -> Result<Self> {
        let mut dhcp = Self {
            station,
            server,
            process: None,
        };
        dhcp.resume()?;
        Ok(dhcp)
    }

    /// Starts it again, after [`stop`](Self::stop).
    pub fn resume(&mut self) -> Result<()> {
        let path = self.station.lab().logs().join("dhcp.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("could not open {}", path.display()))?;
        let also = log.try_clone()?;
        let command = self.command();
        let process = self.process.insert(Supervised::spawn(&command, |command| {
            command.stdin(Stdio::null()).stdout(log).stderr(also);
        })?);
        let port = match &self.server {
            Server::Plain { family } => family.port(),
            _ => Family::V4.port(),
        };
        let deadline = Instant::now() + crate::patience(START);
        while !self.station.hears(port)? {
            if let Some(status) = process.ended()? {
                bail!("the DHCP server ended ({status}): see {}", path.display());
            }
            if Instant::now() >= deadline {
                bail!("the DHCP server does not listen: see {}", path.display());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it: nobody answers.
    pub fn stop(&mut self) {
        self.process = None;
    }

    fn command(&self) -> Command {
        let scratch = self.station.lab().scratch();
        if let Server::Kea { settings } = &self.server {
            let mut command = Command::new("kea-dhcp4");
            command
                .arg("-c")
                .arg(settings)
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("KEA_LOCKFILE_DIR", scratch)
                .env("KEA_PIDFILE_DIR", scratch);
            return self.station.enter(&command);
        }
        let mut command = self.station.tool("dnsmasq");
        command
            .args(["--keep-in-foreground", "--user=root", "--group=root"])
            // Each offer would wait for an answer to a ping.
            .args(["--no-ping", "--log-dhcp", "--log-facility=-", "--pid-file="])
            .arg(format!(
                "--dhcp-leasefile={}",
                scratch.join("dhcp.leases").display()
            ));
        match &self.server {
            Server::Dnsmasq { settings } => {
                command.arg(format!("--conf-file={}", settings.display()));
            }
            Server::Plain { family } => {
                command
                    .args(["--conf-file=/dev/null", "--bind-interfaces"])
                    .arg(format!("--interface={}", self.station.interface()));
                if *family != Family::V6 {
                    command.arg(format!("--dhcp-range={},{},10m", ipv4(100), ipv4(199)));
                }
                if *family == Family::V4 {
                    command.arg("--port=0");
                } else {
                    command
                        .args(["--enable-ra", "--dhcp-range=fd77::100,fd77::1ff,64,10m"])
                        .arg(format!("--dhcp-option=option6:dns-server,[{}]", ipv6(HOST)))
                        .arg(format!("--host-record={NAME},{}", ipv6(1)))
                        .args(["--no-resolv", "--no-hosts"]);
                }
            }
            Server::Kea { .. } => (),
        }
        command
    }
}

/// Settings from `pxe/` with this network's addresses in the places of those
/// that stand for an operator's.
fn filled(station: &Station<'_>, name: &str, changes: &[(&str, &str)]) -> Result<PathBuf> {
    let path = station.lab().root().join("pxe").join(name);
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("could not read {}", path.display()))?;
    let mut text = text.replace("192.0.2.", "10.77.0.");
    for (from, to) in changes {
        text = text.replace(from, to);
    }
    let file = station.lab().scratch().join(name);
    fs::write(&file, text)?;
    Ok(file)
}
