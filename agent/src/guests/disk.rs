//! The guest's disk: a qcow2 overlay on the cached image, of exactly the size
//! that was sold.
//!
//! Formats are always given, never probed: a raw image whose first bytes look
//! like qcow2 stays raw. qcow2 images are judged by their header here
//! ([`super::qcow2`]) and by `qemu-img info` under limits of time and memory.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use surplus_protocol::lease::ImageFormat;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::domain_xml::{DiskFile, DiskFormat};
use super::qcow2::{self, UnfitImage};

/// Longest time for one run of `qemu-img`.
const DEADLINE: Duration = Duration::from_secs(60);
/// Memory that `qemu-img` may map, in bytes.
const ADDRESS_SPACE: u64 = 1 << 30;
/// CPU time that it may use, in seconds.
const CPU_SECONDS: u32 = 30;

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Unfit(#[from] UnfitImage),
    #[error("`qemu-img {what}` refused: {message}")]
    Refused { what: &'static str, message: String },
    #[error("`qemu-img {what}` took longer than {} s", DEADLINE.as_secs())]
    TooSlow { what: &'static str },
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
        matches!(self, Self::Unfit(_))
    }
}

/// The program that judges images and makes overlays.
#[derive(Clone, Debug)]
pub struct QemuImg {
    program: Utf8PathBuf,
    /// util-linux's `prlimit`, where the host has it.
    limiter: Option<Utf8PathBuf>,
}

impl Default for QemuImg {
    fn default() -> Self {
        let limiter = Utf8PathBuf::from("/usr/bin/prlimit");
        let limiter = limiter.exists().then_some(limiter);
        Self {
            program: "/usr/bin/qemu-img".into(),
            limiter,
        }
    }
}

impl QemuImg {
    /// Another program in its place, without limits: for tests.
    pub fn stand_in(program: &str) -> Self {
        Self {
            program: program.into(),
            limiter: None,
        }
    }

    /// Refuses an image that does not stand alone or does not fit the disk.
    pub async fn check(
        &self,
        image: &Utf8Path,
        format: ImageFormat,
        disk_bytes: u64,
    ) -> Result<(), DiskError> {
        let read = |source| DiskError::Read {
            path: image.to_owned(),
            source,
        };
        let virtual_bytes = match format {
            ImageFormat::Raw => tokio::fs::metadata(image).await.map_err(read)?.len(),
            ImageFormat::Qcow2 => {
                let file = tokio::fs::File::open(image).await.map_err(read)?;
                let mut head = Vec::with_capacity(qcow2::HEADER_BYTES);
                let limit = qcow2::HEADER_BYTES as u64;
                file.take(limit)
                    .read_to_end(&mut head)
                    .await
                    .map_err(read)?;
                let size = qcow2::virtual_size(&head)?;
                self.second_opinion(image).await?;
                size
            }
        };
        if virtual_bytes > disk_bytes {
            let sold_bytes = disk_bytes;
            return Err(UnfitImage::LargerThanDisk {
                virtual_bytes,
                sold_bytes,
            }
            .into());
        }
        Ok(())
    }

    async fn second_opinion(&self, image: &Utf8Path) -> Result<(), DiskError> {
        let arguments = ["info", "--output=json", "-f", "qcow2", image.as_str()];
        let output = self.run("info", &arguments).await?;
        let info: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| DiskError::Refused {
                what: "info",
                message: format!("its answer is not JSON: {error}"),
            })?;
        if info.get("backing-filename").is_some() || info.get("full-backing-filename").is_some() {
            return Err(UnfitImage::BackingFile.into());
        }
        if info.pointer("/format-specific/data/data-file").is_some() {
            return Err(UnfitImage::DataFile.into());
        }
        Ok(())
    }

    /// Makes the guest's disk at `disk`, which must not exist, over `image`.
    pub async fn overlay(
        &self,
        image: &Utf8Path,
        format: ImageFormat,
        disk: &Utf8Path,
        disk_bytes: u64,
    ) -> Result<DiskFile, DiskError> {
        let backing = match format {
            ImageFormat::Raw => DiskFormat::Raw,
            ImageFormat::Qcow2 => DiskFormat::Qcow2,
        };
        let size = disk_bytes.to_string();
        let arguments = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            image.as_str(),
            "-F",
            backing.name(),
            disk.as_str(),
            size.as_str(),
        ];
        self.run("create", &arguments).await?;
        Ok(DiskFile {
            path: disk.to_owned(),
            format: DiskFormat::Qcow2,
            backing: Some((image.to_owned(), backing)),
        })
    }

    async fn run(&self, what: &'static str, arguments: &[&str]) -> Result<Output, DiskError> {
        let mut command = match &self.limiter {
            Some(limiter) => {
                let mut command = Command::new(limiter);
                command
                    .arg(format!("--as={ADDRESS_SPACE}"))
                    .arg(format!("--cpu={CPU_SECONDS}"))
                    .arg("--core=0")
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .env_clear();
        let output = tokio::time::timeout(DEADLINE, command.output())
            .await
            .map_err(|_| DiskError::TooSlow { what })?
            .map_err(|source| DiskError::Run { what, source })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let message: String = message.trim().chars().take(500).collect();
            return Err(DiskError::Refused { what, message });
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as Blocking;

    use super::*;

    fn make(arguments: &[&str]) {
        let done = Blocking::new("/usr/bin/qemu-img")
            .args(arguments)
            .output()
            .expect("needs `apt install qemu-utils`");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    #[tokio::test]
    async fn a_disk_larger_than_sold_is_refused_and_one_that_fits_is_grown() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (image, disk) = (dir.join("image"), dir.join("disk"));
        make(&["create", "-q", "-f", "qcow2", image.as_str(), "64M"]);
        let tool = QemuImg::default();
        let error = tool
            .check(&image, ImageFormat::Qcow2, 1 << 20)
            .await
            .unwrap_err();
        assert!(error.is_final());
        assert!(error.to_string().contains("67108864"), "{error}");

        tool.check(&image, ImageFormat::Qcow2, 1 << 30)
            .await
            .unwrap();
        let file = tool
            .overlay(&image, ImageFormat::Qcow2, &disk, 1 << 30)
            .await
            .unwrap();
        assert_eq!(file.format, DiskFormat::Qcow2);
        let info = Blocking::new("/usr/bin/qemu-img")
            .args(["info", "--output=json", disk.as_str()])
            .output()
            .unwrap();
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["virtual-size"], 1_u64 << 30);
        assert_eq!(info["backing-filename-format"], "qcow2");
    }

    #[tokio::test]
    async fn a_backing_file_and_an_external_data_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (image, data) = (dir.join("image"), dir.join("data"));
        let tool = QemuImg::default();
        make(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            "/etc/passwd",
            "-F",
            "raw",
            image.as_str(),
            "1M",
        ]);
        let error = tool
            .check(&image, ImageFormat::Qcow2, 1 << 30)
            .await
            .unwrap_err();
        assert!(
            matches!(error, DiskError::Unfit(UnfitImage::BackingFile)),
            "{error:?}"
        );
        let option = format!("data_file={data}");
        make(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &option,
            image.as_str(),
            "1M",
        ]);
        let error = tool
            .check(&image, ImageFormat::Qcow2, 1 << 30)
            .await
            .unwrap_err();
        assert!(
            matches!(error, DiskError::Unfit(UnfitImage::DataFile)),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_raw_image_that_looks_like_qcow2_stays_raw() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (image, disk) = (dir.join("image"), dir.join("disk"));
        make(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            "/etc/passwd",
            "-F",
            "raw",
            image.as_str(),
            "1M",
        ]);
        let tool = QemuImg::default();
        tool.check(&image, ImageFormat::Raw, 1 << 30).await.unwrap();
        tool.overlay(&image, ImageFormat::Raw, &disk, 1 << 30)
            .await
            .unwrap();
        let info = Blocking::new("/usr/bin/qemu-img")
            .args(["info", "--output=json", disk.as_str()])
            .output()
            .unwrap();
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!(info["backing-filename-format"], "raw");
    }
}
