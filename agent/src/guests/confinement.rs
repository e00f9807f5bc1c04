//! Running a tool on a stranger's bytes.
//!
//! What always holds: the tool has an end, by time and by size, and what it says
//! is bounded. What else it cannot do is the affair of who runs it: on a host
//! [`crate::system::transient`], in tests [`Direct`].

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// The most that is kept of what a tool says on each stream.
const MAX_WORDS: u64 = 64 << 10;

/// One run of a tool.
#[derive(Clone, Debug)]
pub struct Job {
    pub program: Utf8PathBuf,
    pub arguments: Vec<String>,
    /// The one file of the state directory that it sees.
    pub reads: Utf8PathBuf,
    /// The one file that it may write. It exists, and anybody may write it who
    /// reaches it.
    pub writes: Option<Utf8PathBuf>,
    pub limits: Limits,
}

/// What a run may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu: Duration,
    pub wall: Duration,
    /// Of any file that it writes.
    pub file_bytes: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
    OutOfMemory,
    OutOfTime,
}

impl End {
    /// The limit that was overstepped, in words.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Self::Exit(_) => None,
            Self::OutOfTime => Some("time"),
            Self::OutOfMemory => Some("memory"),
            Self::Signal(signal) if signal == libc_signal::XFSZ => Some("space"),
            Self::Signal(signal) if signal == libc_signal::XCPU => Some("processor time"),
            // The kernel's last word to who ignores SIGXCPU.
            Self::Signal(signal) if signal == libc_signal::KILL => Some("processor time"),
            Self::Signal(_) => Some("what it may do"),
        }
    }
}

mod libc_signal {
    use nix::sys::signal::Signal;

    pub(super) const KILL: i32 = Signal::SIGKILL as i32;
    pub(super) const XCPU: i32 = Signal::SIGXCPU as i32;
    pub(super) const XFSZ: i32 = Signal::SIGXFSZ as i32;
}

/// A place where tools run. Dropped, a run ends soon.
pub trait Confinement: Send + Sync + fmt::Debug {
    /// # Errors
    ///
    /// Where the tool could not be started; trying again may help.
    fn run(&self, job: Job) -> BoxFuture<'_, io::Result<Outcome>>;
}

/// As a child of this process, with limits where `prlimit` is there and nothing
/// else: for tests, and on what is our own.
#[derive(Clone, Debug)]
pub struct Direct {
    /// util-linux's `prlimit`.
    limiter: Option<Utf8PathBuf>,
}

impl Default for Direct {
    fn default() -> Self {
        let limiter = Utf8PathBuf::from("/usr/bin/prlimit");
        Self {
            limiter: limiter.exists().then_some(limiter),
        }
    }
}

impl Confinement for Direct {
    fn run(&self, job: Job) -> BoxFuture<'_, io::Result<Outcome>> {
        Box::pin(async move {
            let mut command = self.command(&job.program, &job.limits);
            command
                .args(&job.arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .env_clear();
            let mut child = command.spawn()?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let work = async { tokio::join!(words(stdout), words(stderr), child.wait()) };
            let Ok((stdout, stderr, status)) = tokio::time::timeout(job.limits.wall, work).await
            else {
                child.kill().await?;
                return Ok(Outcome {
                    end: End::OutOfTime,
                    stdout: Vec::new(),
                    stderr: Vec::new(),
                });
            };
            let status = status?;
            let end = match (status.code(), status.signal()) {
                (Some(code), _) => End::Exit(code),
                (None, signal) => End::Signal(signal.unwrap_or_default()),
            };
            Ok(Outcome {
                end,
                stdout,
                stderr,
            })
        })
    }
}

impl Direct {
    /// Without limits, whatever is there.
    pub fn without_limits() -> Self {
        Self { limiter: None }
    }

    fn command(&self, program: &Utf8Path, limits: &Limits) -> Command {
        let Some(limiter) = &self.limiter else {
            return Command::new(program);
        };
        let mut command = Command::new(limiter);
        command
            .arg(format!("--as={}", address_space(limits)))
            .arg(format!("--cpu={}", limits.cpu.as_secs()))
            .arg(format!("--fsize={}", limits.file_bytes))
            .arg("--core=0")
            .arg(program);
        command
    }
}

/// Address space beyond the memory: what threads reserve and never touch.
pub fn address_space(limits: &Limits) -> u64 {
    limits.memory_bytes + (2 << 30)
}

/// All that comes, of which the beginning is kept.
pub(crate) async fn words(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(MAX_WORDS).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}
