#![allow(
    unsafe_code,
    reason = "device-mapper is spoken to by an ioctl with a variable-length buffer"
)]
//! Device-mapper by its own ioctls: create a read-only mapping, look at it.
//!
//! Source: include/uapi/linux/dm-ioctl.h. A message is a fixed header, then for
//! a table load one target with its parameters. No udev and no library: the
//! kernel makes the node `/dev/dm-N` by itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::libc;

const CONTROL: &str = "/dev/mapper/control";
const VERSION: [u32; 3] = [4, 0, 0];
const HEADER: usize = 312;
const TARGET: usize = 40;
const NAME: std::ops::Range<usize> = 48..48 + 128;
const FLAGS: usize = 28;
const DEVICE: usize = 40;

const READ_ONLY: u32 = 1;

/// Commands of the control device that are used here.
#[derive(Clone, Copy, Debug)]
enum Command {
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
    Status = 12,
}

/// A mapped device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// What a device shall map to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The kernel's name of the target: `linear`, `verity`.
    pub(crate) target: &'static str,
    /// Length in sectors of 512 bytes.
    pub(crate) sectors: u64,
    pub(crate) parameters: String,
}

impl Device {
    /// `dm-0`: what the kernel's events call it.
    pub(crate) fn kernel_name(&self) -> String {
        format!("dm-{}", self.minor)
    }

    pub(crate) fn node(&self) -> PathBuf {
        PathBuf::from("/dev").join(self.kernel_name())
    }
}

/// Creates the device `name`, read-only, with one target from end to end.
pub(crate) fn create(name: &str, table: &Table) -> io::Result<Device> {
    let control = open()?;
    let answer = call(&control, Command::Create, message(name, 0, None))?;
    let device = device_of(name, &answer);
    let made = call(
        &control,
        Command::Load,
        message(name, READ_ONLY, Some(table)),
    )
    .and_then(|_| call(&control, Command::Resume, message(name, READ_ONLY, None)));
    match made {
        Ok(_) => Ok(device),
        Err(error) => {
            // The half-made device would stand in the way of the next attempt.
            let _ = call(&control, Command::Remove, message(name, 0, None));
            Err(error)
        }
    }
}

/// Removes the device `name`.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    call(&open()?, Command::Remove, message(name, 0, None)).map(drop)
}

/// The status line of the device's one target: `V` or `C` for verity.
pub(crate) fn status(name: &str) -> io::Result<String> {
    let answer = call(&open()?, Command::Status, message(name, 0, None))?;
    let text = answer.get(HEADER + TARGET..).unwrap_or_default();
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(CONTROL)
}

/// The bytes of a request.
fn message(name: &str, flags: u32, table: Option<&Table>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    for (index, number) in VERSION.iter().enumerate() {
        bytes[index * 4..index * 4 + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes[16..20].copy_from_slice(&number(HEADER).to_ne_bytes());
    bytes[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    let field = &mut bytes[NAME];
    let length = name.len().min(field.len() - 1);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    if let Some(table) = table {
        bytes[20..24].copy_from_slice(&1_u32.to_ne_bytes());
        let length = (TARGET + table.parameters.len() + 1).next_multiple_of(8);
        let mut target = Vec::with_capacity(length);
        target.extend(0_u64.to_ne_bytes());
        target.extend(table.sectors.to_ne_bytes());
        target.extend(0_i32.to_ne_bytes());
        target.extend(number(length).to_ne_bytes());
        target.extend(table.target.as_bytes());
        target.resize(TARGET, 0);
        target.extend(table.parameters.as_bytes());
        target.resize(length, 0);
        bytes.extend(target);
    }
    // Room for the answer, which overwrites the request.
    bytes.resize(bytes.len().max(4096), 0);
    let size = number(bytes.len());
    bytes[12..16].copy_from_slice(&size.to_ne_bytes());
    bytes
}

fn call(control: &File, command: Command, mut message: Vec<u8>) -> io::Result<Vec<u8>> {
    // _IOWR(0xfd, command, struct dm_ioctl)
    let request = libc::_IOWR::<[u8; HEADER]>(0xfd, command as u32);
    // SAFETY: the buffer is owned, writable, and as long as its own size field
    // says, which is all that the kernel goes by.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request, message.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(message)
    }
}

fn device_of(name: &str, answer: &[u8]) -> Device {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&answer[DEVICE..DEVICE + 8]);
    let (major, minor) = split_device(u64::from_ne_bytes(bytes));
    Device {
        name: name.to_owned(),
        major,
        minor,
    }
}

/// The kernel's `huge_decode_dev`.
fn split_device(device: u64) -> (u32, u32) {
    let low = u32::try_from(device & 0xffff_ffff).unwrap_or(u32::MAX);
    (
        (low & 0x000f_ff00) >> 8,
        (low & 0xff) | ((low >> 12) & 0x000f_ff00),
    )
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_load_is_laid_out_as_the_kernel_reads_it() {
        let table = Table {
            target: "linear",
            sectors: 8,
            parameters: "8:0 64".into(),
        };
        let bytes = message("medium", READ_ONLY, Some(&table));
        let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(number(0), 4);
        assert_eq!(number(12) as usize, bytes.len());
        assert_eq!((number(16), number(20), number(FLAGS)), (312, 1, READ_ONLY));
        assert_eq!(&bytes[NAME][..7], b"medium\0");
        assert_eq!(number(HEADER + 8), 8);
        assert_eq!(number(HEADER + 20) as usize, TARGET + 8);
        assert_eq!(&bytes[HEADER + 24..HEADER + 31], b"linear\0");
        assert_eq!(&bytes[HEADER + TARGET..HEADER + TARGET + 7], b"8:0 64\0");
    }

    #[test]
    fn device_numbers_are_taken_apart() {
        assert_eq!(split_device(0xfe01), (254, 1));
        assert_eq!(split_device(0x0010_0800), (8, 256));
    }
}
