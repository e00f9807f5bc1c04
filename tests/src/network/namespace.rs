//! A network namespace that lives as long as one process of ours.
//!
//! What always holds: nothing of it is named anywhere on this computer, so
//! that nothing can be left over: a killed test takes its holder along, and
//! the kernel takes the namespace, its bridges and its taps. Root gets a bare
//! network namespace; anybody else a user namespace around it, by bubblewrap
//! (see `surplus_tools` for where that has to be allowed).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::lab::Lab;
use crate::process::Supervised;

/// What a holder is given to start.
const START: Duration = Duration::from_secs(20);

/// A network namespace, and the process that holds it.
#[derive(Debug)]
pub(super) struct Namespace {
    pid: u32,
    in_user_namespace: bool,
    /// Dropped, it ends; what still runs inside keeps the namespace alive.
    _holder: Supervised,
}

impl Namespace {
    /// One of its own.
    pub(super) fn new(lab: &Lab, name: &str) -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let mut command = if root {
            unshare()
        } else {
            let mut command = Command::new("bwrap");
            command
                .args(["--die-with-parent", "--dev-bind", "/", "/"])
                .args(["--unshare-user", "--uid", "0", "--gid", "0"])
                .args(["--unshare-net"]);
            command
        };
        Self::hold(lab, name, &mut command, !root)
    }

    /// Another one under the same owner, so that a cable can join them.
    pub(super) fn beside(&self, lab: &Lab, name: &str) -> Result<Self> {
        let mut command = self.enter(&unshare());
        Self::hold(lab, name, &mut command, self.in_user_namespace)
    }

    fn hold(lab: &Lab, name: &str, command: &mut Command, in_user_namespace: bool) -> Result<Self> {
        let note = lab.scratch().join(format!("{name}.holder"));
        let script = "echo $$ >\"$0.new\" && mv \"$0.new\" \"$0\" && exec sleep infinity";
        command.args(["sh", "-c", script]).arg(&note);
        let mut holder = Supervised::spawn(command, |command| {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        })?;
        let deadline = Instant::now() + crate::patience(START);
        while !note.exists() {
            if let Some(status) = holder.ended()? {
                bail!(
                    "could not make a network namespace ({status}): run as root, or allow \
                     unprivileged user namespaces for bubblewrap"
                );
            }
            if Instant::now() >= deadline {
                bail!("the network namespace {name} was not there in time");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let pid = fs::read_to_string(&note)?.trim().parse();
        fs::remove_file(&note)?;
        Ok(Self {
            pid: pid.context("the holder wrote no process id")?,
            in_user_namespace,
            _holder: holder,
        })
    }

    /// The same command inside; arguments and environment may still be added.
    /// It ends with the thread that starts it.
    pub(super) fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.pid.to_string(), "--net"]);
        if self.in_user_namespace {
            inside.args(["--user", "--preserve-credentials"]);
        }
        // Again, for entering a user namespace takes it off.
        inside.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            inside.current_dir(directory);
        }
        inside
    }

    /// The process to name where a namespace is asked for.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// One of the kernel's tables, `/proc/net/<name>`, as seen inside.
    pub(super) fn table(&self, name: &str) -> Result<String> {
        let path = Path::new("/proc")
            .join(self.pid.to_string())
            .join("net")
            .join(name);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    command
}
