//! Child processes that never outlive us.
//!
//! Each child leads its own process group; the group is killed when its
//! [`Supervised`] is dropped, when the program is interrupted (see
//! [`kill_all`]), and by the kernel when we are killed (`setpriv --pdeathsig`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Process groups that are alive, for [`kill_all`].
static GROUPS: LazyLock<Mutex<BTreeSet<i32>>> = LazyLock::new(Mutex::default);

/// A running child and everything that it started in its process group.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    group: Pid,
}

impl Supervised {
    /// Starts `command`; its arguments, environment and directory are kept,
    /// its streams are taken from `streams`.
    pub fn spawn(command: &Command, streams: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut wrapped = Command::new("setpriv");
        wrapped
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program());
        wrapped.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped.process_group(0);
        streams(&mut wrapped);
        let program = command.get_program().display();
        let child = wrapped
            .spawn()
            .with_context(|| format!("could not start {program}"))?;
        let group = Pid::from_raw(i32::try_from(child.id())?);
        groups().insert(group.as_raw());
        Ok(Self { child, group })
    }

    /// The exit status, once the child has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .context("could not ask after a child process")
    }

    /// CPU seconds, user and system, that the group's living processes used.
    pub fn cpu_seconds(&self) -> f64 {
        let Ok(Some(ticks)) = sysconf(SysconfVar::CLK_TCK) else {
            return 0.0;
        };
        let used: u64 = members(self.group).into_iter().map(|stat| stat.ticks).sum();
        #[expect(clippy::cast_precision_loss, reason = "a test's CPU time is small")]
        let seconds = used as f64 / ticks as f64;
        seconds
    }

    /// The process of this group with the largest share of CPU time: behind a
    /// wrapper, the program itself.
    pub fn busiest(&self) -> Option<u32> {
        members(self.group)
            .into_iter()
            .max_by_key(|stat| stat.ticks)
            .map(|stat| stat.pid)
    }

    /// Asks the child to end, as a service manager would (SIGTERM).
    pub fn terminate(&self) {
        let _ = killpg(self.group, Signal::SIGTERM);
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
        groups().remove(&self.group.as_raw());
    }
}

/// Kills every group that is alive: for the handler of Ctrl-C.
pub fn kill_all() {
    for group in groups().iter() {
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}

fn groups() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Stat {
    pid: u32,
    ticks: u64,
}

/// Every process whose group is `group`, from `/proc/*/stat` (proc(5)).
fn members(group: Pid) -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in brackets, may hold spaces: fields count after it.
            let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
            let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
            (field(5)? == u64::try_from(group.as_raw()).ok()?).then_some(Stat {
                pid,
                ticks: field(14)? + field(15)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _};

    use super::*;

    #[test]
    fn a_dropped_child_is_gone_with_what_it_started() {
        let (mut heard, told) = io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo; sleep 1000"]);
        let child = Supervised::spawn(&command, |command| {
            command.stdout(told);
        })
        .unwrap();
        // It has started the other.
        heard.read_exact(&mut [0]).unwrap();
        drop(child);
        // Both hold the pipe: it ends when the last of them has.
        heard.read_to_end(&mut Vec::new()).unwrap();
    }
}
