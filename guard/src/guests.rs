//! Finds a guest's QEMU among the host's processes, and ends it.
//!
//! The agent cannot name the process before libvirt has made it, and may die in
//! between; so it is found anew each time, by what libvirt gave it: the domain's
//! name on its command line, and the control group that it cannot leave.
//!
//! A number means another process once the first has ended. So the process is
//! opened (pidfd_open(2)) before it is looked at, and the signal goes to what was
//! opened: if that had not ended after the look, the look was at it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A running QEMU of a domain.
#[derive(Debug)]
pub struct Guest {
    pub pid: Pid,
    process: OwnedFd,
}

impl Guest {
    /// Kills it; one that has ended meanwhile is success.
    ///
    /// # Errors
    ///
    /// Where the kernel does not let us.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.process, Signal::KILL) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended, be it reaped or not.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.process, PollFlags::IN)];
        let now = Timespec::default();
        Ok(rustix::io::retry_on_intr(|| poll(&mut polled, Some(&now)))? > 0)
    }
}

/// The processes of a `/proc`.
#[derive(Clone, Debug)]
pub struct Processes(PathBuf);

impl Default for Processes {
    fn default() -> Self {
        Self(PathBuf::from("/proc"))
    }
}

impl Processes {
    /// Every process that runs `domain` right now.
    ///
    /// # Errors
    ///
    /// Where the processes cannot be listed, or one cannot be opened: whether
    /// the guest is gone is not known then.
    pub fn of(&self, domain: &str) -> io::Result<Vec<Guest>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            let open = |pid| pidfd_open(pid, PidfdFlags::empty());
            found.extend(self.guest(pid, domain, open)?);
        }
        Ok(found)
    }

    /// The process with this number, if it runs `domain` and has not ended.
    fn guest(
        &self,
        pid: Pid,
        domain: &str,
        open: impl FnOnce(Pid) -> rustix::io::Result<OwnedFd>,
    ) -> io::Result<Option<Guest>> {
        // Cheap first: most processes are none of ours.
        if !self.runs(pid, domain) {
            return Ok(None);
        }
        let process = match open(pid) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let guest = Guest { pid, process };
        // What counts: looked at after it was opened, and not ended after that.
        let is_it = self.runs(pid, domain) && !guest.has_ended()?;
        Ok(is_it.then_some(guest))
    }

    /// Whether the process with this number runs `domain` by what can be read of
    /// it. What cannot be read has ended.
    fn runs(&self, pid: Pid, domain: &str) -> bool {
        let directory = self.0.join(pid.as_raw_pid().to_string());
        names_on_command_line(&read(&directory, "cmdline"), domain)
            || names_in_control_group(&read(&directory, "cgroup"), domain)
    }
}

fn read(directory: &Path, file: &str) -> Vec<u8> {
    fs::read(directory.join(file)).unwrap_or_default()
}

/// Whether it is `… -name guest=DOMAIN,…`, as libvirt starts QEMU.
fn names_on_command_line(command_line: &[u8], domain: &str) -> bool {
    let mut arguments = command_line.split(|byte| *byte == 0);
    let Some(value) = arguments
        .by_ref()
        .find(|argument| *argument == b"-name")
        .and_then(|_| arguments.next())
    else {
        return false;
    };
    let guest = value.split(|byte| *byte == b',').next();
    guest.and_then(|guest| guest.strip_prefix(b"guest=")) == Some(domain.as_bytes())
}

/// Whether a part of the path is `qemu-NUMBER-DOMAIN`, as libvirt
/// (`….libvirt-qemu`) or systemd-machined (`machine-….scope`) spell it.
fn names_in_control_group(control_groups: &[u8], domain: &str) -> bool {
    let text = String::from_utf8_lossy(control_groups).replace("\\x2d", "-");
    text.lines().flat_map(|line| line.split('/')).any(|part| {
        let part = part.strip_prefix("machine-").unwrap_or(part);
        let part = part
            .strip_suffix(".scope")
            .or_else(|| part.strip_suffix(".libvirt-qemu"));
        part.and_then(|part| part.strip_prefix("qemu-")?.split_once('-'))
            .is_some_and(|(number, name)| number.parse::<u32>().is_ok() && name == domain)
    })
}

#[cfg(test)]
mod tests;
