//! Raw frames on an interface: everything that it sends and receives.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket,
};

/// More than any network carries.
const LARGEST: usize = 1 << 16;

/// Bytes that may wait to be received: who is busy misses no frame.
const WAITING: usize = 64 << 20;

/// An interface, or all, beside their protocols.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    address: Option<LinkAddr>,
}

impl Wire {
    /// Hears the interface from now on.
    ///
    /// # Errors
    ///
    /// Where there is no such interface, or without CAP_NET_RAW.
    pub fn tap(interface: &str) -> io::Result<Self> {
        let found = getifaddrs()?
            .filter(|it| it.interface_name == interface)
            .find_map(|it| it.address?.as_link_addr().copied());
        let absent = || io::Error::other(format!("there is no interface {interface}"));
        let address = found.ok_or_else(absent)?;
        let socket = open()?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self {
            socket,
            address: Some(address),
        })
    }

    /// Hears every interface from now on, also those that come later.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn tap_all() -> io::Result<Self> {
        Ok(Self {
            socket: open()?,
            address: None,
        })
    }

    /// The interface's own address.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.address?.addr()
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame, whichever way it goes.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        self.take(MsgFlags::empty())
    }

    /// The next frame, if one was heard.
    pub(crate) fn heard(&self) -> io::Result<Vec<u8>> {
        self.take(MsgFlags::MSG_DONTWAIT)
    }

    fn take(&self, flags: MsgFlags) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; LARGEST];
        let length = recv(self.socket.as_raw_fd(), &mut frame, flags)?;
        frame.truncate(length);
        Ok(frame)
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, RcvBufForce, &WAITING)?;
    Ok(socket)
}
