//! A socket that speaks DHCP on one link, with or without an address on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

const SERVER: u16 = 67;
const CLIENT: u16 = 68;

/// Sends to all on the link, and hears what is sent to clients on it.
#[derive(Debug)]
pub(crate) struct Socket(UdpSocket);

impl Socket {
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        setsockopt(&fd, sockopt::BindToDevice, &interface.into())?;
        bind(
            fd.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT)),
        )?;
        Ok(Self(UdpSocket::from(fd)))
    }

    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER);
        self.0.send_to(packet, all).map(drop)
    }

    /// The next packet that has arrived, if there is one.
    pub(crate) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 2048];
        match self.0.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
