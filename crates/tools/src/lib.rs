//! The tools tree: a small Debian 13 under `target/tools/` that holds QEMU,
//! its firmware, mkosi, xorriso and whatever else builds and tests the image,
//! so that all of it has one known version on every machine.
//!
//! Owns `target/tools/` and nothing else. What always holds: a tree that
//! [`Tools::ensure`] returns was made completely, from the package list as it
//! stands in the repository; the machine's own packages change only by `apt`,
//! after a line that says which and why.

mod error;
mod host;
mod mirror;
mod tree;

use std::path::{Path, PathBuf};
use std::process::Command;

pub use error::ToolsError;
pub use mirror::Mirror;

/// Programs of the tools tree, ready to run.
#[derive(Debug, Clone)]
pub struct Tools {
    tree: PathBuf,
    workspace: PathBuf,
    mirror: Mirror,
    root: bool,
}

impl Tools {
    /// Installs what the machine lacks and makes the tools tree if the package
    /// list changed since it was last made; says each step through `progress`.
    ///
    /// The first call takes about a minute and needs a Debian mirror; later
    /// ones a few milliseconds and no network.
    ///
    /// # Errors
    ///
    /// See [`ToolsError`]; each error says what to do next.
    pub fn ensure(workspace_root: &Path, progress: &dyn Fn(&str)) -> Result<Self, ToolsError> {
        let workspace = workspace_root
            .canonicalize()
            .map_err(|source| ToolsError::io("find", workspace_root, source))?;
        let root = host::is_root()?;
        let mirror = Mirror::of_this_machine();
        host::install_missing(&host::BUILD, root, progress)?;
        let tree = tree::ensure(&workspace, &mirror, root, progress)?;
        if !root {
            host::allow_sandbox(progress)?;
        }
        Ok(Self {
            tree,
            workspace,
            mirror,
            root,
        })
    }

    /// Installs what the machine lacks of the programs that tests compare ours
    /// with, each said through `progress`.
    ///
    /// # Errors
    ///
    /// See [`ToolsError`]; each error says what to do next.
    pub fn install_for_tests(progress: &dyn Fn(&str)) -> Result<(), ToolsError> {
        host::install_missing(&host::TESTS, host::is_root()?, progress)
    }

    /// The Debian mirror that trees and images are made from.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Where a file of the tree stands on this machine, for reading it from
    /// outside: `path("usr/share/OVMF/OVMF_CODE_4M.fd")`.
    ///
    /// Programs that run in the tree see it without this prefix.
    #[must_use]
    pub fn path(&self, in_tree: &str) -> PathBuf {
        self.tree.join(in_tree.trim_start_matches('/'))
    }

    /// A program of the tree. It sees the tree as its root, and `/dev`,
    /// `/proc`, `/sys`, `/tmp`, `/var/tmp`, the workspace and the network as
    /// they are on this machine, at the same paths.
    ///
    /// The program is killed with the **thread** that spawned it, and with the
    /// child process that this command becomes, whichever signal ended them.
    /// Give it arguments, environment and streams as usual; the working
    /// directory must lie in the workspace or in `/tmp`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("bwrap");
        command.arg("--die-with-parent");
        self.sandbox(&mut command, program);
        command
    }

    /// Like [`Tools::command`], but the program outlives whoever started it
    /// and has to be ended by its own process id (QEMU: `-pidfile`).
    #[must_use]
    pub fn lasting_command(&self, program: &str) -> Command {
        let mut command = Command::new("bwrap");
        self.sandbox(&mut command, program);
        command
    }

    /// Like [`Tools::command`], with the rights of root (by sudo where this
    /// process is not root): mkosi needs them to own files as others.
    #[must_use]
    pub fn root_command(&self, program: &str) -> Command {
        let mut command = host::as_root("bwrap", self.root);
        command.args(["--die-with-parent", "--cap-add", "ALL"]);
        self.sandbox(&mut command, program);
        command
    }

    fn sandbox(&self, command: &mut Command, program: &str) {
        for (option, from, to) in [
            ("--ro-bind", self.path("usr"), "/usr"),
            ("--ro-bind", self.path("etc"), "/etc"),
            ("--ro-bind", self.path("var"), "/var"),
            (
                "--ro-bind-try",
                "/etc/resolv.conf".into(),
                "/etc/resolv.conf",
            ),
            ("--ro-bind-try", "/etc/hosts".into(), "/etc/hosts"),
            ("--dev-bind", "/dev".into(), "/dev"),
            ("--bind", "/proc".into(), "/proc"),
            ("--bind", "/sys".into(), "/sys"),
            ("--bind", "/tmp".into(), "/tmp"),
            ("--bind", "/var/tmp".into(), "/var/tmp"),
        ] {
            command.arg(option).arg(from).arg(to);
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            command.args(["--symlink", &format!("usr/{name}"), &format!("/{name}")]);
        }
        command.args(["--tmpfs", "/run", "--dir", "/root"]);
        command
            .arg("--bind")
            .arg(&self.workspace)
            .arg(&self.workspace);
        command.args(["--setenv", "PATH", "/usr/sbin:/usr/bin"]);
        command.args(["--setenv", "HOME", "/root", "--setenv", "LC_ALL", "C.UTF-8"]);
        command.arg("--").arg(program);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        Tools {
            tree: "/w/target/tools/abc".into(),
            workspace: "/w".into(),
            mirror: Mirror::standard(),
            root: true,
        }
    }

    #[test]
    fn a_program_ends_with_the_thread_that_started_it_unless_it_is_to_last() {
        let has = |command: &Command| command.get_args().any(|arg| arg == "--die-with-parent");
        assert!(has(&tools().command("qemu-system-x86_64")));
        assert!(has(&tools().root_command("mkosi")));
        assert!(!has(&tools().lasting_command("qemu-system-x86_64")));
    }

    #[test]
    fn arguments_given_later_reach_the_program_and_not_the_sandbox() {
        let command = tools().command("mkosi");
        let args: Vec<_> = command.get_args().collect();
        assert_eq!(args[args.len() - 2..], ["--", "mkosi"]);
    }

    #[test]
    fn paths_in_the_tree_are_found_with_and_without_a_leading_slash() {
        let expected = Path::new("/w/target/tools/abc/usr/share/OVMF");
        assert_eq!(tools().path("/usr/share/OVMF"), expected);
        assert_eq!(tools().path("usr/share/OVMF"), expected);
    }
}
