#![allow(
    unsafe_code,
    reason = "loop devices are made by ioctls that nix does not wrap"
)]
//! A file as a block device: for a root that network boot put into the
//! initramfs.
//!
//! Source: include/uapi/linux/loop.h.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::libc;

const GET_FREE: libc::Ioctl = 0x4c82;
const CONFIGURE: libc::Ioctl = 0x4c0a;
/// Bytes of `struct loop_config`: descriptor, block size, `loop_info64`, spare.
const CONFIG: usize = 4 + 4 + 232 + 64;
const FLAGS: usize = 8 + 52;
const READ_ONLY: u32 = 1;

/// Attaches `file` to a free loop device, read-only, and gives its kernel name.
pub(crate) fn attach(file: &Path) -> io::Result<String> {
    let backing = File::open(file)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    // SAFETY: this command takes no argument and gives a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = format!("loop{number}");
    let device = File::open(Path::new("/dev").join(&name))?;
    let config = config(backing.as_raw_fd());
    // SAFETY: the kernel reads exactly `CONFIG` bytes, and the array has them.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, config.as_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(name)
    }
}

fn config(backing: i32) -> [u8; CONFIG] {
    let mut bytes = [0; CONFIG];
    bytes[..4].copy_from_slice(&backing.to_ne_bytes());
    bytes[4..8].copy_from_slice(&4096_u32.to_ne_bytes());
    bytes[FLAGS..FLAGS + 4].copy_from_slice(&READ_ONLY.to_ne_bytes());
    bytes
}
