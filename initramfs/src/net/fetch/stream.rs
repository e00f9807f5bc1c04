//! One transfer: bytes arrive in this thread, a second one checks each block
//! and keeps it.
//!
//! What always holds: only blocks that match the hash tree reach the image, in
//! their order, without a gap; memory stays within a few buffers.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use super::error::FetchError;
use super::tree::Tree;
use crate::conf::BLOCK;

const BLOCK_BYTES: usize = 4096;
const CHUNK: usize = 64 * BLOCK_BYTES;
/// Buffers on their way between the threads.
const BUFFERS: usize = 8;

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
    let (full, filled) = mpsc::channel();
    let (empty, spare) = mpsc::channel();
    for _ in 0..BUFFERS {
        // The receiver stands two lines above.
        let _ = empty.send(Vec::with_capacity(CHUNK));
    }
    thread::scope(|scope| {
        let keeper = scope.spawn(move || keep(&filled, &empty, from, tree, image));
        let read = read_all(body, from, to, &spare, &full, &mut progress);
        drop(full);
        match (keeper.join(), read) {
            // What the blocks are weighs more than how the transfer ended.
            (Ok(came @ Came { end: Err(_), .. }), _) => came,
            (Ok(came), end) => Came { to: came.to, end },
            (Err(panic), _) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads into spare buffers until all is there, or the other thread is content
/// with less.
fn read_all(
    body: &mut dyn Read,
    from: u64,
    to: u64,
    spare: &Receiver<Vec<u8>>,
    full: &Sender<Vec<u8>>,
    progress: &mut impl FnMut(u64),
) -> Result<(), FetchError> {
    let mut at = from;
    while at < to {
        let Ok(mut buffer) = spare.recv() else {
            return Ok(());
        };
        let length = usize::try_from(to - at).map_or(CHUNK, |rest| rest.min(CHUNK));
        buffer.resize(length, 0);
        let (read, end) = fill(body, &mut buffer);
        at += read as u64;
        // The rest of a block that was cut off is worth nothing.
        buffer.truncate(read - read % BLOCK_BYTES);
        let taken = full.send(buffer);
        progress(at);
        if let Err(why) = end {
            return Err(FetchError::Ended { at, of: to, why });
        }
        if taken.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Fills the buffer as far as the body goes.
fn fill(body: &mut dyn Read, buffer: &mut [u8]) -> (usize, Result<(), String>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, Err("the server sent no more".into())),
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Err(error.to_string())),
        }
    }
    (filled, Ok(()))
}

/// Checks and keeps what comes; ends at the first block that is wrong.
fn keep(
    filled: &Receiver<Vec<u8>>,
    empty: &Sender<Vec<u8>>,
    from: u64,
    tree: &Tree,
    image: &File,
) -> Came {
    let mut to = from;
    for buffer in filled {
        let good = buffer
            .chunks_exact(BLOCK_BYTES)
            .zip(to / BLOCK..)
            .take_while(|(block, number)| tree.holds(*number, block))
            .count();
        let length = good * BLOCK_BYTES;
        if let Err(error) = image.write_all_at(&buffer[..length], to) {
            return Came {
                to,
                end: Err(FetchError::Keep(error)),
            };
        }
        to += length as u64;
        if length < buffer.len() {
            return Came {
                to,
                end: Err(FetchError::Block(to / BLOCK)),
            };
        }
        // Nobody reads any more at the end.
        let _ = empty.send(buffer);
    }
    Came { to, end: Ok(()) }
}
