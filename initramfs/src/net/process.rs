//! The network's process as process 1 sees it: started, waited for, ended.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{NAME, PART, address};

const PROGRAM: &str = "/init";
/// The process's exit code when trying again cannot help.
pub(crate) const HOPELESS: u8 = 3;

/// What the process tells of a fetched root, as lines on its output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) url: String,
    pub(crate) interface: String,
    pub(crate) mac: String,
}

/// How the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Fetched(Report),
    /// It said why, and trying again cannot help.
    Hopeless,
    Failed(String),
}

/// The running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    output: ChildStdout,
}

impl Process {
    pub(crate) fn start() -> io::Result<Self> {
        let mut child = Command::new(PROGRAM)
            .arg0(NAME)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, output })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status,
            Err(error) => return Some(Ended::Failed(error.to_string())),
        };
        let mut text = String::new();
        let read = self.output.read_to_string(&mut text);
        Some(match (status.code(), read.map(|_| Report::parse(&text))) {
            (Some(0), Ok(Some(report))) => Ended::Fetched(report),
            (Some(code), _) if code == i32::from(HOPELESS) => Ended::Hopeless,
            _ => Ended::Failed(status.to_string()),
        })
    }

    /// Ends it, and takes away what it left half-made.
    pub(crate) fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = address::flush();
        let _ = fs::remove_file(PART);
    }
}

impl AsFd for Process {
    /// Becomes readable when the process ends.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            interface,
            mac,
        } = self;
        write!(f, "url={url}\ninterface={interface}\nmac={mac}")
    }
}

impl Report {
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.map(str::to_owned)
        };
        Some(Self {
            url: value("url")?,
            interface: value("interface")?,
            mac: value("mac")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_pipe() {
        let report = Report {
            url: "http://a/root.img?x=y".into(),
            interface: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
        };
        assert_eq!(Report::parse(&format!("{report}\n")), Some(report));
        assert_eq!(Report::parse("url=http://a"), None);
    }
}
