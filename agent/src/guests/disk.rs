//! The guest's disk: a qcow2 overlay on the cached image, of exactly the size
//! that was sold.
//!
//! Formats are always given, never probed: a raw image whose first bytes look
//! like qcow2 stays raw. Images are judged by their own bytes
//! ([`surplus_disk_image`]) before `qemu-img` sees them, and `qemu-img` sees
//! them confined ([`super::confinement`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use surplus_disk_image::{Content, Fault, Unfit};
use surplus_protocol::lease::ImageFormat;

use super::confinement::{Confinement, Direct, End, Job, Limits};
use super::domain_xml::{DiskFile, DiskFormat};

/// Memory that `qemu-img` may use, in bytes.
const MEMORY: u64 = 512 << 20;
/// What a converted image may take beyond what was measured, in bytes.
pub const SLACK: u64 = 16 << 20;
/// How slow a host may convert, in bytes a second.
const SLOWEST: u64 = 4 << 20;

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("`qemu-img {what}` refused the image: {message}")]
    Refused { what: &'static str, message: String },
    #[error("`qemu-img {what}` needed more {limit} for the image than it may have")]
    Overran {
        what: &'static str,
        limit: &'static str,
    },
    #[error("`qemu-img {what}` took longer than {seconds} s")]
    TooSlow { what: &'static str, seconds: u64 },
    #[error("`qemu-img {what}` failed: {message}")]
    Failed { what: &'static str, message: String },
    #[error("`qemu-img {what}` could not be run")]
    Run {
        what: &'static str,
        source: io::Error,
    },
    #[error("reading the image {path} failed")]
    Read {
        path: Utf8PathBuf,
        source: io::Error,
    },
}

impl DiskError {
    /// The image itself is at fault: trying again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Unfit(_) | Self::Refused { .. } | Self::Overran { .. }
        )
    }
}

/// What a guest's disk lies upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub path: Utf8PathBuf,
    pub format: DiskFormat,
}

/// The program that judges images, converts them and makes overlays.
#[derive(Clone, Debug)]
pub struct QemuImg {
    program: Utf8PathBuf,
    /// Where it meets strangers' bytes.
    confinement: Arc<dyn Confinement>,
}

impl Default for QemuImg {
    fn default() -> Self {
        Self::confined_by(Arc::new(Direct::default()))
    }
}

impl QemuImg {
    pub fn confined_by(confinement: Arc<dyn Confinement>) -> Self {
        Self {
            program: "/usr/bin/qemu-img".into(),
            confinement,
        }
    }

    /// Another program in its place, without limits: for tests.
    pub fn stand_in(program: &str) -> Self {
        Self {
            program: program.into(),
            confinement: Arc::new(Direct::without_limits()),
        }
    }

    /// Refuses an image that does not stand alone, is not whole, or does not fit
    /// the disk.
    pub async fn check(
        &self,
        image: &Utf8Path,
        format: ImageFormat,
        disk_bytes: u64,
    ) -> Result<Content, DiskError> {
        let content = judge(image, format, disk_bytes).await?;
        if format == ImageFormat::Qcow2 {
            self.second_opinion(image).await?;
        }
        Ok(content)
    }

    async fn second_opinion(&self, image: &Utf8Path) -> Result<(), DiskError> {
        let source = json!({ "driver": "qcow2", "backing": null, "file": file(image) });
        let arguments = ["info", "--output=json", &source_name(&source)].map(str::to_owned);
        let job = self.job(arguments, image, limits(0));
        let info = answer(self.run("info", job).await?)?;
        if info.get("backing-filename").is_some() || info.get("full-backing-filename").is_some() {
            return Err(Unfit::BackingFile.into());
        }
        if info.pointer("/format-specific/data/data-file").is_some() {
            return Err(Unfit::OtherFile(String::new()).into());
        }
        Ok(())
    }

    /// Bytes that a foreign image takes as qcow2, at most.
    pub async fn measure(&self, foreign: &Foreign<'_>) -> Result<u64, DiskError> {
        let source = source_name(&foreign.source());
        let arguments = ["measure", "--output=json", "-O", "qcow2", &source].map(str::to_owned);
        let job = self.job(arguments, foreign.image, limits(0));
        let answer = answer(self.run("measure", job).await?)?;
        let required = answer.get("required").and_then(Value::as_u64);
        required.ok_or(DiskError::Refused {
            what: "measure",
            message: "it gives no size".to_owned(),
        })
    }

    /// Writes a foreign image as qcow2 over `target`, which exists and grows to
    /// `bytes` and [`SLACK`] at most.
    pub async fn convert(
        &self,
        foreign: &Foreign<'_>,
        target: &Utf8Path,
        bytes: u64,
    ) -> Result<(), DiskError> {
        let source = source_name(&foreign.source());
        let arguments = ["convert", "-q", "-O", "qcow2", &source, target.as_str()];
        let arguments = arguments.map(str::to_owned);
        let mut job = self.job(arguments, foreign.image, limits(bytes));
        job.writes = Some(target.to_owned());
        self.run("convert", job).await?;
        // It comes from a program that a stranger's bytes may have taken over.
        judge(target, ImageFormat::Qcow2, foreign.disk_bytes).await?;
        Ok(())
    }

