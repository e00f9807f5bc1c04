//! Ports of guests that are reached by ports of the host.
//!
//! The packet filter has a map of them (`systemd/usr/lib/surplus/firewall.nft`), which
//! outlives the agent. What differs is written, for a host may have thousands; all of
//! it at the first time, and whenever the filter's map is not the one that was written
//! last ([`surplus_seat::forwards`]). Beside it stands the kernel's table of connections,
//! in which what was handed on goes on: a seat's are forgotten when its guest has gone.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::BoxFuture;
use surplus_protocol::lease::{Forward, GuestPort, Transport};
use surplus_seat::{Seat, connections, forwards};
use surplus_trial::leaving;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::network::own;

/// A guest's port by the host's: transport and number to address and number.
pub type PortMap = forwards::PortMap<Transport>;

/// nft changes a map in milliseconds, conntrack reads a full table in a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// Hands on what comes to the host's ports.
pub trait Forwards: Send + Sync + fmt::Debug {
    /// From now on these are handed on, and no others.
    fn set<'a>(&'a self, map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>>;

    /// Nobody outside is in talks with this seat's guest any more: its next guest hears
    /// nothing that was meant for this one. Ports that lead there still would begin new
    /// ones.
    fn forget(&self, seat: Seat) -> BoxFuture<'_, Result<(), ForwardError>>;

    /// Where the host is reached, as far as it knows.
    fn address(&self) -> Option<Ipv4Addr>;

    /// The seats whose guests are reached at addresses of their own now, and which.
    fn own_addresses(&self) -> BTreeMap<Seat, Vec<IpAddr>>;
}

/// Why the packet filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("`{program}` could not be run")]
    Run {
        program: Utf8PathBuf,
        source: io::Error,
    },
    #[error("`{program}` took longer than {} s", DEADLINE.as_secs())]
    TooSlow { program: Utf8PathBuf },
    #[error("`{program}` did not take what it was told: {said}")]
    Refused { program: Utf8PathBuf, said: String },
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
#[derive(Debug)]
pub struct PacketFilter {
    nft: Utf8PathBuf,
    conntrack: Utf8PathBuf,
    /// What it surely took last; nothing while that is in doubt.
    written: Mutex<Option<Written>>,
}

#[derive(Debug)]
struct Written {
    map: PortMap,
    number: u32,
}

impl Default for PacketFilter {
    fn default() -> Self {
        Self::by("/usr/sbin/nft".into(), "/usr/sbin/conntrack".into())
    }
}

impl PacketFilter {
    fn by(nft: Utf8PathBuf, conntrack: Utf8PathBuf) -> Self {
        Self {
            nft,
            conntrack,
            written: Mutex::new(None),
        }
    }

    /// Lets each guest send and receive so many million bits a second.
    ///
    /// # Errors
    ///
    /// Where the packet filter does not take it.
    pub async fn limit(&self, mbits: u32) -> Result<(), ForwardError> {
        self.take(&surplus_seat::rates::limit(mbits)).await
    }

    async fn write(&self, map: &PortMap) -> Result<(), ForwardError> {
        let mut written = self.written.lock().await;
        // Whoever stops waiting for nft does not know what it has done.
        let before = written.take();
        let number = match &before {
            Some(before) => forwards::next(before.number),
            // Unlike what an earlier agent wrote.
            None => rand::random(),
        };
        let changed = match &before {
            Some(before) => {
                let text = forwards::changes(&before.map, map, before.number);
                self.take(&text).await.is_ok()
            }
            None => false,
        };
        if !changed {
            self.take(&forwards::whole(map, number)).await?;
        }
        *written = Some(Written {
            map: map.clone(),
            number,
        });
        Ok(())
    }

    async fn take(&self, text: &str) -> Result<(), ForwardError> {
        told(&self.nft, "--file", text).await
    }
}

