//! `surplus-guard`: ends guests at their deadline when the agent does not.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::mm::{MlockAllFlags, mlockall};
use sd_notify::NotifyState;
use surplus_guard::guests::Processes;
use surplus_guard::log::{self, Level};
use surplus_guard::rounds::{Notice, Outcome, Rounds};
use surplus_guard::watch::Watch;
use surplus_guard::{boot_millis, deadline};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let directory = match (arguments.next(), arguments.next()) {
        (None, _) => PathBuf::from(deadline::DIRECTORY),
        (Some(directory), None) if !directory.to_string_lossy().starts_with('-') => {
            PathBuf::from(directory)
        }
        _ => {
            eprintln!(
                "usage: surplus-guard [DIRECTORY]\n\
                 Ends guests at the deadlines in DIRECTORY ({} where none is given).",
                deadline::DIRECTORY
            );
            return ExitCode::FAILURE;
        }
    };
    match guard(directory) {
        Ok(never) => match never {},
        Err(error) => {
            log::say(
                Level::Error,
                format!(
                    "no guest's deadline is kept by the guard: {error}; systemd starts it again"
                ),
            );
            ExitCode::FAILURE
        }
    }
}

fn guard(directory: PathBuf) -> std::io::Result<std::convert::Infallible> {
    if sd_notify::booted().unwrap_or(false) {
        log::never_wait();
    }
    // A host that is short of memory must not have to read us from a medium.
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        log::say(Level::Warning, format!("memory is not locked: {error}"));
    }
    let watch = Watch::new(&directory)?;
    let mut rounds = Rounds::new(directory, Processes::default());
    let mut ready = false;
    loop {
        watch.renew();
        let Outcome { notices, next } = rounds.round(boot_millis());
        for Notice(level, text) in notices {
            log::say(level, text);
        }
        // Only after a round: one that hangs is noticed.
        tell(&[NotifyState::Watchdog]);
        if !ready {
            ready = true;
            tell(&[NotifyState::Ready]);
            log::say(
                Level::Info,
                format!("keeping the deadlines of {} guests", rounds.guests()),
            );
        }
        watch.wait(next)?;
    }
}

/// Without systemd (in tests, by hand) there is nobody to tell.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::say(Level::Warning, format!("systemd is not told: {error}"));
    }
}
