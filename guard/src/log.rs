//! Words to the journal, by way of standard error (sd-daemon(3)).
//!
//! A journal that hangs holds nobody up: what it does not take is lost.

use std::fmt;
use std::io::Write as _;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How much it matters, as syslog counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Says one line.
pub fn say(level: Level, text: impl fmt::Display) {
    let line = format!("<{}>{text}\n", level as u8);
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// From now on a line that the journal does not take at once is lost. Only for a
/// standard error of our own: the setting is the open file's.
pub fn never_wait() {
    let stderr = std::io::stderr();
    if let Ok(flags) = fcntl_getfl(&stderr) {
        let _ = fcntl_setfl(&stderr, flags | OFlags::NONBLOCK);
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
