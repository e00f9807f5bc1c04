//! The real `surplus` command line, with one person's key.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::lab::Lab;
use crate::network::Station;

/// An operator or buyer at the command line.
pub struct Client<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) url: String,
    pub(crate) ca: PathBuf,
    pub(crate) key: String,
    /// Where the person sits; on this computer if nowhere else.
    pub(crate) station: Option<&'a Station<'a>>,
}

/// The key stays out of messages.
impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Client<'_> {
    /// `surplus`, told whom to speak to and as whom.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.lab.program("surplus")?;
        if let Some(station) = self.station {
            command = station.enter(&command);
        }
        command
            .env("SURPLUS_URL", &self.url)
            .env("SURPLUS_TOKEN", &self.key)
            .env("SURPLUS_CA", &self.ca)
            .env("HOME", self.lab.scratch());
        Ok(command)
    }

    /// Runs `surplus …` and returns its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command()?
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "`surplus {}` failed ({}): {stdout}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(stdout)
    }

    /// Runs `surplus --json …` and reads its answer.
    pub fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.run(&[&["--json"], arguments].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("`surplus --json {}` said: {text}", arguments.join(" ")))
    }

    /// Asks until `find` is content with the answer.
    pub fn wait_until<T: DeserializeOwned, U>(
        &self,
        arguments: &[&str],
        what: &str,
        within: Duration,
        mut find: impl FnMut(T) -> Option<U>,
    ) -> Result<U> {
        let deadline = Instant::now() + crate::patience(within);
        loop {
            if let Some(found) = find(self.ask(arguments)?) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let last = self.run(arguments)?;
                bail!(
                    "no {what} within {} s; `surplus {}` says:\n{last}",
                    within.as_secs(),
                    arguments.join(" ")
                );
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    }

    /// The guest's console so far, as the buyer sees it.
    pub fn console(&self, lease: &str) -> Result<String> {
        #[derive(serde::Deserialize)]
        struct Console {
            text: String,
        }
        let console: Console = self.ask(&["console", lease, "--no-follow"])?;
        Ok(console.text)
    }

    /// Waits until the guest's console makes `found` true.
    pub fn wait_for_console(
        &self,
        lease: &str,
        what: &str,
        within: Duration,
        mut found: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + crate::patience(within);
        loop {
            let text = self.console(lease)?;
            if found(&text) {
                return Ok(text);
            }
            if Instant::now() >= deadline {
                bail!(
                    "no {what} within {} s on the guest's console:\n{text}",
                    within.as_secs()
                );
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    }
}
