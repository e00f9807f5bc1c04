//! Why the tools could not be made ready.

use std::path::{Path, PathBuf};

/// Why [`crate::Tools::ensure`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// A file or directory could not be used.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program of this machine could not be started.
    #[error("could not start {program}: is it installed and on PATH?")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// This machine's distribution has no apt.
    #[error(
        "this machine lacks {missing} and has no apt-get to install them: use Debian 12 or 13 or \
         Ubuntu 24.04, or install them by hand"
    )]
    NoApt {
        /// Packages, separated by spaces.
        missing: String,
    },
    /// apt-get could not install what is missing.
    #[error(
        "apt-get could not install {packages} (its own words stand above): check the network and \
         the package sources, then run `apt-get update && apt-get install {packages}` by hand"
    )]
    Apt {
        /// Packages, separated by spaces.
        packages: String,
    },
    /// mmdebstrap could not make the tree.
    #[error(
        "mmdebstrap could not make the tools tree from {mirror} (log: {}): check that the mirror \
         can be reached, or name another in SURPLUS_MIRROR; the log ends with:\n{tail}",
        log.display()
    )]
    Tree {
        /// The mirror that was asked.
        mirror: String,
        /// The complete log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// bubblewrap may not make namespaces here.
    #[error(
        "bubblewrap may not make namespaces on this machine: allow unprivileged user namespaces \
         for /usr/bin/bwrap, or run as root"
    )]
    Sandbox,
}

impl ToolsError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
