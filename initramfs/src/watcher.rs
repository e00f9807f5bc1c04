#![allow(
    unsafe_code,
    reason = "the watcher is a child process, and is handed its socket by number"
)]
//! The watcher over the root: a process that stays behind when `/init` goes.
//!
//! It waits for the kernel's word about a bad block of the root, or about a
//! medium that was pulled out, says so on every console, and powers the host
//! off. It needs nothing of the root: its program and memory are locked in RAM,
//! and it keeps the initramfs's own mounts by a mount namespace of its own.
//!
//! Its name begins with `@`: systemd's shutdown leaves such processes alone
//! until the end, so that the last reads of the root are watched as well.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{ForkResult, Pid, execv, fork, pipe2};
use surplus_stage::Stage;

use crate::failure::KERNEL;
use crate::uevent::{self, Event, Received};
use crate::verity;

/// What the watcher is called, in `argv[0]`.
pub(crate) const NAME: &str = "@surplus-watcher";

const PROGRAM: &str = "/init";
/// How often the device itself is asked, in case an event was lost.
const LOOK: Duration = Duration::from_secs(10);
/// A console that is stuck must not keep a bad host running; a working serial
/// line has sent everything long before.
const SPEAKING_TIME: Duration = Duration::from_secs(2);
/// Long enough to see on a screen why the host went off.
const READING_TIME: Duration = Duration::from_secs(5);
/// What powering off may take before the kernel is made to panic.
const POWER_OFF_TIME: Duration = Duration::from_secs(20);

const PULLED: &str = "a running host needs its medium: connect it, then boot again";
const DAMAGED: &str = "the medium is damaged or was altered: write it anew and check it with \
     `surplus-image verify`, then boot again";

/// Why the host is powered off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    error: String,
    next: &'static str,
}

/// Starts the watcher over the verity device `root` on the disk `medium`, and
/// returns when it has made itself independent of this process and its mounts.
///
/// `uevents` was opened before the device was made, so nothing is missed.
pub(crate) fn start(uevents: OwnedFd, root: &str, medium: &str) -> io::Result<()> {
    let (settled, settling) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has no other thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {}
        ForkResult::Child => {
            let error = become_watcher(uevents, settling, root, medium);
            Stage::new("root")
                .failed(format!("starting the watcher: {error}"), KERNEL)
                .announce();
            std::process::exit(1);
        }
    }
    drop(settling);
    // The pipe ends without a byte if the watcher did.
    File::from(settled).read_exact(&mut [0])
}

/// Replaces the child by the watcher; returns only on failure.
fn become_watcher(uevents: OwnedFd, settling: OwnedFd, root: &str, medium: &str) -> io::Error {
    let numbers = [uevents, settling].map(|fd| {
        // Kept open across the exec: that is how the watcher gets them.
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).map(|_| fd.into_raw_fd().to_string())
    });
    let [Ok(uevents), Ok(settling)] = numbers else {
        return io::Error::last_os_error();
    };
    let arguments: Result<Vec<_>, _> = [NAME, &uevents, &settling, root, medium]
        .into_iter()
        .map(CString::new)
        .collect();
    match (CString::new(PROGRAM), arguments) {
        (Ok(program), Ok(arguments)) => {
            let Err(error) = execv(&program, &arguments);
            error.into()
        }
        (Err(error), _) | (_, Err(error)) => error.into(),
    }
}

/// Waits for the watcher to speak and power off, after a read of the root
/// failed with its word on the way.
pub(crate) fn leave_it_the_word() {
    thread::sleep(SPEAKING_TIME + READING_TIME + POWER_OFF_TIME);
}

/// The watcher's whole life.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let [uevents, settling, root, medium] = arguments else {
        return ExitCode::FAILURE;
    };
    let (Ok(uevents), Ok(settling)) = (uevents.parse(), settling.parse()) else {
        return ExitCode::FAILURE;
    };
    // SAFETY: `start` left exactly these descriptors to us, open.
    let (socket, mut settling) =
        unsafe { (OwnedFd::from_raw_fd(uevents), File::from_raw_fd(settling)) };
    if settle_down()
        .and_then(|()| settling.write_all(&[1]))
        .is_err()
    {
        // `start` sees the pipe's end and stops the boot.
        return ExitCode::FAILURE;
    }
    drop(settling);
    let trouble = watch(&socket, root, medium);
    say_and_power_off(&trouble)
}