    /// Makes the guest's disk at `disk`, which must not exist, over `base`,
    /// without looking into it.
    pub async fn overlay(
        &self,
        base: &Base,
        disk: &Utf8Path,
        disk_bytes: u64,
    ) -> Result<DiskFile, DiskError> {
        let size = disk_bytes.to_string();
        let arguments = [
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            base.path.as_str(),
            "-F",
            base.format.name(),
            disk.as_str(),
            size.as_str(),
        ];
        // Nothing of a stranger's is opened here.
        let tool = Self {
            program: self.program.clone(),
            confinement: Arc::new(Direct::without_limits()),
        };
        let job = tool.job(arguments.map(str::to_owned), &base.path, limits(0));
        tool.run("create", job).await?;
        Ok(DiskFile {
            path: disk.to_owned(),
            format: DiskFormat::Qcow2,
            backing: Some((base.path.clone(), base.format)),
        })
    }

    fn job<const N: usize>(&self, arguments: [String; N], reads: &Utf8Path, limits: Limits) -> Job {
        Job {
            program: self.program.clone(),
            arguments: arguments.into(),
            reads: reads.to_owned(),
            writes: None,
            limits,
        }
    }

    async fn run(&self, what: &'static str, job: Job) -> Result<Vec<u8>, DiskError> {
        let seconds = job.limits.wall.as_secs();
        let outcome = self.confinement.run(job).await;
        let outcome = outcome.map_err(|source| DiskError::Run { what, source })?;
        let message = String::from_utf8_lossy(&outcome.stderr);
        let message: String = message.trim().chars().take(500).collect();
        match (outcome.end, outcome.end.limit()) {
            (End::Exit(0), _) => Ok(outcome.stdout),
            (End::OutOfTime, _) => Err(DiskError::TooSlow { what, seconds }),
            (_, Some(limit)) => Err(DiskError::Overran { what, limit }),
            _ if message.contains("File too large") => Err(DiskError::Overran {
                what,
                limit: "space",
            }),
            // The host's fault, and not the image's.
            _ if what == "create" || message.contains("No space left") => {
                Err(DiskError::Failed { what, message })
            }
            _ => Err(DiskError::Refused { what, message }),
        }
    }
}

/// An image of a format that guests do not run from, once it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'a> {
    pub image: &'a Utf8Path,
    pub format: ImageFormat,
    pub content: Content,
    /// The disk that was sold.
    pub disk_bytes: u64,
}

impl Foreign<'_> {
    /// As QEMU is told of it, so that it probes nothing and opens this one file.
    fn source(&self) -> Value {
        let whole = file(self.image);
        match self.format {
            ImageFormat::Vhd => json!({ "driver": "vpc", "file": whole }),
            ImageFormat::Vhdx => json!({ "driver": "vhdx", "file": whole }),
            ImageFormat::Ova => {
                let (offset, size) = (self.content.offset, self.content.bytes);
                let part = json!({
                    "driver": "raw", "offset": offset, "size": size, "file": whole
                });
                json!({ "driver": "vmdk", "backing": null, "file": part })
            }
            _ => json!({ "driver": "vmdk", "backing": null, "file": whole }),
        }
    }
}

fn file(path: &Utf8Path) -> Value {
    json!({ "driver": "file", "filename": path, "locking": "off" })
}

fn source_name(source: &Value) -> String {
    format!("json:{source}")
}

fn answer(stdout: Vec<u8>) -> Result<Value, DiskError> {
    serde_json::from_slice(&stdout).map_err(|error| DiskError::Refused {
        what: "info",
        message: format!("its answer is not JSON: {error}"),
    })
}

/// What a run that writes so many bytes may take.
fn limits(bytes: u64) -> Limits {
    let seconds = bytes / SLOWEST;
    Limits {
        memory_bytes: MEMORY,
        cpu: Duration::from_secs(30 + seconds),
        wall: Duration::from_secs(60 + 2 * seconds),
        file_bytes: bytes + SLACK,
    }
}

/// Judges an image by its own bytes.
async fn judge(
    image: &Utf8Path,
    format: ImageFormat,
    disk_bytes: u64,
) -> Result<Content, DiskError> {
    let path = image.to_owned();
    let judged = tokio::task::spawn_blocking(move || -> Result<Content, Fault> {
        let file = &mut std::fs::File::open(&path)?;
        let content = surplus_disk_image::judge(file, format)?;
        if content.virtual_bytes > disk_bytes {
            return Err(Unfit::LargerThanDisk {
                virtual_bytes: content.virtual_bytes,
                sold_bytes: disk_bytes,
            }
            .into());
        }
        surplus_disk_image::map::check(file, format, &content)?;
        Ok(content)
    });
    let read = |source| DiskError::Read {
        path: image.to_owned(),
        source,
    };
    let judged = judged
        .await
        .map_err(|error| read(io::Error::other(error)))?;
    judged.map_err(|fault| match fault {
        Fault::Unfit(unfit) => unfit.into(),
        Fault::Read(source) => read(source),
    })
}

#[cfg(test)]
mod tests;
