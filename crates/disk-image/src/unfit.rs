//! Why an image is refused. What is said here reaches the buyer as it is.

use std::io;

use surplus_protocol::lease::ImageFormat;

/// Why an image cannot be run. Trying again cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the image is empty: it has no disk")]
    Empty,
    #[error("the image does not begin, or end, as a {0} image does; say what it is, or nothing")]
    Unlike(ImageFormat),
    #[error("the {format} image is cut off: {what} is not all there; upload it anew")]
    CutOff {
        format: ImageFormat,
        what: &'static str,
    },
    #[error("the image is of {format} version {version}, which is not known here")]
    Version { format: ImageFormat, version: u32 },
    #[error(
        "the image builds on another one (a backing file, or parent); make it whole with \
         `qemu-img convert`"
    )]
    BackingFile,
    #[error("the image keeps its data in another file{0}; make it whole with `qemu-img convert`")]
    OtherFile(String),
    #[error("the image is encrypted; decrypt it with `qemu-img convert`")]
    Encrypted,
    #[error("the image is marked as corrupt; repair it with `qemu-img check -r all`")]
    Corrupt,
    #[error("the image uses {format} features that are not known here (bits {bits:#x})")]
    UnknownFeatures { format: ImageFormat, bits: u64 },
    #[error(
        "the image is a {format} disk of type {found:?}; only {taken} can be run: convert it with \
         `qemu-img convert`"
    )]
    Kind {
        format: ImageFormat,
        found: String,
        taken: &'static str,
    },
    #[error("the {format} image's {what} is out of bounds; make it anew with `qemu-img convert`")]
    OutOfBounds {
        format: ImageFormat,
        what: &'static str,
    },
    #[error("the OVA archive's member {name:?} {why}; make it anew")]
    Member { name: String, why: &'static str },
    #[error("the OVA archive {0}; make it anew")]
    Archive(&'static str),
    #[error(
        "the image is a disk of {virtual_bytes} bytes, larger than the {sold_bytes} bytes that \
         were rented; rent a larger disk"
    )]
    LargerThanDisk { virtual_bytes: u64, sold_bytes: u64 },
}

/// Why a judge has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("the image cannot be read")]
    Read(#[from] io::Error),
}
