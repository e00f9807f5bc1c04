//! Names to addresses, asked of the name servers that DHCP of either protocol
//! named.
//!
//! The C library's resolver cannot be used in a static program, which has no
//! way to load what it consults. Addresses in numbers need no server.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::net::url::{self, Host};

pub(crate) const PORT: u16 = 53;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const MOST: usize = 8;

/// Where the name servers of the moment come from.
pub(crate) type Servers = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// DHCP named none; nothing else is asked for them.
#[derive(Debug, thiserror::Error)]
#[error("no name server is known to ask for {0}")]
pub(crate) struct NoNameServer(String);

/// Looks names up for the HTTP client.
pub(crate) struct Names(pub(crate) Servers);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().and_then(url::host);
        let addresses = match host.ok_or(ureq::Error::HostNotFound)? {
            Host::Address(address) => vec![address],
            Host::Name(name) => look_up(&name, &(self.0)()).map_err(ureq::Error::Io)?,
        };
        let port = uri.port_u16().unwrap_or(80);
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(MOST) {
            resolved.push(SocketAddr::new(address, port));
        }
        Ok(resolved)
    }
}

/// Asks one server after the other, twice, for both kinds of address.
fn look_up(name: &str, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    if servers.is_empty() {
        return Err(io::Error::other(NoNameServer(name.to_owned())));
    }
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    let mut last = None;
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        let mut found = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            match ask(*server, &name, kind, ANSWER_WITHIN) {
                Ok(addresses) => found.extend(addresses),
                Err(error) => last = Some(error),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(match last {
        Some(error) => io::Error::new(error.kind(), format!("asking for {name}: {error}")),
        None => io::Error::other(format!("the name {name} has no address")),
    })
}

/// One question; whatever else arrives, it is over `within` this time.
fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    within: Duration,
) -> io::Result<Vec<IpAddr>> {
    let here: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(here)?;
    // Connected: only this server's answers arrive.
    socket.connect(server)?;
    // The port is random already, and the content is verified later.
    let id = socket.local_addr()?.port();
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    socket.send(&question.to_vec().map_err(io::Error::other)?)?;
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {server}"));
    let end = Instant::now() + within;
    let mut buffer = [0; 1500];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(silent());
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(silent()),
            length => length?,
        };
        if let Some(addresses) = read(&buffer[..length], id) {
            return Ok(addresses);
        }
    }
}

/// The addresses in an answer; `None` is no answer to the question `id`.
fn read(bytes: &[u8], id: u16) -> Option<Vec<IpAddr>> {
    let answer = Message::from_vec(bytes).ok()?;
    if answer.metadata.id != id || answer.metadata.message_type != MessageType::Response {
        return None;
    }
    let addresses = answer.answers.iter();
    Some(
        addresses
            .filter_map(|record| record.data.ip_addr())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::thread;

    use hickory_proto::rr::{RData, Record, rdata};
    use proptest::prelude::*;

    use super::*;

    /// A name server on the loopback that answers `questions` questions about
    /// A with one address, and AAAA with none.
    fn server(questions: usize) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            for _ in 0..questions {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                let mut answer = Message::from_vec(&buffer[..length]).unwrap();
                answer.metadata.message_type = MessageType::Response;
                let query = answer.queries[0].clone();
                if query.query_type == RecordType::A {
                    let data = RData::A(rdata::A::new(192, 0, 2, 7));
                    answer.add_answer(Record::from_rdata(query.name, 60, data));
                }
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        });
        address
    }

    #[test]
    fn a_name_is_asked_of_the_servers() {
        let found = look_up("boot.example.net", &[server(2)]).unwrap();
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn without_a_server_the_error_says_so() {
        let error = look_up("boot.example.net", &[]).unwrap_err();
        assert!(error.to_string().contains("no name server"), "{error}");
    }

    #[test]
    fn a_server_that_sends_only_nonsense_is_left_in_time() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(3) {
                // Once nobody listens any more, this fails.
                if socket.send_to(b"nonsense", from).is_err() {
                    return;
                }
            }
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            answer.metadata.message_type = MessageType::Response;
            let _ = socket.send_to(&answer.to_vec().unwrap(), from);
        });
        let name = Name::from_ascii("boot.example.net").unwrap();
        let within = Duration::from_millis(100);
        let error = ask(address, &name, RecordType::A, within).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, 7);
        }
    }
}
