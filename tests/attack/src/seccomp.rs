#![allow(
    unsafe_code,
    reason = "filters are read by ptrace and installed by prctl, which take addresses"
)]
//! The seccomp filters that hold a process, taken on by another.
//!
//! Source: ptrace(2), `PTRACE_SECCOMP_GET_FILTER`; prctl(2), `PR_SET_SECCOMP`.

use std::io;
use std::ptr;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// As in include/uapi/linux/ptrace.h.
const GET_FILTER: libc::c_uint = 0x420c;

/// One program for the kernel to ask at each system call.
type Filter = Vec<libc::sock_filter>;

/// All of a process, in the order in which it took them on.
#[derive(Clone)]
pub(crate) struct Filters(Vec<Filter>);

impl Filters {
    /// Stops the process for a moment to read them: that takes root, and a kernel
    /// that lets root see them.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        ptrace::seize(pid, ptrace::Options::empty())?;
        let filters = ptrace::interrupt(pid)
            .and_then(|()| waitpid(pid, None))
            .map_err(io::Error::from)
            .and_then(|_| read(pid));
        ptrace::detach(pid, None)?;
        filters.map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Holds this thread, and those that it starts, for good.
    pub(crate) fn take_on(&self) -> io::Result<()> {
        for filter in &self.0 {
            let program = libc::sock_fprog {
                len: u16::try_from(filter.len()).map_err(io::Error::other)?,
                filter: filter.as_ptr().cast_mut(),
            };
            // SAFETY: the kernel reads as many instructions as the program says that
            // there are, and keeps no address.
            let done = unsafe {
                libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                )
            };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Of a stopped process. The kernel counts from the newest.
fn read(pid: Pid) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    for index in 0.. {
        let length = match get(pid, index, ptr::null_mut()) {
            Err(Errno::ENOENT) => break,
            length => length?,
        };
        let nothing = libc::sock_filter {
            code: 0,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let mut filter = vec![nothing; length];
        get(pid, index, filter.as_mut_ptr())?;
        filters.push(filter);
    }
    filters.reverse();
    Ok(filters)
}

/// How many instructions the filter has, which are written to `filter` unless that
/// is nowhere.
fn get(pid: Pid, index: usize, filter: *mut libc::sock_filter) -> nix::Result<usize> {
    // SAFETY: the caller has room for the filter, whose length it asked for while
    // the process was stopped already.
    let length = unsafe { libc::ptrace(GET_FILTER, pid.as_raw(), index, filter) };
    let length = Errno::result(length)?;
    usize::try_from(length).map_err(|_| Errno::EINVAL)
}
