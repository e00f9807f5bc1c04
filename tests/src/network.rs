//! A private network of the test's own: a switch in a network namespace,
//! stations on it, ports for machines.
//!
//! The switch is a bridge, `br0`, that is itself 10.77.0.1 and fd77::1; each
//! [`Station`] has a namespace of its own behind a cable and the addresses
//! 10.77.0.N and fd77::N, so that several servers can listen on one port, as
//! they do in a real network. What always holds: nothing in it reaches this
//! computer's networks, and nothing of it is left when it is dropped or when
//! its process dies.

pub mod dhcp;
pub mod guests;
mod namespace;
pub mod trunk;

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::namespace::Namespace;
use crate::lab::{Lab, run};

/// Every address is in 10.77.0.0/24 and fd77::/64.
pub fn ipv4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

/// See [`ipv4`].
pub fn ipv6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into())
}

/// One computer on the network: a namespace with one interface.
#[derive(Debug)]
pub struct Station<'a> {
    lab: &'a Lab,
    name: String,
    namespace: Namespace,
    host: u8,
    interface: &'static str,
}

impl<'a> Station<'a> {
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last part of its addresses.
    pub fn host(&self) -> u8 {
        self.host
    }

    pub fn address(&self) -> Ipv4Addr {
        ipv4(self.host)
    }

    /// The interface that carries the address.
    pub fn interface(&self) -> &'static str {
        self.interface
    }

    /// The same command, run on this station.
    pub fn enter(&self, command: &Command) -> Command {
        self.namespace.enter(command)
    }

    /// A program of the tools tree, run on this station.
    pub fn tool(&self, program: &str) -> Command {
        self.enter(&self.lab.tools().command(program))
    }

    /// Whether something on this station takes TCP connections at `port`.
    pub fn listens(&self, port: u16) -> Result<bool> {
        let tables = self.namespace.table("tcp")? + &self.namespace.table("tcp6")?;
        Ok(tables.lines().any(|line| is_listener(line, port)))
    }

    /// Whether something on this station hears UDP at `port`.
    pub fn hears(&self, port: u16) -> Result<bool> {
        let tables = self.namespace.table("udp")? + &self.namespace.table("udp6")?;
        Ok(tables.lines().any(|line| local_port(line) == Some(port)))
    }

    /// Waits until something listens at `port`; `ended` tells why nothing
    /// ever will.
    pub fn wait_to_listen(
        &self,
        port: u16,
        within: Duration,
        mut ended: impl FnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        let deadline = Instant::now() + crate::patience(within);
        while !self.listens(port)? {
            if let Some(why) = ended()? {
                bail!("{why}");
            }
            if Instant::now() >= deadline {
                bail!("nothing listens on {}:{port}", self.address());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Runs lines of `ip -batch` here.
    fn ip(&self, lines: &[String]) -> Result<()> {
        let batch = self.lab.scratch().join(format!("{}.ip", self.name));
        fs::write(&batch, lines.join("\n") + "\n")?;
        run(self.tool("ip").arg("-batch").arg(&batch)).map(drop)
    }
}

/// A line of `/proc/net/tcp` or `tcp6` (proc_net_tcp): local address and port
/// in hexadecimal in the second column, the state in the fourth; 0A is LISTEN.
fn is_listener(line: &str, port: u16) -> bool {
    local_port(line) == Some(port) && line.split_whitespace().nth(3) == Some("0A")
}

fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

/// The socket for a machine's NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The tap interface.
    pub tap: String,
    /// The address of the NIC that is plugged in.
    pub mac: String,
}

/// The switch and what hangs on it.
#[derive(Debug)]
pub struct Network<'a> {
    switch: Station<'a>,
    ports: Cell<u8>,
}

impl<'a> Network<'a> {
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let switch = Station {
            lab,
            name: "switch".to_owned(),
            namespace: Namespace::new(lab, "switch")?,
            host: 1,
            interface: "br0",
        };
        switch
            .ip(&[
                "link set lo up".to_owned(),
                "link add br0 type bridge mcast_snooping 0".to_owned(),
                format!("address add {}/24 dev br0", ipv4(1)),
                format!("address add {}/64 dev br0 nodad", ipv6(1)),
                "link set br0 up".to_owned(),
            ])
            .context("could not make a bridge in a network namespace")?;
        Ok(Self {
            switch,
            ports: Cell::new(0),
        })
    }

    /// The switch's own station, 10.77.0.1.
    pub fn switch(&self) -> &Station<'a> {
        &self.switch
    }

    /// A further computer, 10.77.0.`host`.
    pub fn station(&self, name: &str, host: u8) -> Result<Station<'a>> {
        let station = Station {
            lab: self.switch.lab,
            name: name.to_owned(),
            namespace: self.switch.namespace.beside(self.switch.lab, name)?,
            host,
            interface: "eth0",
        };
        let pid = station.namespace.pid();
        self.switch.ip(&[
            format!("link add st{host} type veth peer name eth0 netns {pid}"),
            format!("link set st{host} master br0 up"),
        ])?;
        station.ip(&[
            "link set lo up".to_owned(),
            format!("address add {}/24 dev eth0", ipv4(host)),
            format!("address add {}/64 dev eth0 nodad", ipv6(host)),
            "link set eth0 up".to_owned(),
        ])?;
        Ok(station)
    }

    /// A free port for a NIC, which keeps its MAC address over power cycles.
    pub fn port(&self) -> Result<Port> {
        let number = self.ports.get() + 1;
        self.ports.set(number);
        let port = Port {
            tap: format!("tap{number}"),
            mac: format!("52:54:00:77:00:{number:02x}"),
        };
        self.switch
            .ip(&[
                format!("tuntap add {} mode tap", port.tap),
                format!("link set {} master br0 up", port.tap),
            ])
            .context("could not make a tap: is /dev/net/tun there, and may everybody open it?")?;
        Ok(port)
    }

    /// Bytes that went to the NIC in `port` so far.
    pub fn bytes_to(&self, port: &Port) -> Result<u64> {
        let table = self.switch.namespace.table("dev")?;
        let row = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{}:", port.tap)));
        let row = row.with_context(|| format!("no interface {}", port.tap))?;
        // Received stands first, eight columns; what was sent follows.
        let sent = row.split_whitespace().nth(8).context("a short row")?;
        Ok(sent.parse()?)
    }

    /// Waits until at least `bytes` more than `since` went to the NIC.
    pub fn wait_for_bytes(
        &self,
        port: &Port,
        since: u64,
        bytes: u64,
        within: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + crate::patience(within);
        loop {
            let more = self.bytes_to(port)?.saturating_sub(since);
            if more >= bytes {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "only {more} of {bytes} bytes went to {} within {} s",
                    port.tap,
                    within.as_secs()
                );
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let listener = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        let connection = "   1: 0100007F:1F90 0100007F:B2C4 01 00000000:00000000 00:00000000";
        assert!(is_listener(listener, 8080));
        assert!(!is_listener(listener, 80));
        assert!(!is_listener(connection, 8080));
    }
}
