#![allow(
    unsafe_code,
    reason = "fscrypt is spoken to by ioctls whose arguments are structures"
)]
//! Encrypted directories of ext4 (fscrypt): each under a random key of its own.
//!
//! What always holds: a key is made here, goes into the kernel, and is
//! overwritten here before the call returns. It is written nowhere and cannot be
//! read back; once [`destroy`] said [`Destroyed::Gone`], nobody can read what it
//! encrypted, the disk in hand or not.
//!
//! Source: Documentation/filesystems/fscrypt.rst, include/uapi/linux/fscrypt.h
//! (policies of version 2: AES-256-XTS for contents, AES-256-CTS for names).

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;
use zeroize::Zeroizing;

/// The largest key that the kernel takes (`FSCRYPT_MAX_KEY_SIZE`).
const KEY_BYTES: u32 = 64;
/// `FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER`
const BY_IDENTIFIER: u32 = 2;
/// `FSCRYPT_POLICY_V2`
const VERSION: u8 = 2;
/// `FSCRYPT_MODE_AES_256_XTS`
const CONTENTS: u8 = 1;
/// `FSCRYPT_MODE_AES_256_CTS`
const NAMES: u8 = 4;
/// `FSCRYPT_POLICY_FLAGS_PAD_32`
const PAD_32: u8 = 3;
/// `FSCRYPT_KEY_REMOVAL_STATUS_FLAG_FILES_BUSY`
const FILES_BUSY: u32 = 1;
/// `FSCRYPT_KEY_REMOVAL_STATUS_FLAG_OTHER_USERS`
const OTHER_USERS: u32 = 2;

/// The kernel's name for a key, made from the key itself (by HKDF: it tells
/// nothing about it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName([u8; 16]);

/// What is left of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// Nothing.
    Gone,
    /// The key itself is gone, but a file under it is still open, and the kernel
    /// keeps what it needs for that one. To be called again.
    FilesBusy,
}

#[repr(C)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    name: [u8; 16],
    rest: [u8; 16],
}

/// `struct fscrypt_add_key_arg`, with its raw key.
#[repr(C)]
struct AddKey {
    specifier: KeySpecifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; KEY_BYTES as usize],
}

/// `struct fscrypt_remove_key_arg`
#[repr(C)]
struct RemoveKey {
    specifier: KeySpecifier,
    status: u32,
    reserved: [u32; 5],
}

/// `struct fscrypt_policy_v2`
#[repr(C)]
struct Policy {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    log2_data_unit: u8,
    reserved: [u8; 3],
    key: [u8; 16],
}

/// `struct fscrypt_get_policy_ex_arg`
#[repr(C)]
struct PolicyOf {
    size: u64,
    policy: Policy,
}

// The size in an ioctl's number is that of the first version's structure, or of
// what stands before the raw key.
const ADD_KEY: libc::Ioctl = libc::_IOWR::<[u8; 80]>(b'f' as u32, 23);
const REMOVE_KEY: libc::Ioctl = libc::_IOWR::<RemoveKey>(b'f' as u32, 24);
const SET_POLICY: libc::Ioctl = libc::_IOR::<[u8; 12]>(b'f' as u32, 19);
const GET_POLICY: libc::Ioctl = libc::_IOWR::<[u8; 9]>(b'f' as u32, 22);

impl KeySpecifier {
    fn of(name: [u8; 16]) -> Self {
        Self {
            kind: BY_IDENTIFIER,
            reserved: 0,
            name,
            rest: [0; 16],
        }
    }
}

/// Puts the empty `directory` under a new random key, together with all that
/// will ever be made in it.
///
/// # Errors
///
/// `ENOTEMPTY` where it holds something, `EOPNOTSUPP` and `ENOTTY` where the
/// file system cannot encrypt.
pub fn encrypt(directory: &File) -> io::Result<KeyName> {
    let key = add_random_key(directory)?;
    let policy = Policy {
        version: VERSION,
        contents: CONTENTS,
        names: NAMES,
        flags: PAD_32,
        log2_data_unit: 0,
        reserved: [0; 3],
        key: key.0,
    };
    // SAFETY: the kernel reads a policy of the version that its first byte says,
    // which is `Policy`, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), SET_POLICY, &raw const policy) };
    if done < 0 {
        let error = io::Error::last_os_error();
        // Nothing was encrypted with it: nothing is busy.
        let _ = destroy(directory, key);
        return Err(error);
    }
    Ok(key)
}

fn add_random_key(directory: &File) -> io::Result<KeyName> {
    // On the heap, so that no copy is left behind on a stack.
    let mut raw = Zeroizing::new(vec![0; KEY_BYTES as usize]);
    File::open("/dev/urandom")?.read_exact(&mut raw)?;
    let mut argument = Box::new(AddKey {
        specifier: KeySpecifier::of([0; 16]),
        raw_size: KEY_BYTES,
        key_id: 0,
        reserved: [0; 8],
        raw: [0; KEY_BYTES as usize],
    });
    argument.raw.copy_from_slice(&raw);
    // SAFETY: the kernel reads the fixed part and `raw_size` bytes behind it,
    // writes the key's name into the fixed part, and keeps no pointer.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), ADD_KEY, &raw mut *argument) };
    let error = io::Error::last_os_error();
    zeroize::Zeroize::zeroize(&mut argument.raw);
    if done < 0 {
        return Err(error);
    }
    Ok(KeyName(argument.specifier.name))
}

/// The key that `directory` is under; none where it is not encrypted.
///
/// # Errors
///
/// The kernel's, where it has something else than a policy of version 2.
pub fn key_of(directory: &File) -> io::Result<Option<KeyName>> {
    let mut argument = PolicyOf {
        size: size_of::<Policy>() as u64,
        policy: Policy {
            version: 0,
            contents: 0,
            names: 0,
            flags: 0,
            log2_data_unit: 0,
            reserved: [0; 3],
            key: [0; 16],
        },
    };
    // SAFETY: the kernel writes at most `size` bytes into `policy`, and their
    // number into `size`.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), GET_POLICY, &raw mut argument) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENODATA | Errno::ENOTTY | Errno::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        };
    }
    if argument.policy.version != VERSION {
        return Err(io::Error::other("its encryption is of another version"));
    }
    Ok(Some(KeyName(argument.policy.key)))
}

/// Takes the key out of the kernel, with all that was made of it. `anything` is
/// any file or directory of the file system that is not under the key: one that
/// is open is busy.
///
/// # Errors
///
/// The kernel's. A key that is not there is no error: it is gone.
pub fn destroy(anything: &File, key: KeyName) -> io::Result<Destroyed> {
    let mut argument = RemoveKey {
        specifier: KeySpecifier::of(key.0),
        status: 0,
        reserved: [0; 5],
    };
    // SAFETY: the kernel reads the structure and writes its status.
    let done = unsafe { libc::ioctl(anything.as_raw_fd(), REMOVE_KEY, &raw mut argument) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOKEY) => Ok(Destroyed::Gone),
            _ => Err(error),
        };
    }
    if argument.status & OTHER_USERS != 0 {
        return Err(io::Error::other("another user of the host holds the key"));
    }
    Ok(if argument.status & FILES_BUSY == 0 {
        Destroyed::Gone
    } else {
        Destroyed::FilesBusy
    })
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({self})")
    }
}

#[cfg(test)]
mod tests;
