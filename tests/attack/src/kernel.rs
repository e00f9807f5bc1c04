#![allow(
    unsafe_code,
    reason = "loading a kernel has no wrapper in the C library"
)]
//! What root may do to the kernel that runs: put another in its place, add to it, look
//! into its memory. Whatever comes through is taken back.
//!
//! Source: kexec_load(2), init_module(2), lockdown in kernel_lockdown(7).

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, delete_module, init_module};

use crate::escape::{Attempt, attempt};

/// A module of the host's that nothing uses, and what stands at the end of one that is
/// signed.
const MODULE: &CStr = c"nft_quota";
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// As root, all that a host must refuse.
pub fn tries() -> Result<String> {
    let module = unsigned_module()?;
    Ok(attempts(&module)
        .iter()
        .map(|it| format!("{it}\n"))
        .collect())
}

pub(crate) fn attempts(module: &[u8]) -> Vec<Attempt> {
    vec![
        attempt("/dev/mem", File::open("/dev/mem")),
        attempt("another kernel", load_pieces()),
        attempt("another kernel from a file", load_file()),
        attempt("an unsigned module", load_module(module)),
    ]
}

/// No piece at all: what was loaded so far is forgotten, which takes the same right.
fn load_pieces() -> nix::Result<()> {
    let (entry, count, pieces, flags) = (0_usize, 0_usize, ptr::null::<u8>(), 0_usize);
    // SAFETY: of no pieces none is read.
    let done = unsafe { libc::syscall(libc::SYS_kexec_load, entry, count, pieces, flags) };
    Errno::result(done).map(drop)
}

fn load_file() -> io::Result<()> {
    let path = Path::new("/run/surplus-attack-kernel");
    fs::write(path, unsigned_kernel())?;
    let file = File::open(path);
    fs::remove_file(path)?;
    load(file?.as_raw_fd(), libc::KEXEC_FILE_NO_INITRAMFS)?;
    Ok(load(-1, libc::KEXEC_FILE_UNLOAD)?)
}

fn load(kernel: RawFd, flags: libc::c_int) -> nix::Result<()> {
    let (initramfs, line) = (-1, c"");
    let length = line.count_bytes() + 1;
    // SAFETY: the kernel reads the two files, if any, and so many bytes of the line.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel,
            initramfs,
            length,
            line.as_ptr(),
            libc::c_long::from(flags),
        )
    };
    Errno::result(done).map(drop)
}

/// Nothing but a header that is right (Documentation/arch/x86/boot.rst), which nobody
/// has signed.
fn unsigned_kernel() -> Vec<u8> {
    const SECTORS: u8 = 4;
    let mut kernel = vec![0; (usize::from(SECTORS) + 9) * 512];
    let fields: [(usize, &[u8]); 9] = [
        (0x1f1, &[SECTORS]),
        (0x1fe, &0xaa55_u16.to_le_bytes()),
        (0x202, b"HdrS"),
        (0x206, &0x020f_u16.to_le_bytes()),
        // It is to be loaded high, has 64 bits, and may lie above 4 GiB, under page
        // tables of five levels as well.
        (0x211, &[1]),
        (0x230, &0x20_0000_u32.to_le_bytes()),
        (0x236, &0x63_u16.to_le_bytes()),
        // The longest command line; the memory that it needs.
        (0x238, &2047_u32.to_le_bytes()),
        (0x260, &0x1_0000_u32.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
    }
    kernel
}

fn load_module(module: &[u8]) -> nix::Result<()> {
    init_module(module, c"")?;
    delete_module(MODULE, DeleteModuleFlags::empty())
}

/// One of the host's own modules, without the mark of its signature.
pub(crate) fn unsigned_module() -> Result<Vec<u8>> {
    let name = format!("kernel/net/netfilter/{}.ko", MODULE.to_string_lossy());
    let mut module = fs::read(modules()?.join(name))?;
    let signed = module.ends_with(SIGNED);
    anyhow::ensure!(signed, "the host's own module has no signature");
    module.truncate(module.len() - SIGNED.len());
    Ok(module)
}

/// Those of the kernel that runs.
fn modules() -> Result<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel runs?")?;
    Ok(Path::new("/usr/lib/modules").join(release.trim()))
}
