//! Reads the head of a qcow2 file, before any other program opens it.
//!
//! A buyer's image is hostile until shown otherwise: a backing file or an
//! external data file would make QEMU open files of the host. So the header is
//! judged here first, field by field.
//!
//! Source: QEMU, docs/interop/qcow2.txt.

const MAGIC: &[u8] = b"QFI\xfb";
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
/// Dirty, corrupt, data file, compression type, extended L2 entries.
const KNOWN_INCOMPATIBLE: u64 = 0b1_1111;
const CORRUPT: u64 = 1 << 1;

/// Bytes of a file that [`virtual_size`] wants to see.
pub const HEADER_BYTES: usize = 104;

/// Why an image cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitImage {
    #[error("the image is not in qcow2 format: it does not begin with its magic number")]
    NotQcow2,
    #[error("the image is of qcow2 version {0}; only versions 2 and 3 can be run")]
    Version(u32),
    #[error("the image refers to a backing file; make it whole with `qemu-img convert`")]
    BackingFile,
    #[error("the image keeps its data in another file; make it whole with `qemu-img convert`")]
    DataFile,
    #[error("the image is encrypted; decrypt it with `qemu-img convert`")]
    Encrypted,
    #[error("the image is marked as corrupt; repair it with `qemu-img check -r all`")]
    Corrupt,
    #[error("the image uses qcow2 features that are not known here (bits {0:#x})")]
    UnknownFeatures(u64),
    #[error(
        "the image is a disk of {virtual_bytes} bytes, larger than the {sold_bytes} bytes that \
         were rented; rent a larger disk"
    )]
    LargerThanDisk { virtual_bytes: u64, sold_bytes: u64 },
}

/// The size of the disk in a qcow2 file, in bytes, when the file stands alone.
pub fn virtual_size(head: &[u8]) -> Result<u64, UnfitImage> {
    if head.get(..4) != Some(MAGIC) {
        return Err(UnfitImage::NotQcow2);
    }
    let short = UnfitImage::NotQcow2;
    let version = be32(head, 4).ok_or(short.clone())?;
    let incompatible = match version {
        2 => 0,
        3 => be64(head, 72).ok_or(short.clone())?,
        other => return Err(UnfitImage::Version(other)),
    };
    if be64(head, 8) != Some(0) {
        return Err(UnfitImage::BackingFile);
    }
    if be32(head, 32) != Some(0) {
        return Err(UnfitImage::Encrypted);
    }
    if incompatible & EXTERNAL_DATA_FILE != 0 {
        return Err(UnfitImage::DataFile);
    }
    if incompatible & CORRUPT != 0 {
        return Err(UnfitImage::Corrupt);
    }
    match incompatible & !KNOWN_INCOMPATIBLE {
        0 => be64(head, 24).ok_or(short),
        unknown => Err(UnfitImage::UnknownFeatures(unknown)),
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; HEADER_BYTES];
        head[..4].copy_from_slice(MAGIC);
        head[7] = 3;
        head[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        fill(&mut head);
        head
    }

    #[test]
    fn an_image_that_refers_to_other_files_is_refused() {
        assert_eq!(virtual_size(&header(|_| {})), Ok(1 << 30));
        assert_eq!(
            virtual_size(&header(|head| head[15] = 1)),
            Err(UnfitImage::BackingFile)
        );
        assert_eq!(
            virtual_size(&header(|head| head[79] = 4)),
            Err(UnfitImage::DataFile)
        );
        assert_eq!(
            virtual_size(&header(|head| head[35] = 2)),
            Err(UnfitImage::Encrypted)
        );
        assert_eq!(
            virtual_size(&header(|head| head[7] = 4)),
            Err(UnfitImage::Version(4))
        );
        assert_eq!(
            virtual_size(&header(|head| head[78] = 1)),
            Err(UnfitImage::UnknownFeatures(256))
        );
        assert_eq!(virtual_size(b"QFI\xfb"), Err(UnfitImage::NotQcow2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = virtual_size(&bytes);
            let mut image = MAGIC.to_vec();
            image.extend(bytes);
            let _ = virtual_size(&image);
        }
    }
}
