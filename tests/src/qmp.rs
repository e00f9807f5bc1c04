//! A client of QEMU's machine protocol (QMP), over a Unix socket.
//!
//! One command at a time; events that arrive meanwhile are passed over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer a command: under TCG on a busy machine
/// its main loop waits for the big lock.
const ANSWER: Duration = Duration::from_secs(30);

/// A negotiated QMP session.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects as soon as QEMU has made its socket, and negotiates. `ended`
    /// tells of QEMU's end, after which waiting is in vain.
    pub fn connect(
        socket: &Path,
        deadline: Instant,
        mut ended: impl FnMut() -> Result<Option<ExitStatus>>,
    ) -> Result<Self> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error)
                        .with_context(|| format!("QEMU made no QMP socket {}", socket.display()));
                }
                Err(_) => {
                    if let Some(status) = ended()? {
                        bail!("QEMU ended at once ({status})");
                    }
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greeted with {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut message = self
                .receive()
                .with_context(|| format!("no answer to {command}"))?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed its QMP socket");
        }
        serde_json::from_str(&line).with_context(|| format!("not QMP: {line}"))
    }
}
