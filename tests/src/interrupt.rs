//! Ctrl-C: everything that was started is killed, every temporary directory
//! removed, before the program ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::process;

static DIRECTORIES: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Removes `directory` when the program is interrupted.
pub fn remove_at_end(directory: &Path) {
    directories().insert(directory.to_owned());
}

/// Handles SIGINT, SIGTERM and SIGHUP from now on. Call it from the main
/// thread before any other is started: they inherit that these are blocked.
pub fn handle() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("could not block signals")?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            eprintln!("\ninterrupted: stopping what was started");
            process::kill_all();
            for directory in directories().iter() {
                let _ = fs::remove_dir_all(directory);
            }
            std::process::exit(128 + signal as i32);
        })?;
    Ok(())
}

fn directories() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}
