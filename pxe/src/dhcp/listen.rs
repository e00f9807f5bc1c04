//! The sockets of proxy-DHCP.
//!
//! A DHCP server may run on this very machine, and must lose no packet to us.
//! Linux gives a unicast packet to one socket, the most specific: a socket of
//! ours on 0.0.0.0:67 that is bound to the interface would take the renewals of
//! its clients, and with SO_REUSEPORT half of them. A broadcast goes to every
//! socket. So port 67 is bound at 255.255.255.255, where nothing else arrives,
//! with SO_REUSEADDR, which the other server needs to have set as well if it
//! listens at 0.0.0.0.
//!
//! A relay sends to our address. That socket is shared with nobody: where a
//! DHCP server runs on this machine, binding it fails.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use dhcproto::v4::SERVER_PORT;
use futures_util::future::join_all;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use super::answer::{Answer, Port, Responder, Silence};
use super::request::Request;
use crate::interface::Interface;
use crate::ports::{self, Protocol};

/// Where PXE clients ask a boot server.
const BOOT_SERVER_PORT: u16 = 4011;

/// Pause after the system gave an error instead of a packet.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// The sockets, bound.
#[derive(Debug)]
pub struct Listener(Vec<(Port, UdpSocket)>);

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "port 67 is held by {holder}, which does not share it. Next: run surplus-netboot on \
         another machine of the same network; or let it bind to interfaces (dnsmasq: \
         bind-interfaces); or let it tell hosts where to boot (pxe/dnsmasq.conf, \
         pxe/kea-dhcp4.conf) and start surplus-netboot with --no-dhcp"
    )]
    Held {
        holder: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "port 67 of {address}, where relays send to, is held by {holder}. Next: run \
         surplus-netboot on a machine without a DHCP server, or without --relayed"
    )]
    HeldFromRelays {
        address: Ipv4Addr,
        holder: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on UDP port {port} of {interface}, which is held by {holder}: another proxy-DHCP server; end it, or give --no-dhcp"
    )]
    InUse {
        port: u16,
        interface: String,
        holder: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on UDP port {port} of {interface}: that needs root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW"
    )]
    Forbidden {
        port: u16,
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on UDP port {port} of {interface}")]
    Other {
        port: u16,
        interface: String,
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Binds the ports on `interface`; if hosts are behind relays, also where
    /// those send to.
    ///
    /// # Errors
    ///
    /// Where a port is held by another program, or may not be bound.
    pub fn bind(interface: &Interface, relayed: bool) -> Result<Self, ListenError> {
        let mut sockets = Vec::new();
        // First, so that whoever holds the port is not ourselves.
        if relayed {
            let relays = socket(None, interface.address, SERVER_PORT, false);
            let relays = relays.map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ListenError::HeldFromRelays {
                    address: interface.address,
                    holder: ports::holder(Protocol::Udp, SERVER_PORT),
                    source,
                },
                _ => failed(interface, SERVER_PORT, source),
            })?;
            sockets.push((Port::Relay, relays));
        }
        let broadcasts = socket(Some(interface), Ipv4Addr::BROADCAST, SERVER_PORT, true);
        let broadcasts = broadcasts.map_err(|source| failed(interface, SERVER_PORT, source))?;
        sockets.push((Port::Dhcp, broadcasts));
        // What comes from afar may come by any interface.
        let device = (!relayed).then_some(interface);
        let boot_server = socket(device, interface.address, BOOT_SERVER_PORT, false);
        let boot_server =
            boot_server.map_err(|source| failed(interface, BOOT_SERVER_PORT, source))?;
        sockets.push((Port::BootServer, boot_server));
        Ok(Self(sockets))
    }

    /// Answers for ever. `seen` is told of each request and what came of it.
    pub async fn serve(
        self,
        responder: Arc<Responder>,
        seen: impl Fn(&Request, Result<&Answer, Silence>) + Sync,
    ) {
        let sockets = self.0.iter();
        let each = sockets.map(|(port, socket)| serve(*port, socket, &responder, &seen));
        join_all(each).await;
    }
}

fn failed(interface: &Interface, port: u16, source: io::Error) -> ListenError {
    let interface = interface.name.clone();
    let holder = || ports::holder(Protocol::Udp, port);
    match source.kind() {
        io::ErrorKind::AddrInUse if port == SERVER_PORT => ListenError::Held {
            holder: holder(),
            source,
        },
        io::ErrorKind::AddrInUse => ListenError::InUse {
            port,
            interface,
            holder: holder(),
            source,
        },
        io::ErrorKind::PermissionDenied => ListenError::Forbidden {
            port,
            interface,
            source,
        },
        _ => ListenError::Other {
            port,
            interface,
            source,
        },
    }
}

/// Answers what comes to one socket, for ever.
async fn serve(
    port: Port,
    socket: &UdpSocket,
    responder: &Responder,
    seen: impl Fn(&Request, Result<&Answer, Silence>),
) {
    let mut packet = vec![0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut packet).await {
            Ok((length, SocketAddr::V4(from))) => (length, from),
            Ok(_) => continue,
            Err(error) => {
                // The interface went down, or a client's port is closed.
                tracing::debug!(%error, "cannot receive a DHCP packet");
                tokio::time::sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        let Some(request) = Request::read(&packet[..length]) else {
            continue;
        };
        let answer = responder.answer_to(&request, port, from);
        seen(&request, answer.as_ref().map_err(|silence| *silence));
        if let Ok(answer) = answer
            && let Err(error) = socket.send_to(&answer.packet, answer.to).await
        {
            let mac = request.mac;
            tracing::warn!(%mac, to = %answer.to, %error, "cannot send a DHCP answer");
        }
    }
}

/// A socket at `address`, which hears one interface if it is given.
fn socket(
    interface: Option<&Interface>,
    address: Ipv4Addr,
    port: u16,
    shared: bool,
) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(shared)?;
    socket.set_broadcast(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.name.as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(address, port).into())?;
    UdpSocket::from_std(socket.into())
}