/// Makes the process independent of everything that will change around it: the
/// mounts, which `/init` moves away next, above all.
fn settle_down() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // The rest helps on a bad day only, and is worth no refusal to boot.
    let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    Ok(())
}

/// Returns when there is reason to power off.
fn watch(socket: &OwnedFd, root: &str, medium: &str) -> Trouble {
    loop {
        match uevent::receive(socket, LOOK) {
            Ok(Received::Event(event)) => {
                if let Some(trouble) = trouble(&event, root, medium) {
                    return trouble;
                }
            }
            Ok(Received::Lost | Received::TimedOut) => {
                if verity::is_corrupted() {
                    return Trouble {
                        error: "a bad block was read from the root".into(),
                        next: DAMAGED,
                    };
                }
            }
            // Blind on the socket, the look at the device remains.
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// What an event says against going on.
fn trouble(event: &Event, root: &str, medium: &str) -> Option<Trouble> {
    if event.is_about(root)
        && let Some(block) = event.value("DM_VERITY_ERR_BLOCK_NR")
    {
        let error = format!(
            "{} of the root does not match the root hash",
            name_block(block)
        );
        return Some(Trouble {
            error,
            next: DAMAGED,
        });
    }
    if event.is_about(medium) && event.value("ACTION") == Some("remove") {
        let error = format!("the medium with the root ({medium}) was pulled out");
        return Some(Trouble {
            error,
            next: PULLED,
        });
    }
    None
}

/// The kernel writes `TYPE,NUMBER`; type 1 is a block of the hash tree.
fn name_block(text: &str) -> String {
    match text.split_once(',') {
        Some(("0", number)) => format!("block {number}"),
        Some(("1", number)) => format!("hash block {number}"),
        _ => format!("block {text}"),
    }
}

fn say_and_power_off(trouble: &Trouble) -> ! {
    // Nothing runs on meanwhile, no guest either; process 1 cannot be stopped,
    // but has nobody left to act for it.
    let _ = kill(Pid::from_raw(-1), Signal::SIGSTOP);
    let stage = Stage::new("root")
        .failed(&trouble.error, trouble.next)
        .with("action", "power-off");
    let (said, heard) = mpsc::channel();
    let speaker = thread::Builder::new().spawn(move || {
        stage.announce();
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = heard.recv_timeout(SPEAKING_TIME);
    }
    thread::sleep(READING_TIME);
    let panic = thread::Builder::new().spawn(|| {
        thread::sleep(POWER_OFF_TIME);
        crash();
    });
    if reboot(RebootMode::RB_POWER_OFF).is_err() || panic.is_err() {
        crash();
    }
    loop {
        thread::park();
    }
}

/// The backstop: a kernel that panics runs no guest. It shall not start over
/// with the same bad medium either.
fn crash() {
    let _ = fs::write("/proc/sys/kernel/panic", "0");
    let _ = fs::write("/proc/sys/kernel/sysrq", "1");
    let _ = fs::write("/proc/sysrq-trigger", "c");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_block_of_the_root_is_reason_to_power_off() {
        let event = |text: &str| Event::parse(text.replace(' ', "\0").as_bytes());
        let about = "ACTION=change SUBSYSTEM=block DEVNAME=dm-1";
        for (block, said) in [
            ("0,7", "block 7"),
            ("1,7", "hash block 7"),
            ("7", "block 7"),
        ] {
            let bad = event(&format!("{about} DM_VERITY_ERR_BLOCK_NR={block}"));
            let text = trouble(&bad, "dm-1", "sr0").unwrap();
            assert_eq!(
                text.error,
                format!("{said} of the root does not match the root hash")
            );
            assert!(trouble(&bad, "dm-0", "sr0").is_none());
        }
        assert!(trouble(&event(about), "dm-1", "sr0").is_none());
    }

    #[test]
    fn a_pulled_medium_is_and_another_disk_is_not() {
        let event = |name: &str, action: &str| {
            Event::parse(format!("ACTION={action}\0SUBSYSTEM=block\0DEVNAME={name}\0").as_bytes())
        };
        assert!(trouble(&event("sdb", "remove"), "dm-1", "sdb").is_some());
        assert!(trouble(&event("sdb", "change"), "dm-1", "sdb").is_none());
        assert!(trouble(&event("sda", "remove"), "dm-1", "sdb").is_none());
    }
}
