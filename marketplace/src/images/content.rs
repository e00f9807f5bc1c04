//! What an image file is, by its content: qcow2 by its header (QEMU,
//! `docs/interop/qcow2.rst`), anything else raw.
//!
//! A qcow2 file that refers to other files (a backing file, an external data
//! file) is refused: on a host it would open what its maker chose.

use std::io;
use std::path::Path;

use http::StatusCode;
use surplus_protocol::lease::ImageFormat;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use crate::refusal::Refusal;

/// What was found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub format: ImageFormat,
    pub size_bytes: u64,
    /// The disk that it unfolds to.
    pub virtual_bytes: u64,
}

const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";

/// Formats that are known and not taken, by their first bytes.
const OTHERS: [(&[u8], &str); 5] = [
    (b"KDMV", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"<<< ", "VDI"),
];

/// Feature bit of qcow2: the data lies in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Bytes that a qcow2 file may have beyond its disk and tables.
const QCOW2_SLACK: u64 = 32 << 20;

/// Reads what the file is.
///
/// # Errors
///
/// Where a host could not run it, or should not.
pub(super) async fn examine(path: &Path) -> Result<Content, Refusal> {
    let read = async {
        let file = File::open(path).await?;
        let size = file.metadata().await?.len();
        let mut head = Vec::new();
        file.take(512).read_to_end(&mut head).await?;
        Ok((size, head))
    };
    let (size, head) = read
        .await
        .map_err(|error: io::Error| Refusal::internal("reading an image", &error))?;
    judge(size, &head).map_err(refuse)
}

/// An image that is not taken.
pub(super) fn refuse(detail: String) -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "image-format",
        "The image cannot be used",
        detail,
        "convert it: qemu-img convert -O qcow2 <image> <new image>",
    )
}

fn judge(size_bytes: u64, head: &[u8]) -> Result<Content, String> {
    if size_bytes == 0 {
        return Err("it is empty".to_owned());
    }
    if !head.starts_with(QCOW2_MAGIC) {
        if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(format!("it is {name}; qcow2 and raw are taken"));
        }
        return Ok(Content {
            format: ImageFormat::Raw,
            size_bytes,
            virtual_bytes: size_bytes,
        });
    }
    let header_cut = || "its qcow2 header is cut off".to_owned();
    let long = |at: usize| -> Result<u64, String> {
        let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(header_cut)
    };
    let version = long(0)? & 0xffff_ffff;
    if !(2..=3).contains(&version) {
        return Err(format!("its qcow2 version is {version}; 2 and 3 are taken"));
    }
    if long(8)? != 0 {
        return Err("it has a backing file, which no host has".to_owned());
    }
    let virtual_bytes = long(24)?;
    if virtual_bytes == 0 {
        return Err("its qcow2 header says that the disk is empty".to_owned());
    }
    // Tables and their references, for clusters of any size.
    let most = virtual_bytes.saturating_add(virtual_bytes / 32 + QCOW2_SLACK);
    if size_bytes > most {
        return Err(format!(
            "it has {size_bytes} bytes, more than a disk of {virtual_bytes} bytes can need"
        ));
    }
    if version == 3 && long(72)? & EXTERNAL_DATA != 0 {
        return Err("its data lies in another file, which no host has".to_owned());
    }
    Ok(Content {
        format: ImageFormat::Qcow2,
        size_bytes,
        virtual_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 104];
        head[..4].copy_from_slice(QCOW2_MAGIC);
        head[4..8].copy_from_slice(&3_u32.to_be_bytes());
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    #[test]
    fn the_virtual_size_is_read_from_the_header() {
        let content = judge(4096, &qcow2(0, 0)).unwrap();
        assert_eq!(content.format, ImageFormat::Qcow2);
        assert_eq!(content.virtual_bytes, 1 << 30);
    }

    #[test]
    fn an_image_that_refers_to_other_files_is_refused() {
        assert!(judge(4096, &qcow2(512, 0)).is_err());
        assert!(judge(4096, &qcow2(0, EXTERNAL_DATA)).is_err());
    }

    #[test]
    fn a_file_far_larger_than_its_disk_is_refused() {
        let most = (1 << 30) + (1 << 25) + QCOW2_SLACK;
        assert!(judge(most, &qcow2(0, 0)).is_ok());
        assert!(judge(most + 1, &qcow2(0, 0)).is_err());
    }

    #[test]
    fn other_formats_and_cut_headers_are_refused() {
        assert!(judge(4096, b"KDMV....").is_err());
        assert!(judge(6, &qcow2(0, 0)[..6]).is_err());
        assert!(judge(0, b"").is_err());
        assert_eq!(judge(4, b"boot").unwrap().format, ImageFormat::Raw);
    }
}
