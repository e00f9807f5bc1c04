//! The programs that look at disks and change them.
//!
//! What always holds: a program that fails is an error, and so is an answer that
//! is not understood: neither is ever taken for "there is nothing".

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(super) wipefs: PathBuf,
    pub(super) sfdisk: PathBuf,
    pub(super) dmsetup: PathBuf,
    pub(super) mke2fs: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        let program = |name: &str| Path::new("/usr/sbin").join(name);
        Self {
            wipefs: program("wipefs"),
            sfdisk: program("sfdisk"),
            dmsetup: program("dmsetup"),
            mke2fs: program("mke2fs"),
        }
    }
}

/// Why a program did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("{program} could not be run: {source}")]
    Run { program: String, source: io::Error },
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
    #[error("{program} gave an answer that is not understood: {source}")]
    Answer {
        program: String,
        source: serde_json::Error,
    },
}

/// Something that libblkid knows, and where its mark is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(super) offset: u64,
    /// libblkid's word for it: `ext4`, `LVM2_member`, `gpt`.
    pub(super) kind: String,
    /// `filesystem`, `raid`, `crypto`, `partition-table`, `other`.
    pub(super) usage: String,
}

/// A partition table, as far as it is of use here.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) label: String,
    #[serde(default, rename = "sectorsize")]
    pub(super) sector_bytes: Option<u64>,
    #[serde(default)]
    pub(super) partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) start: u64,
    pub(super) size: u64,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
}

impl Tools {
    /// Every signature on the device, wherever libblkid looks for one.
    pub(super) fn signatures(&self, device: &Path) -> Result<Vec<Signature>, ToolError> {
        #[derive(Deserialize)]
        struct Answer {
            signatures: Vec<Line>,
        }
        #[derive(Deserialize)]
        struct Line {
            offset: String,
            #[serde(rename = "type")]
            kind: String,
            usage: Option<String>,
        }
        let mut command = Command::new(&self.wipefs);
        command.args(["--no-act", "--json", "--output", "OFFSET,TYPE,USAGE"]);
        let output = run(command.arg(device), None)?;
        // It says nothing at all, or an empty list, where there is none.
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        let answer: Answer = self.understand(&self.wipefs, &output)?;
        let lines = answer.signatures.into_iter();
        Ok(lines
            .map(|line| Signature {
                offset: line
                    .offset
                    .strip_prefix("0x")
                    .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                    .unwrap_or_default(),
                kind: line.kind,
                usage: line.usage.unwrap_or_default(),
            })
            .collect())
    }

    /// The device's partition table.
    pub(super) fn table(&self, device: &Path) -> Result<Table, ToolError> {
        #[derive(Deserialize)]
        struct Answer {
            partitiontable: Table,
        }
        let output = run(Command::new(&self.sfdisk).arg("--json").arg(device), None)?;
        let answer: Answer = self.understand(&self.sfdisk, &output)?;
        Ok(answer.partitiontable)
    }

    /// Writes a table with one partition over the whole device.
    pub(super) fn partition(&self, device: &Path, kind: &str, name: &str) -> Result<(), ToolError> {
        let mut command = Command::new(&self.sfdisk);
        // The kernel need not know of the partition: the volume is made over the
        // disk itself. Nothing is wiped, for nothing is there.
        command.args(["--quiet", "--no-reread", "--no-tell-kernel", "--lock=no"]);
        command.args(["--wipe", "never", "--wipe-partitions", "never"]);
        let script = format!("label: gpt\ntype={kind}, name=\"{name}\"\n");
        run(command.arg(device), Some(&script)).map(drop)
    }

    /// Makes the device-mapper device `name`.
    pub(super) fn map(&self, name: &str, table: &str) -> Result<(), ToolError> {
        let mut command = Command::new(&self.dmsetup);
        // udev has no rules for it here and would never answer.
        command.args(["create", name, "--noudevrules", "--noudevsync"]);
        run(&mut command, Some(table)).map(drop)
    }

    /// Removes the device-mapper device `name`; one that is in use stays.
    pub(super) fn unmap(&self, name: &str) -> Result<(), ToolError> {
        let mut command = Command::new(&self.dmsetup);
        command.args(["remove", "--noudevrules", "--noudevsync", name]);
        run(&mut command, None).map(drop)
    }

    /// Makes an ext4 that can encrypt, with nothing in it.
    pub(super) fn make_ext4(&self, device: &Path, label: &str) -> Result<(), ToolError> {
        let mut command = Command::new(&self.mke2fs);
        // Without a journal: it does not outlive a boot. Few inodes: a guest has
        // ten files. What is not needed at once is written while it is idle.
        command.args(["-F", "-q", "-t", "ext4", "-m", "0", "-i", "1048576"]);
        command.args(["-O", "encrypt,^has_journal,^resize_inode", "-L", label]);
        command.args(["-E", "lazy_itable_init=1,nodiscard"]);
        run(command.arg(device), None).map(drop)
    }

    fn understand<'a, T: Deserialize<'a>>(
        &self,
        program: &Path,
        output: &'a Output,
    ) -> Result<T, ToolError> {
        serde_json::from_slice(&output.stdout).map_err(|source| ToolError::Answer {
            program: name_of(program),
            source,
        })
    }
}

fn name_of(program: &Path) -> String {
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn run(command: &mut Command, input: Option<&str>) -> Result<Output, ToolError> {
    let program = name_of(Path::new(command.get_program()));
    let failed = |source| ToolError::Run {
        program: program.clone(),
        source,
    };
    command.env_clear().env("LC_ALL", "C");
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that does not read its input says why by its status.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(ToolError::Failed {
        program,
        message: if message.is_empty() {
            output.status.to_string()
        } else {
            message.chars().take(300).collect()
        },
    })
}
