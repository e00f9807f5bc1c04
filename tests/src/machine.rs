//! A machine in QEMU: started by a [`Builder`], watched by its serial console,
//! steered by QMP.
//!
//! Waiting always has a deadline, and ends at once when it cannot succeed any
//! more: QEMU has ended, the kernel has panicked, or a stage has failed for
//! good that the test did not [allow](Machine::allow) to fail. Every such error carries
//! the console's last lines and where the whole log lies. A machine is gone
//! when its value is dropped.

mod arguments;
mod builder;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

pub use self::builder::{Builder, Disk, DiskBus, Firmware, Kernel, Medium, Nic, Plug};
use crate::process::Supervised;
use crate::qmp::Qmp;
use crate::serial::SerialLog;
use crate::shell::Shell;
use crate::stage_line::StageLine;

/// How often a growing log is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// How often QEMU's CPU time is read: it costs a walk through `/proc`.
const COUNT: Duration = Duration::from_secs(2);

/// Lines of console that an error message carries.
const TAIL: usize = 30;

/// A running (or ended) QEMU.
#[derive(Debug)]
pub struct Machine {
    name: String,
    process: Supervised,
    qmp: Qmp,
    serial: SerialLog,
    /// Lines before this index were consumed by [`Machine::mark`].
    from: usize,
    allowed: Vec<String>,
    directory: PathBuf,
    shell: Option<Shell>,
    /// CPU seconds when the process was last seen alive.
    cpu_seconds: f64,
    cpu_counted: Instant,
    started: Instant,
}

impl Machine {
    /// Lets stage lines with an error pass when they contain `text`.
    pub fn allow(&mut self, text: &str) -> &mut Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// Lets every stage fail: for tests of what a failing host does.
    pub fn allow_errors(&mut self) -> &mut Self {
        self.allow("surplus: stage=")
    }

    /// From now on only lines that arrive later count.
    pub fn mark(&mut self) {
        self.serial.poll();
        self.from = self.serial.lines().len();
    }

    /// The first console line since the last [`mark`](Self::mark) that
    /// contains `text`.
    pub fn wait_for(&mut self, text: &str, within: Duration) -> Result<String> {
        self.wait_until(&format!("a line with {text:?}"), within, |line| {
            line.contains(text).then(|| line.to_owned())
        })
    }

    /// The first line of the stage `name`, without an error in it.
    pub fn wait_for_stage(&mut self, name: &str, within: Duration) -> Result<StageLine> {
        self.wait_until(&format!("stage={name}"), within, |line| {
            StageLine::parse(line).filter(|stage| stage.name == name && stage.error().is_none())
        })
    }

    /// The first stage line that reports an error containing `text`; it is
    /// allowed from now on.
    pub fn wait_for_error(&mut self, text: &str, within: Duration) -> Result<StageLine> {
        self.allow(text);
        self.wait_until(&format!("an error with {text:?}"), within, |line| {
            StageLine::parse(line).filter(|stage| stage.error().is_some() && line.contains(text))
        })
    }

    /// The first thing that `find` makes of a line.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + crate::patience(within);
        let mut seen = self.from;
        loop {
            let ended = self.process.ended()?;
            self.serial.poll();
            for line in &self.serial.lines()[seen..] {
                if let Some(found) = find(line) {
                    return Ok(found);
                }
                if let Some(reason) = self.fatal(line) {
                    bail!(self.story(&format!("{reason} while waiting for {what}")));
                }
            }
            seen = self.serial.lines().len();
            if let Some(status) = ended {
                bail!(self.story(&format!("QEMU ended ({status}) while waiting for {what}")));
            }
            if Instant::now() >= deadline {
                bail!(self.story(&format!("no {what} within {} s", within.as_secs())));
            }
            self.count();
            std::thread::park_timeout(GLANCE);
        }
    }

    /// Reads QEMU's CPU time now and then, for there is none after its end.
    fn count(&mut self) {
        if self.cpu_counted.elapsed() >= COUNT {
            self.cpu_seconds = self.process.cpu_seconds();
            self.cpu_counted = Instant::now();
        }
    }

    /// Waits for the machine to switch itself off.
    pub fn wait_for_power_off(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + crate::patience(within);
        while self.process.ended()?.is_none() {
            if Instant::now() >= deadline {
                bail!(self.story(&format!("still running after {} s", within.as_secs())));
            }
            self.count();
            std::thread::park_timeout(GLANCE);
        }
        self.serial.poll();
        Ok(())
    }

    /// Why this line means that waiting is in vain. A host that says that it
    /// goes on trying may still get there.
    fn fatal(&self, line: &str) -> Option<String> {
        if line.contains("Kernel panic - not syncing") && !self.is_allowed(line) {
            return Some("the kernel panicked".to_owned());
        }
        let stage = StageLine::parse(line)?;
        let error = stage.error()?;
        if stage
            .field("next")
            .is_some_and(|next| next.contains("the host goes on"))
        {
            return None;
        }
        (!self.is_allowed(line)).then(|| format!("stage {} failed ({error})", stage.name))
    }

    fn is_allowed(&self, line: &str) -> bool {
        self.allowed.iter().any(|text| line.contains(text.as_str()))
    }

    /// What happened, with the console's last lines.
    fn story(&self, what: &str) -> String {
        let qemu = fs::read_to_string(self.directory.join("qemu.log")).unwrap_or_default();
        let qemu = if qemu.trim().is_empty() {
            String::new()
        } else {
            format!("\nQEMU: {qemu}")
        };
        format!(
            "machine {}: {what} (after {:.0} s, {:.0} CPU s){qemu}\n--- last lines of {}\n{}\n---",
            self.name,
            self.started.elapsed().as_secs_f64(),
            self.cpu_seconds,
            self.serial.path().display(),
            self.serial.tail(TAIL),
        )
    }

    /// Every console line so far.
    pub fn lines(&mut self) -> &[String] {
        self.serial.poll();
        self.serial.lines()
    }

    /// Every stage line so far.
    pub fn stages(&mut self) -> Vec<StageLine> {
        self.lines()
            .iter()
            .filter_map(|line| StageLine::parse(line))
            .collect()
    }

    /// CPU seconds that QEMU has used; after its end, as last seen.
    pub fn cpu_seconds(&mut self) -> f64 {
        self.cpu_seconds = self.cpu_seconds.max(self.process.cpu_seconds());
        self.cpu_seconds
    }

    pub fn running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Where this machine's logs lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The test shell on the second serial port (see [`Builder::shell`]).
    pub fn shell(&mut self) -> Result<&mut Shell> {
        self.shell
            .as_mut()
            .context("this machine was built without a test shell")
    }

    /// Presses the power button.
    pub fn press_power(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(drop)
    }

    /// Pulls or plugs the (first) network cable.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        set_link(&mut self.qmp, 0, up)
    }

    /// The same for the NIC with this number.
    pub fn set_link_of(&mut self, nic: usize, up: bool) -> Result<()> {
        set_link(&mut self.qmp, nic, up)
    }

    /// Any QMP command.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.execute(command, arguments)
    }

    /// Pulls the plug: QEMU is gone soon, its logs stay.
    pub fn pull_the_plug(&mut self) {
        let _ = self.qmp.execute("quit", json!({}));
    }

    /// Pulls the plug.
    pub fn kill(mut self) {
        self.pull_the_plug();
    }
}

/// Pulls or plugs the cable of the NIC with this number.
fn set_link(qmp: &mut Qmp, nic: usize, up: bool) -> Result<()> {
    let name = format!("net{nic}");
    qmp.execute("set_link", json!({ "name": name, "up": up }))
        .map(drop)
}
