//! Stage lines: what a booting host says of itself on every console.
//!
//! One line a stage, `surplus: stage=<name> elapsed=<seconds> key=value …`;
//! failures carry `error="…" next="…"`. The initramfs and the agent both speak
//! through this crate, so the format stands in one place. Elapsed time counts
//! from the kernel's start (`CLOCK_BOOTTIME`, by way of `/proc/uptime`).

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

/// One line on the consoles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    name: String,
    fields: Vec<(String, String)>,
}

impl Stage {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            fields: Vec::new(),
        }
    }

    /// Adds `key=value`; the value is quoted where it is not a plain word.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.fields.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds what went wrong and what the person at the console can do.
    #[must_use]
    pub fn failed(self, error: impl fmt::Display, next: impl fmt::Display) -> Self {
        self.with("error", error).with("next", next)
    }

    /// The line without its newline, with the given elapsed seconds.
    pub fn line(&self, elapsed: f64) -> String {
        let mut line = format!("surplus: stage={} elapsed={elapsed:.2}", self.name);
        for (key, value) in &self.fields {
            let _ = write!(line, " {key}={}", Quoted(value));
        }
        line
    }

    /// Writes the line to every active console. A console that cannot be
    /// written to is passed over: saying something must never stop a boot.
    pub fn announce(&self) {
        let line = format!("{}\r\n", self.line(elapsed()));
        for console in consoles() {
            if let Ok(mut tty) = fs::OpenOptions::new().write(true).open(&console) {
                let _ = tty.write_all(line.as_bytes());
            }
        }
    }
}

/// A value as one word: quoted, with control characters and quotes escaped,
/// unless it is plain.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Seconds since the kernel started; 0 where `/proc` is not mounted yet.
pub fn elapsed() -> f64 {
    fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Device nodes of the consoles that the kernel was told of (`console=`).
pub fn consoles() -> Vec<PathBuf> {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut nodes: Vec<_> = active
        .split_whitespace()
        .map(|name| PathBuf::from("/dev").join(name))
        .collect();
    if nodes.is_empty() {
        nodes.push(PathBuf::from("/dev/console"));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_stand_bare_and_others_in_quotes() {
        let stage = Stage::new("enrol")
            .with("url", "https://hub:8443")
            .with("try", 2);
        assert_eq!(
            stage.line(1.5),
            "surplus: stage=enrol elapsed=1.50 url=https://hub:8443 try=2"
        );
        let stage = Stage::new("enrol").failed("token \"a\" is spent", "make another\nnow");
        assert_eq!(
            stage.line(0.0),
            r#"surplus: stage=enrol elapsed=0.00 error="token \"a\" is spent" next="make another now""#
        );
    }
}
