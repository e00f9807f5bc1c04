//! A machine's serial console, as lines.
//!
//! QEMU appends to a file; this reads on from where it stopped. Terminal
//! escapes and carriage returns are taken out, so that a line is what a person
//! would read.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The lines read so far from a growing file.
#[derive(Debug)]
pub struct SerialLog {
    path: PathBuf,
    offset: u64,
    lines: Vec<String>,
    /// The line that has no end yet, raw.
    partial: Vec<u8>,
}

impl SerialLog {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            offset: 0,
            lines: Vec::new(),
            partial: Vec::new(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what was written since the last call. A file that is not there
    /// yet is empty.
    pub fn poll(&mut self) {
        let Ok(mut file) = File::open(&self.path) else {
            return;
        };
        let mut fresh = Vec::new();
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let Ok(read) = file.read_to_end(&mut fresh) else {
            return;
        };
        self.offset += read as u64;
        self.take(&fresh);
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.lines.push(readable(&self.partial));
                self.partial.clear();
            } else {
                self.partial.push(*byte);
            }
        }
    }

    /// Complete lines, oldest first.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The last `count` lines, the unfinished one included, for a message.
    pub fn tail(&self, count: usize) -> String {
        let mut lines = self.lines.clone();
        if !self.partial.is_empty() {
            lines.push(readable(&self.partial));
        }
        lines.retain(|line| !line.trim().is_empty());
        lines
            .split_off(lines.len().saturating_sub(count))
            .join("\n")
    }
}

/// Text without ANSI escape sequences (ECMA-48: CSI, OSC, two-character) and
/// without control characters.
pub fn readable(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                Some('[') => {
                    // Parameters and intermediates up to the final byte.
                    while chars
                        .next()
                        .is_some_and(|c| !('\x40'..='\x7e').contains(&c))
                    {}
                }
                Some(']') => {
                    // Ended by BEL or by ESC \.
                    while let Some(c) = chars.next() {
                        if c == '\x07' {
                            break;
                        }
                        if c == '\x1b' {
                            chars.next();
                            break;
                        }
                    }
                }
                _ => (),
            },
            '\t' => clean.push(' '),
            c if c.is_control() => (),
            c => clean.push(c),
        }
    }
    clean.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out() {
        assert_eq!(
            readable(b"\x1b[0m\x1b[1;31msurplus: stage=root\x1b[K\r"),
            "surplus: stage=root"
        );
        assert_eq!(readable(b"\x1b]0;title\x07a\x1bcb"), "ab");
    }

    #[test]
    fn lines_are_whole_even_when_they_arrive_in_pieces() {
        let mut log = SerialLog::new("/nonexistent");
        log.take(b"sur");
        assert!(log.lines().is_empty());
        log.take(b"plus\r\nx");
        assert_eq!(log.lines(), ["surplus"]);
        assert_eq!(log.tail(5), "surplus\nx");
    }
}
