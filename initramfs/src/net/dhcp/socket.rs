//! A socket that speaks DHCP on one link, with or without an address on it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt,
    socket, sockopt,
};

use crate::net::link::Link;

const SERVER_V4: u16 = 67;
const CLIENT_V4: u16 = 68;
const SERVER_V6: u16 = 547;
const CLIENT_V6: u16 = 546;
/// All servers and relays on the link (RFC 8415, section 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Sends to all on the link, and hears what is sent to clients on it.
#[derive(Debug)]
pub(crate) struct Socket {
    udp: UdpSocket,
    servers: SocketAddr,
}

impl Socket {
    pub(crate) fn v4(link: &Link) -> io::Result<Self> {
        let fd = open(AddressFamily::Inet)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        let servers = (Ipv4Addr::BROADCAST, SERVER_V4).into();
        Self::bound(fd, link, &SockaddrIn::new(0, 0, 0, 0, CLIENT_V4), servers)
    }

    /// Fails to send until the link has its own address of IPv6.
    pub(crate) fn v6(link: &Link) -> io::Result<Self> {
        let fd = open(AddressFamily::Inet6)?;
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        let here = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT_V6, 0, 0);
        let servers = SocketAddrV6::new(SERVERS, SERVER_V6, 0, link.index).into();
        Self::bound(fd, link, &SockaddrIn6::from(here), servers)
    }

    fn bound(
        fd: OwnedFd,
        link: &Link,
        here: &dyn SockaddrLike,
        servers: SocketAddr,
    ) -> io::Result<Self> {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &(&link.name).into())?;
        bind(fd.as_raw_fd(), here)?;
        let udp = fd.into();
        Ok(Self { udp, servers })
    }

    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.udp.send_to(packet, self.servers).map(drop)
    }

    /// The next packet that has arrived, if there is one.
    pub(crate) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 2048];
        match self.udp.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Datagram, flags, None)?)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}