/// Runs `program`, which reads text as its `option` says.
async fn told(program: &Utf8Path, option: &str, text: &str) -> Result<(), ForwardError> {
    let unrun = |source| ForwardError::Run {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args([option, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(unrun)?;
    let run = async {
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, run)
        .await
        .map_err(|_| ForwardError::TooSlow {
            program: program.to_owned(),
        })?
        .map_err(unrun)?;
    if !output.status.success() {
        return Err(ForwardError::Refused {
            program: program.to_owned(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(())
}

impl Forwards for PacketFilter {
    fn set<'a>(&'a self, map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(self.write(map))
    }

    fn forget(&self, seat: Seat) -> BoxFuture<'_, Result<(), ForwardError>> {
        let text = connections::forget(seat);
        Box::pin(async move { told(&self.conntrack, "--load-file", &text).await })
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

    fn own_addresses(&self) -> BTreeMap<Seat, Vec<IpAddr>> {
        own::addresses()
    }
}

/// Hands nothing on.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Forwards for Nowhere {
    fn set<'a>(&'a self, _map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        Box::pin(async { Ok(()) })
    }

    fn forget(&self, _seat: Seat) -> BoxFuture<'_, Result<(), ForwardError>> {
        Box::pin(async { Ok(()) })
    }

    fn address(&self) -> Option<Ipv4Addr> {
        None
    }

    fn own_addresses(&self) -> BTreeMap<Seat, Vec<IpAddr>> {
        BTreeMap::new()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A guest in this seat, with SSH.
    fn map(seats: &[u16]) -> PortMap {
        let seats = seats.iter().map(|seat| Seat::try_from(*seat).unwrap());
        let ports = [GuestPort {
            transport: Transport::Tcp,
            port: 22,
        }];
        seats
            .flat_map(|seat| {
                let ports = of(seat, &ports);
                let ports = ports.map(|(it, host)| ((it.transport, host), (seat.ipv4(), it.port)));
                ports.collect::<Vec<_>>()
            })
            .collect()
    }

    /// Writes down what it is told, and refuses while there is a file `refuse` beside
    /// it, which it removes.
    fn scripted() -> (tempfile::TempDir, PacketFilter) {
        let dir = tempfile::tempdir().unwrap();
        let nft = dir.path().join("nft");
        let script = "#!/bin/sh\ncd \"${0%/*}\"\ncat >told\n! rm refuse 2>/dev/null\n";
        std::fs::write(&nft, script).unwrap();
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
        let nft = Utf8PathBuf::from_path_buf(nft).unwrap();
        let filter = PacketFilter::by(nft.clone(), nft);
        (dir, filter)
    }

    #[tokio::test]
    async fn what_differs_is_written_and_all_of_it_where_that_is_refused() {
        let (dir, filter) = scripted();
        let told = || std::fs::read_to_string(dir.path().join("told")).unwrap();
        let refuse = || std::fs::write(dir.path().join("refuse"), "").unwrap();
        let number =
            |filter: &PacketFilter| filter.written.try_lock().unwrap().as_ref().unwrap().number;
        filter.set(&map(&[1])).await.unwrap();
        let first = number(&filter);
        assert_eq!(told(), forwards::whole(&map(&[1]), first));
        filter.set(&map(&[1, 2])).await.unwrap();
        assert_eq!(told(), forwards::changes(&map(&[1]), &map(&[1, 2]), first));
        // The filter was loaded anew: it does not know the number.
        refuse();
        filter.set(&map(&[2])).await.unwrap();
        assert_eq!(told(), forwards::whole(&map(&[2]), number(&filter)));
        filter.set(&map(&[2, 3])).await.unwrap();
        assert!(told().starts_with("delete element"));
    }

    #[tokio::test]
    async fn after_a_failure_the_whole_is_written() {
        let (dir, filter) = scripted();
        let told = || std::fs::read_to_string(dir.path().join("told")).unwrap();
        std::fs::write(dir.path().join("refuse"), "").unwrap();
        let error = filter.set(&map(&[1])).await.unwrap_err();
        assert!(matches!(error, ForwardError::Refused { .. }), "{error}");
        assert!(filter.written.lock().await.is_none());
        filter.set(&map(&[1])).await.unwrap();
        assert!(told().starts_with("flush set"));
    }

    #[tokio::test]
    async fn a_seats_connections_are_forgotten_by_conntrack() {
        let (dir, filter) = scripted();
        let seat = Seat::try_from(3).unwrap();
        filter.forget(seat).await.unwrap();
        let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
        assert_eq!(told, connections::forget(seat));
    }

    #[tokio::test]
    async fn what_the_program_says_is_told() {
        let absent = PacketFilter::by("/nowhere/nft".into(), "/nowhere/conntrack".into());
        let error = absent.set(&PortMap::new()).await.unwrap_err();
        assert!(matches!(error, ForwardError::Run { .. }), "{error}");
        assert_eq!(error.to_string(), "`/nowhere/nft` could not be run");
        let (dir, refusing) = scripted();
        std::fs::write(dir.path().join("refuse"), "").unwrap();
        let error = refusing
            .forget(Seat::try_from(1).unwrap())
            .await
            .unwrap_err();
        assert!(matches!(error, ForwardError::Refused { .. }), "{error}");
    }
}
