//! One transfer: each block is checked as it arrives, and kept.
//!
//! What always holds: only blocks that match the hash tree reach the image, in
//! their order, without a gap; memory stays within one buffer.
//!
//! One thread does it all: while it hashes, the kernel goes on receiving into
//! the socket's buffer. A second thread for the hashing was measured to be
//! slower, by what two processors spend on waking each other.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt as _;

use super::error::FetchError;
use super::tree::Tree;
use crate::conf::BLOCK;

const BLOCK_BYTES: usize = 4096;
/// Small enough for the peer to be acknowledged all the time.
const CHUNK: usize = 32 * BLOCK_BYTES;

/// How far a transfer came.
#[derive(Debug)]
pub(super) struct Came {
    /// The first byte that is not in the image yet.
    pub(super) to: u64,
    /// Why not further.
    pub(super) end: Result<(), FetchError>,
}

/// Reads the image from `from` to `to`, both at blocks' bounds; tells
/// `progress` how far it is.
pub(super) fn transfer(
    body: &mut dyn Read,
    from: u64,
    to: u64,
    tree: &Tree,
    image: &File,
    mut progress: impl FnMut(u64),
) -> Came {
    let mut buffer = vec![0; CHUNK];
    let mut at = from;
    while at < to {
        let length = usize::try_from(to - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        let (read, ended) = fill(body, &mut buffer[..length]);
        let right = buffer[..read]
            .chunks_exact(BLOCK_BYTES)
            .zip(at / BLOCK..)
            .take_while(|(block, number)| tree.holds(*number, block))
            .count()
            * BLOCK_BYTES;
        if let Err(error) = image.write_all_at(&buffer[..right], at) {
            let end = Err(FetchError::Keep(error));
            return Came { to: at, end };
        }
        at += right as u64;
        progress(at);
        // The rest of a block that was cut off is worth nothing.
        let end = if right + BLOCK_BYTES <= read {
            Err(FetchError::Block(at / BLOCK))
        } else {
            ended.map_err(|why| FetchError::Ended { at, of: to, why })
        };
        if end.is_err() {
            return Came { to: at, end };
        }
    }
    Came { to, end: Ok(()) }
}

/// Fills the buffer as far as the body goes.
fn fill(body: &mut dyn Read, buffer: &mut [u8]) -> (usize, Result<(), String>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, Err("the server sent no more".into())),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (filled, Err(error.to_string())),
        }
    }
    (filled, Ok(()))
}
