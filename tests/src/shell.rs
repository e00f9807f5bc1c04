//! A root shell in the booted appliance, for tests.
//!
//! The appliance has no shell, and none is put into it. A test brings its own:
//! a disk with a static busybox, and two systemd units that mount it and tie
//! its shell to the second serial port. The units travel as systemd
//! credentials in SMBIOS OEM strings (systemd-debug-generator(8)), which only
//! whoever owns the machine's firmware can set.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::lab::{Lab, run};
use crate::machine::{Disk, DiskBus};
use crate::serial::readable;

/// Where the kit is mounted in the appliance; programs lie in `bin`.
const MOUNTED: &str = "/run/testkit";

/// The session on the second serial port.
#[derive(Debug)]
pub struct Shell {
    socket: PathBuf,
    session: Option<UnixStream>,
    commands: u64,
}

/// What a command said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub output: String,
    pub status: i32,
}

impl Shell {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            session: None,
            commands: 0,
        }
    }

    /// Runs `command` and returns what it wrote. A status other
    /// than 0 is an error.
    pub fn run(&mut self, command: &str, within: Duration) -> Result<String> {
        let outcome = self.attempt(command, within)?;
        if outcome.status != 0 {
            bail!(
                "`{command}` ended with {}: {}",
                outcome.status,
                outcome.output
            );
        }
        Ok(outcome.output)
    }

    /// Runs `command`, whatever its status.
    pub fn attempt(&mut self, command: &str, within: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + crate::patience(within);
        self.commands += 1;
        let number = self.commands;
        let (begin, marker) = (format!("@@{number}<<"), format!("@@{number}>>"));
        // The quotes keep the terminal's echo of this line from being taken
        // for what the line prints.
        let line = format!(
            " echo @@''{number}'<<'; {{ {command}\n }} </dev/null 2>&1; echo @@''{number}'>>'$?\n"
        );
        self.session()?
            .write_all(line.as_bytes())
            .context("could not write to the test shell")?;
        let text = self.read_until(deadline, |text| {
            text.split_once(&marker)
                .is_some_and(|(_, status)| status.contains('\n'))
        });
        let text = text.with_context(|| format!("`{command}` gave no answer"))?;
        let (output, status) = text.split_once(&marker).context("the marker was there")?;
        let output = output
            .split_once(&begin)
            .map_or(output, |(_, output)| output);
        let status = status.lines().next().unwrap_or_default().trim();
        Ok(Outcome {
            output: output.trim().to_owned(),
            status: status
                .parse()
                .with_context(|| format!("status {status:?} of `{command}`"))?,
        })
    }

    /// Waits until the appliance has started the shell.
    pub fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + crate::patience(within);
        loop {
            match self.attempt(
                "stty -echo; export PATH=/run/testkit/bin:$PATH",
                Duration::from_secs(2),
            ) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context("the test shell did not start");
                }
                // A terminal that was opened in the middle of a line has the rest of it,
                // and a shell that waits for what began there: Ctrl-C.
                Err(_) => self
                    .session()?
                    .write_all(b"\x03\n")
                    .context("could not write to the test shell")?,
            }
        }
    }

    fn session(&mut self) -> Result<&mut UnixStream> {
        if self.session.is_none() {
            let stream = UnixStream::connect(&self.socket)
                .with_context(|| format!("could not connect to {}", self.socket.display()))?;
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            self.session = Some(stream);
        }
        self.session.as_mut().context("just connected")
    }

    /// Everything that arrives until `done` holds, as readable lines.
    fn read_until(&mut self, deadline: Instant, done: impl Fn(&str) -> bool) -> Result<String> {
        let mut raw = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.session()?.read(&mut buffer) {
                Ok(0) => bail!("QEMU closed the second serial port"),
                Ok(read) => raw.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
                Err(error) => return Err(error).context("could not read from the test shell"),
            }
            let text = text(&raw);
            if done(&text) {
                return Ok(text);
            }
            if Instant::now() >= deadline {
                bail!("only this arrived: {:?}", readable(&raw));
            }
        }
    }
}

fn text(raw: &[u8]) -> String {
    let mut text: String = raw
        .split(|byte| *byte == b'\n')
        .map(readable)
        .collect::<Vec<_>>()
        .join("\n");
    text.retain(|c| c != '\r');
    text
}

/// The kit's disk and the OEM strings that bring it to life. What lies in the
/// lab's `kit` directory comes along.
pub(crate) fn kit(lab: &Lab) -> Result<(Disk, Vec<String>)> {
    let path = lab.scratch().join("kit.squashfs");
    if !path.exists() {
        let tree = lab.scratch().join("kit");
        fs::create_dir_all(tree.join("bin"))?;
        let busybox = lab.tools().path("/usr/bin/busybox");
        let copy = tree.join("bin/busybox");
        fs::copy(&busybox, &copy)
            .with_context(|| format!("could not copy {}", busybox.display()))?;
        let applets = String::from_utf8(run(Command::new(&copy).arg("--list"))?)?;
        for applet in applets.lines().filter(|name| *name != "busybox") {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
        let mut squash = lab.tools().command("mksquashfs");
        squash.arg(&tree).arg(&path);
        run(squash.args(["-quiet", "-no-progress", "-all-root", "-noappend"]))?;
    }
    let disk = Disk {
        path,
        bus: DiskBus::Virtio,
        serial: "surplus-test".to_owned(),
        keep: false,
    };
    Ok((
        disk,
        units()
            .iter()
            .map(|(name, text)| credential(name, text))
            .collect(),
    ))
}

fn units() -> [(&'static str, String); 3] {
    let mount = format!(
        "[Unit]\nDefaultDependencies=no\nRequires=systemd-udevd.service\n\
         After=systemd-udevd.service systemd-udev-trigger.service\n\
         [Mount]\nWhat=/dev/disk/by-id/virtio-surplus-test\nWhere={MOUNTED}\nType=squashfs\nOptions=ro\n"
    );
    let shell = format!(
        "[Unit]\nDefaultDependencies=no\nRequires=run-testkit.mount\n\
         After=run-testkit.mount\n\
         [Service]\nExecStart={MOUNTED}/bin/busybox sh\nEnvironment=PATH={MOUNTED}/bin:/usr/bin:/usr/sbin\n\
         StandardInput=tty-force\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS1\n\
         TTYReset=yes\nRestart=always\nRestartSec=1\n"
    );
    // By a name that is not like ours, for what confines those would confine it.
    [
        ("systemd.extra-unit.run-testkit.mount", mount),
        ("systemd.extra-unit.testkit-shell.service", shell),
        (
            "systemd.unit-dropin.surplus-agent.service",
            "[Unit]\nWants=testkit-shell.service\n".to_owned(),
        ),
    ]
}

fn credential(name: &str, text: &str) -> String {
    format!(
        "io.systemd.credential.binary:{name}={}",
        BASE64_STANDARD.encode(text)
    )
}
