//! Other people's programs, run in a directory of their own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use surplus_pki::Certificate;
use tokio::process::Command;

/// No program takes this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a client has to know of a marketplace.
pub(crate) struct Target {
    pub(crate) ca: Certificate,
    pub(crate) port: u16,
    pub(crate) token: String,
}

impl Target {
    /// The URL of one of EST's operations.
    pub(crate) fn url(&self, operation: &str) -> String {
        format!("{}/.well-known/est/{operation}", self.base())
    }

    pub(crate) fn base(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A directory with its CA in `ca.pem`.
    pub(crate) fn workshop(&self) -> Workshop {
        let workshop = Workshop(tempfile::tempdir().unwrap());
        workshop.write("ca.pem", self.ca.to_pem());
        workshop
    }
}

pub(crate) struct Workshop(tempfile::TempDir);

/// What a program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Workshop {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `line`, split at spaces, where `%` stands for a space within a word.
    pub(crate) async fn run(&self, line: &str) -> Said {
        let mut words = line.split_whitespace().map(|word| word.replace('%', " "));
        let program = words.next().unwrap();
        let run = Command::new(&program)
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, run)
            .await
            .expect(line)
            .unwrap_or_else(|error| {
                let packages = "curl openssl strongswan-pki libstrongswan-standard-plugins";
                panic!("cannot run {program}: {error}; next: apt-get install {packages}")
            });
        Said {
            success: output.status.success(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `line` as [`run`](Self::run) does; it has to succeed.
    pub(crate) async fn must(&self, line: &str) -> Vec<u8> {
        let said = self.run(line).await;
        assert!(said.success, "{line}: {}", said.stderr);
        said.stdout
    }
}
