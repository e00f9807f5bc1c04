//! The kernel's events on devices: a netlink socket and its messages.
//!
//! A message is `ACTION@DEVPATH` and `KEY=VALUE` pairs, each ended by a zero
//! byte. Events may be lost when they come faster than they are read; readers
//! take them as hints, and look at the truth besides.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
    socket, sockopt,
};

/// Multicast group of the kernel's own messages.
const KERNEL_GROUP: u32 = 1;
/// Room for the flood when the booted system replays all devices' events.
const BUFFER: usize = 4 << 20;

/// What came out of a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Event(Event),
    /// Events were dropped.
    Lost,
    TimedOut,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pairs: Vec<(String, String)>,
}

impl Event {
    /// Reads a message; what is not `KEY=VALUE` is passed over.
    pub(crate) fn parse(message: &[u8]) -> Self {
        let pairs = message
            .split(|&byte| byte == 0)
            .filter_map(|part| {
                let (key, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
                Some((key.to_owned(), value.to_owned()))
            })
            .collect();
        Self { pairs }
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| &**value)
    }

    /// Whether the event is about the block device of this kernel name.
    pub(crate) fn is_about(&self, block_device: &str) -> bool {
        self.value("SUBSYSTEM") == Some("block") && self.value("DEVNAME") == Some(block_device)
    }
}

/// A socket that receives the kernel's events from now on.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(fd)
}

/// Waits for the next event of the kernel.
pub(crate) fn receive(socket: &impl AsFd, timeout: Duration) -> io::Result<Received> {
    let wait = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, wait) {
            Ok(0) => return Ok(Received::TimedOut),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match receive_now(socket, &mut buffer) {
            Ok(Some(event)) => return Ok(Received::Event(event)),
            // Not of the kernel, or read by nobody's fault: wait again.
            Ok(None) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => return Ok(Received::Lost),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes everything that has arrived; says whether there was anything.
pub(crate) fn drain(socket: &impl AsFd) -> bool {
    let mut any = false;
    while !matches!(
        receive(socket, Duration::ZERO),
        Ok(Received::TimedOut) | Err(_)
    ) {
        any = true;
    }
    any
}

fn receive_now(socket: &impl AsFd, buffer: &mut [u8]) -> nix::Result<Option<Event>> {
    let fd = socket.as_fd().as_raw_fd();
    let (length, from) = recvfrom::<NetlinkAddr>(fd, buffer)?;
    // Other processes can send to the group too; the kernel's port is 0.
    let of_kernel = from.is_some_and(|address| address.pid() == 0);
    Ok(of_kernel.then(|| Event::parse(&buffer[..length])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verity_event_is_understood() {
        let event = Event::parse(
            b"change@/devices/virtual/block/dm-1\0ACTION=change\0SUBSYSTEM=block\0\
              DEVNAME=dm-1\0DM_VERITY_ERR_BLOCK_NR=17\0",
        );
        assert!(event.is_about("dm-1"));
        assert!(!event.is_about("dm-0"));
        assert_eq!(event.value("DM_VERITY_ERR_BLOCK_NR"), Some("17"));
        assert_eq!(event.value("ERR"), None);
    }

    #[test]
    fn noise_is_no_event_about_anything() {
        assert_eq!(
            Event::parse(b"libudev\0\xff\xfe\0=\0"),
            Event {
                pairs: vec![(String::new(), String::new())]
            }
        );
        assert!(!Event::parse(b"").is_about("dm-1"));
    }

    #[test]
    fn waiting_on_a_quiet_socket_ends_at_its_deadline() {
        // Refused where the machine forbids it: the QEMU tests cover that.
        let Ok(socket) = open() else { return };
        drain(&socket);
        let outcome = receive(&socket, Duration::from_millis(1)).unwrap();
        assert!(matches!(outcome, Received::TimedOut | Received::Event(_)));
    }
}
