//! Putting an interface on a bridge, as rtnetlink(7) is asked to.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

// include/uapi/linux/if_link.h
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// Makes `interface` an isolated port of `bridge`, and switches it on: what libvirt
/// does with a guest's.
pub(crate) fn plug(interface: &str, bridge: &str) -> io::Result<()> {
    let (port, bridge) = (if_nametoindex(interface)?, if_nametoindex(bridge)?);
    let kernel = Kernel::open()?;
    let up = u32::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    let master = attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes());
    kernel.change(port, up, &master)?;
    let isolated = attribute(IFLA_BRPORT_ISOLATED, &[1]);
    let kind = attribute(IFLA_INFO_SLAVE_KIND, b"bridge");
    let data = attribute(IFLA_INFO_SLAVE_DATA, &isolated);
    kernel.change(port, 0, &attribute(IFLA_LINKINFO, &[kind, data].concat()))
}

/// Length, type, value, and what fills it up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

struct Kernel(OwnedFd);

impl Kernel {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self(socket))
    }

    /// Sets these flags and attributes of the interface.
    fn change(&self, index: u32, flags: u32, attributes: &[u8]) -> io::Result<()> {
        // struct ifinfomsg: family, type, index, flags, which of them change.
        let mut body = vec![0; 4];
        for word in [index, flags, flags] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(attributes);
        // struct nlmsghdr: length, type, flags, number, port.
        let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let how = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(libc::RTM_NEWLINK.to_ne_bytes());
        message.extend(how.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // An acknowledgement is an error of number 0.
        let error = answer[..length].get(16..20);
        let error = error.and_then(|bytes| bytes.try_into().ok());
        match i32::from_ne_bytes(error.ok_or(io::ErrorKind::UnexpectedEof)?) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stand_on_four_bytes_and_say_their_own_length() {
        assert_eq!(attribute(33, &[1]), [5, 0, 33, 0, 1, 0, 0, 0]);
        assert_eq!(attribute(10, &[1, 2, 3, 4]), [8, 0, 10, 0, 1, 2, 3, 4]);
    }
}
