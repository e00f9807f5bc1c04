//! What a disk image is, judged by its own bytes before any tool opens it.
//!
//! A buyer's image is hostile until shown otherwise. What always holds: no
//! bytes make a judge panic; memory and time that one takes are bounded by
//! constants and by the disk's size; an image that refers to another file, or
//! whose tables are larger than its format's own rules allow, is refused.
//!
//! [`recognise`] says what a file is, [`judge`] whether it can be run,
//! [`map::check`] whether all of what it refers to is there.

pub mod map;
mod ova;
mod part;
mod qcow2;
mod unfit;
mod vhd;
mod vhdx;
mod vmdk;

use std::io::{Read, Seek};

use surplus_protocol::lease::ImageFormat;

use part::Window;
pub use unfit::{Fault, Unfit};

/// The largest disk that is taken, in bytes.
pub const MAX_DISK: u64 = 64 << 40;

/// What was found in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The disk that the image unfolds to, in bytes.
    pub virtual_bytes: u64,
    /// Where in the file the disk lies: all of it, but for an OVA.
    pub offset: u64,
    pub bytes: u64,
}

/// What a file is. Whatever is nothing else is a raw disk.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn recognise(file: &mut (impl Read + Seek)) -> std::io::Result<ImageFormat> {
    let window = &mut Window::whole(file)?;
    let head = window.read_up_to(0, 512)?;
    let tail = window.read_up_to(window.bytes.saturating_sub(512), 512)?;
    Ok(recognise_ends(&head, &tail))
}

/// The same by the file's first and last 512 bytes.
pub fn recognise_ends(head: &[u8], tail: &[u8]) -> ImageFormat {
    if head.starts_with(qcow2::MAGIC) {
        ImageFormat::Qcow2
    } else if vmdk::MAGICS.iter().any(|magic| head.starts_with(magic)) {
        ImageFormat::Vmdk
    } else if head.starts_with(vhdx::MAGIC) {
        ImageFormat::Vhdx
    } else if head.starts_with(vhd::MAGIC) || tail.starts_with(vhd::MAGIC) {
        ImageFormat::Vhd
    } else if ova::is_tar(head) {
        ImageFormat::Ova
    } else {
        ImageFormat::Raw
    }
}

/// Judges an image by its headers, and an OVA by its manifest too.
///
/// # Errors
///
/// [`Fault::Unfit`] where it cannot be run or should not; [`Fault::Read`] where
/// the file cannot be read.
pub fn judge(file: &mut (impl Read + Seek), format: ImageFormat) -> Result<Content, Fault> {
    let mut window = Window::whole(file)?;
    let bytes = window.bytes;
    if bytes == 0 {
        return Err(Unfit::Empty.into());
    }
    let (virtual_bytes, (offset, bytes)) = match format {
        ImageFormat::Raw => (bytes, (0, bytes)),
        ImageFormat::Qcow2 => (qcow2::judge(&mut window)?.virtual_bytes, (0, bytes)),
        ImageFormat::Vmdk => (vmdk::judge(&mut window)?.virtual_bytes, (0, bytes)),
        ImageFormat::Vhd => (vhd::judge(&mut window)?, (0, bytes)),
        ImageFormat::Vhdx => (vhdx::judge(&mut window)?.virtual_bytes, (0, bytes)),
        ImageFormat::Ova => {
            let disk = ova::judge(window.file)?;
            let mut window = Window::of(window.file, disk.offset, disk.bytes);
            let head = vmdk::judge(&mut window)?;
            (head.virtual_bytes, (disk.offset, disk.bytes))
        }
    };
    if virtual_bytes == 0 {
        return Err(Unfit::Empty.into());
    }
    if virtual_bytes > MAX_DISK {
        return Err(Unfit::LargerThanDisk {
            virtual_bytes,
            sold_bytes: MAX_DISK,
        }
        .into());
    }
    Ok(Content {
        virtual_bytes,
        offset,
        bytes,
    })
}
