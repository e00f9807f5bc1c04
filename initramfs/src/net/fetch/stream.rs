//! One transfer: each piece is kept and checked as it arrives.
//!
//! ```text
//! this thread: receive ─▶ write ─▶ next piece …     ▲ buffers that are free again
//!                          └─▶ second thread: hash ─┘
//! ```
//!
//! What always holds: how far the image is known to be right moves on only by
//! pieces that are right, in their order, without a gap. What lies behind that in
//! the file counts for nothing and is written over. Memory stays within [`AHEAD`]
//! pieces, and the one that each thread is at.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use surplus_medium::pieces::{PIECE, Pieces};

use super::error::FetchError;

/// Pieces that may wait to be checked.
const AHEAD: usize = 8;

/// How far a transfer came.
#[derive(Debug)]
pub(super) struct Came {
    /// The first byte that is not known to be right.
    pub(super) to: u64,
    /// Why not further.
    pub(super) end: Result<(), FetchError>,
}

/// Reads the image from `from`, where a piece begins, to its end; tells `progress`
/// how far it is.
pub(super) fn transfer(
    body: &mut dyn Read,
    from: u64,
    pieces: &Pieces,
    image: &File,
    progress: impl FnMut(u64),
) -> Came {
    thread::scope(|scope| {
        let (arrived, to_check) = mpsc::sync_channel(AHEAD);
        let (checked, free) = mpsc::channel();
        let check = move || check(&to_check, &checked, from, pieces);
        let checker = match thread::Builder::new().spawn_scoped(scope, check) {
            Ok(checker) => checker,
            Err(error) => {
                let end = Err(FetchError::Keep(error));
                return Came { to: from, end };
            }
        };
        let received = receive(body, from, pieces, image, &arrived, &free, progress);
        drop(arrived);
        let came = checker.join().expect("hashing does not panic");
        Came {
            to: came.to,
            end: came.end.and(received),
        }
    })
}

/// Pieces from the network into the image and on to be checked, until one is wrong.
fn receive(
    body: &mut dyn Read,
    from: u64,
    pieces: &Pieces,
    image: &File,
    arrived: &SyncSender<Vec<u8>>,
    free: &Receiver<Vec<u8>>,
    mut progress: impl FnMut(u64),
) -> Result<(), FetchError> {
    let mut at = from;
    while at < pieces.size() {
        let mut piece = free.try_recv().unwrap_or_default();
        let length = (pieces.size() - at).min(PIECE as u64);
        piece.resize(usize::try_from(length).unwrap_or(PIECE), 0);
        // The rest of a piece that was cut off is worth nothing.
        body.read_exact(&mut piece)
            .map_err(|error| ended(at, pieces.size(), &error))?;
        image.write_all_at(&piece, at).map_err(FetchError::Keep)?;
        if arrived.send(piece).is_err() {
            // The checker has the word.
            return Ok(());
        }
        at += length;
        progress(at);
    }
    Ok(())
}

/// Checks pieces until one is wrong or no more come.
fn check(
    arrived: &Receiver<Vec<u8>>,
    checked: &Sender<Vec<u8>>,
    from: u64,
    pieces: &Pieces,
) -> Came {
    let mut at = from;
    for piece in arrived {
        let to = at + piece.len() as u64;
        if !pieces.holds(at, &piece) {
            let end = Err(FetchError::Piece { at, to });
            return Came { to: at, end };
        }
        at = to;
        // Nobody wants it at the end.
        let _ = checked.send(piece);
    }
    Came {
        to: at,
        end: Ok(()),
    }
}

/// A transfer that broke off at this byte.
pub(super) fn ended(at: u64, of: u64, error: &io::Error) -> FetchError {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "the server sent no more".to_owned(),
        _ => error.to_string(),
    };
    FetchError::Ended { at, of, why }
}
