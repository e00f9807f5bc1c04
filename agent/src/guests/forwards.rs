//! Ports of guests that are reached by ports of the host.
//!
//! The packet filter has a map of them (`systemd/usr/lib/surplus/firewall.nft`),
//! which is written anew as a whole whenever it changes: in one transaction, so that
//! no connection sees half of it. It outlives the agent.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use camino::Utf8PathBuf;
use futures_util::future::BoxFuture;
use surplus_protocol::lease::{Forward, GuestPort, Transport};
use surplus_seat::Seat;
use surplus_trial::leaving;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A guest's port by the host's: transport and number to address and number.
pub type PortMap = BTreeMap<(Transport, u16), (Ipv4Addr, u16)>;

/// nft changes a map in milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Hands on what comes to the host's ports.
pub trait Forwards: Send + Sync + fmt::Debug {
    /// From now on these are handed on, and no others.
    fn set<'a>(&'a self, map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>>;

    /// Where the host is reached, as far as it knows.
    fn address(&self) -> Option<Ipv4Addr>;
}

/// Why the packet filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("`nft` could not be run")]
    Run(#[from] io::Error),
    #[error("`nft` took longer than {} s", DEADLINE.as_secs())]
    TooSlow,
    #[error("`nft` did not take what it was told: {0}")]
    Refused(String),
}

/// The ports of a guest in this seat, in the order that they were asked for.
pub fn of(seat: Seat, ports: &[GuestPort]) -> impl Iterator<Item = (GuestPort, u16)> {
    ports.iter().copied().zip(seat.host_ports())
}

/// The same, as the marketplace hears it.
pub fn announced(seat: Seat, ports: &[GuestPort], address: Ipv4Addr) -> Vec<Forward> {
    of(seat, ports)
        .map(|(guest, host_port)| Forward {
            guest,
            address,
            host_port,
        })
        .collect()
}

/// The host's packet filter.
#[derive(Clone, Debug)]
pub struct PacketFilter {
    nft: Utf8PathBuf,
}

impl Default for PacketFilter {
    fn default() -> Self {
        Self {
            nft: "/usr/sbin/nft".into(),
        }
    }
}

impl PacketFilter {
    /// Lets each guest send and receive so many million bits a second.
    ///
    /// # Errors
    ///
    /// Where the packet filter does not take it.
    pub async fn limit(&self, mbits: u32) -> Result<(), ForwardError> {
        self.take(&surplus_seat::rates::limit(mbits)).await
    }

    async fn take(&self, text: &str) -> Result<(), ForwardError> {
        let mut nft = Command::new(&self.nft)
            .args(["--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let run = async {
            if let Some(mut input) = nft.stdin.take() {
                input.write_all(text.as_bytes()).await?;
            }
            nft.wait_with_output().await
        };
        let output = tokio::time::timeout(DEADLINE, run)
            .await
            .map_err(|_| ForwardError::TooSlow)??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(ForwardError::Refused(said.trim().to_owned()));
        }
        Ok(())
    }
}

impl Forwards for PacketFilter {
    fn set<'a>(&'a self, map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(async move { self.take(&transaction(map)).await })
    }

    /// The address by which guests go out to the world.
    fn address(&self) -> Option<Ipv4Addr> {
        leaving::addresses()
            .into_iter()
            .find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
    }
}

/// What nft(8) is told.
fn transaction(map: &PortMap) -> String {
    let mut text = String::from("flush map inet surplus_forwards forwards\n");
    let elements: Vec<_> = map
        .iter()
        .map(|((transport, host), (address, guest))| {
            format!("{transport} . {host} : {address} . {guest}")
        })
        .collect();
    if !elements.is_empty() {
        let elements = elements.join(", ");
        text.push_str(&format!(
            "add element inet surplus_forwards forwards {{ {elements} }}\n"
        ));
    }
    text
}

/// Hands nothing on.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Forwards for Nowhere {
    fn set<'a>(&'a self, _map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(async { Ok(()) })
    }

    fn address(&self) -> Option<Ipv4Addr> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(transport: Transport, port: u16) -> GuestPort {
        GuestPort { transport, port }
    }

    #[test]
    fn the_map_is_written_as_a_whole() {
        assert_eq!(
            transaction(&PortMap::new()),
            "flush map inet surplus_forwards forwards\n"
        );
        let seat = Seat::try_from(2).unwrap();
        let ports = [port(Transport::Tcp, 22), port(Transport::Udp, 53)];
        let map = of(seat, &ports)
            .map(|(guest, host)| ((guest.transport, host), (seat.ipv4(), guest.port)))
            .collect();
        assert_eq!(
            transaction(&map),
            "flush map inet surplus_forwards forwards\n\
             add element inet surplus_forwards forwards { tcp . 16400 : 10.121.1.2 . 22, \
             udp . 16401 : 10.121.1.2 . 53 }\n"
        );
    }

    #[tokio::test]
    async fn what_nft_says_is_told() {
        let absent = PacketFilter {
            nft: "/nowhere/nft".into(),
        };
        let error = absent.set(&PortMap::new()).await.unwrap_err();
        assert!(matches!(error, ForwardError::Run(_)), "{error}");
        let refusing = PacketFilter {
            nft: "/bin/false".into(),
        };
        let error = refusing.set(&PortMap::new()).await.unwrap_err();
        assert!(
            matches!(error, ForwardError::Refused(_) | ForwardError::Run(_)),
            "{error}"
        );
    }
}
