#![allow(
    unsafe_code,
    reason = "a tap is asked for by an ioctl whose argument is a structure"
)]
//! Ethernet interfaces whose cable ends in this process, as a guest's ends in QEMU.
//!
//! What always holds: the interface is there as long as the [`Tap`] is, and is gone
//! with it or with its process.
//!
//! Source: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;

const DEVICE: &str = "/dev/net/tun";
/// `TUNSETIFF`, whose number says the size of an `int`.
const SET_INTERFACE: libc::Ioctl = libc::_IOW::<libc::c_int>(b'T' as u32, 202);
/// `IFNAMSIZ`: a name and a zero byte.
const NAME_BYTES: usize = 16;

/// `struct ifreq`, as far as this request has it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// The cable's end.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Makes the interface `name`, which is down and belongs to no bridge.
    ///
    /// # Errors
    ///
    /// `EPERM` without CAP_NET_ADMIN, `EBUSY` where there is one of this name.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request = Request {
            name: [0; NAME_BYTES],
            flags: libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI)
                .map_err(io::Error::other)?,
            rest: [0; 22],
        };
        if name.is_empty() || name.len() >= NAME_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)?;
        // SAFETY: the kernel reads and writes a whole `struct ifreq`, which is what
        // `Request` is in size and layout, and keeps no pointer to it.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// Sends a frame as the guest would.
    ///
    /// # Errors
    ///
    /// `EIO` while the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write_all(frame)
    }

    /// The next frame that came to the guest; `WouldBlock` where none did.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; 1 << 16];
        let length = (&self.0).read(&mut frame)?;
        frame.truncate(length);
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        for name in ["", "an-interface-name"] {
            let error = Tap::open(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
