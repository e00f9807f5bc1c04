//! A unified kernel image (`surplus.efi`) as bytes: its kernel command line, read
//! and rewritten in place, and its signatures.
//!
//! What always holds: an image is untrusted input, and no bytes make this panic
//! or read outside of them; what is written has the length of what was read,
//! with all sections where they were; a signed image is never altered, since
//! its signature would no longer be true.

mod arguments;
mod layout;
mod signature;

use std::ops::Range;

use self::layout::Layout;

/// The section with the kernel command line.
const COMMAND_LINE: &str = ".cmdline";

/// Bytes that a command line has room for in an image of ours. The kernel takes
/// 2047; the rest is for what a firmware or a boot loader puts before it.
pub const ROOM: usize = 1536;

/// Why an image cannot be worked with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EfiError {
    #[error("this is no EFI program for x86-64 ({what})")]
    NotEfi { what: &'static str },
    #[error("the EFI program is damaged ({what}); build or download it again")]
    Damaged { what: &'static str },
    #[error(
        "the EFI program has no section {name}, so it is no unified kernel image; take the \
         surplus.efi that `cargo xtask image` made"
    )]
    NoSection { name: String },
    #[error(
        "the kernel command line names no surplus.roothash, so this is a unified kernel image, \
         but not one of Surplus"
    )]
    Foreign,
    #[error("the kernel command line in the EFI program is not plain text")]
    NotText,
    #[error(
        "the image is signed, and altering it would make the signature void; give a key to sign \
         it anew, or take the unsigned image"
    )]
    Signed,
    #[error(
        "the kernel command line would have {needed} bytes, and the image has room for {room}; \
         shorten the URLs"
    )]
    NoRoom { needed: usize, room: usize },
    #[error(
        "{word:?} cannot stand on the kernel command line of the image; surplus.site=, \
         surplus.ca= and surplus.root= can, in plain characters"
    )]
    Argument { word: String },
}

/// The kernel command line in an image of ours, without its padding.
pub fn command_line(bytes: &[u8]) -> Result<String, EfiError> {
    let section = section(bytes, COMMAND_LINE)?;
    let text = std::str::from_utf8(&bytes[section]).map_err(|_| EfiError::NotText)?;
    let text = text.trim_end_matches(['\0', ' ', '\n']);
    if text.chars().any(char::is_control) {
        return Err(EfiError::NotText);
    }
    if arguments::value(text, "surplus.roothash=").is_none() {
        return Err(EfiError::Foreign);
    }
    Ok(text.to_owned())
}

/// The image with other `surplus.site=`, `surplus.ca=` and `surplus.root=` words
/// on its kernel command line: `arguments` in place of those that stand there.
///
/// # Errors
///
/// A signed image, too little room, or an argument that is none of these words.
pub fn with_arguments(mut bytes: Vec<u8>, arguments: &str) -> Result<Vec<u8>, EfiError> {
    let layout = Layout::read(&bytes)?;
    if layout.certificates.is_some() {
        return Err(EfiError::Signed);
    }
    let line = arguments::replaced(&command_line(&bytes)?, arguments)?;
    let section = layout.section(COMMAND_LINE)?;
    if line.len() > section.len() {
        return Err(EfiError::NoRoom {
            needed: line.len(),
            room: section.len(),
        });
    }
    let (text, padding) = bytes[section].split_at_mut(line.len());
    text.copy_from_slice(line.as_bytes());
    padding.fill(b' ');
    layout.write_checksum(&mut bytes);
    Ok(bytes)
}

/// Whether the image carries a signature; it need not be a good one.
pub fn is_signed(bytes: &[u8]) -> Result<bool, EfiError> {
    Ok(Layout::read(bytes)?.certificates.is_some())
}

/// The image without its signatures.
pub fn unsigned(mut bytes: Vec<u8>) -> Result<Vec<u8>, EfiError> {
    let layout = Layout::read(&bytes)?;
    if let Some(certificates) = &layout.certificates {
        bytes.truncate(certificates.start);
        layout.forget_certificates(&mut bytes);
        layout.write_checksum(&mut bytes);
    }
    Ok(bytes)
}

/// The name of who made each signature, as the certificates in it say. A
/// signature is not checked by this.
pub fn signers(bytes: &[u8]) -> Result<Vec<String>, EfiError> {
    let layout = Layout::read(bytes)?;
    Ok(layout
        .certificates
        .map(|table| signature::signers(&bytes[table]))
        .unwrap_or_default())
}

/// Where the section of this name lies in the image, without the padding that
/// aligns it.
pub fn section(bytes: &[u8], name: &str) -> Result<Range<usize>, EfiError> {
    Layout::read(bytes)?.section(name)
}

/// The values of all words of this kind (`surplus.root=`) on a command line.
pub fn values<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    line.split(' ')
        .filter_map(move |found| found.strip_prefix(word))
}

#[cfg(test)]
mod tests;
