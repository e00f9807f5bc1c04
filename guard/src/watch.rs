//! When the next round is: at a deadline, when a file changes, and every moment
//! anyway.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Between rounds at most, in milliseconds: an event that was lost costs that.
const LOOK: u64 = 1000;

/// What a round waits for.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    timer: OwnedFd,
    events: OwnedFd,
}

impl Watch {
    /// Watches the directory of deadline files, which may come later.
    ///
    /// # Errors
    ///
    /// Where the kernel gives no timer or no events.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self {
            directory: directory.into(),
            timer,
            events,
        })
    }

    /// Waits for a change or until `next`, in milliseconds since boot, and not
    /// for long. What changes from before this call on is noticed.
    ///
    /// # Errors
    ///
    /// Where the kernel lets nobody wait.
    pub fn wait(&self, next: Option<u64>) -> io::Result<()> {
        let latest = crate::boot_millis() + LOOK;
        self.set_timer(next.map_or(latest, |next| next.min(latest)))?;
        let mut polled = [
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.events, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.drain();
        Ok(())
    }

    /// Starts to be told of changes; before the round that must miss none. A
    /// directory that was made anew is watched anew.
    pub fn renew(&self) {
        watch(&self.events, &self.directory);
    }

    fn set_timer(&self, at: u64) -> io::Result<()> {
        let seconds = i64::try_from(at / 1000).unwrap_or(i64::MAX);
        let nanos = i64::try_from(at % 1000).unwrap_or(0) * 1_000_000;
        let set = Itimerspec {
            it_interval: Timespec::default(),
            // All zeros would mean never.
            it_value: Timespec {
                tv_sec: seconds,
                tv_nsec: nanos.max(1),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &set)?;
        Ok(())
    }

    /// Which files changed does not matter: all are read.
    fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        while reader.next().is_ok() {}
    }
}

/// One that is watched already is watched once.
fn watch(events: &OwnedFd, directory: &Path) {
    use inotify::WatchFlags as Flag;
    let flags = Flag::MOVED_TO | Flag::MOVED_FROM | Flag::DELETE | Flag::ONLYDIR;
    // Without it there is the look every moment.
    let _ = inotify::add_watch(events, directory, flags);
}

#[cfg(test)]
mod tests;
