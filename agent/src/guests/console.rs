//! Follows a guest's serial console and hands it to the marketplace.
//!
//! virtlogd writes the log and rotates it (`console.log`, `.0`, `.1`, …), so it
//! stays bounded and survives the agent. The follower keeps one chunk in memory
//! and remembers, beside the log, which file it reads and how far; it takes up
//! there after the agent was restarted. Bytes that were rotated away before the
//! marketplace could be reached are lost, and a line in the console says so.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::changes::{Change, Changes};
use super::directories::replace;
use super::placement::Placement;
use super::uplink::Uplink;

/// Most bytes handed over at once.
const CHUNK: u64 = 64 << 10;
/// Between looks at a log that grows: what a guest writes is gathered so long.
const LOOK: Duration = Duration::from_millis(500);
/// Between looks at a log of which no change was heard.
const QUIET: Duration = Duration::from_secs(30);
/// Between tries at most, while the marketplace takes nothing.
const RETRY: Duration = Duration::from_secs(15);
/// Rotated files that virtlogd may keep.
const MAX_ROTATED: usize = 9;
/// How long what is left of an ended guest's console is tried.
const LAST_WORDS: Duration = Duration::from_secs(300);

/// The files of a console log, newest first, with their inodes.
pub type LogFiles = Vec<(u64, File)>;

/// The file that a follower reads, as long as it may.
pub type OpenFile = Arc<Mutex<Option<File>>>;

fn lock(open: &OpenFile) -> MutexGuard<'_, Option<File>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the file: nothing of the guest may be open when its key is destroyed.
pub fn close(open: &OpenFile) {
    lock(open).take();
}

/// Takes the files of a log into memory, so that they can be read after they and
/// their key are gone.
pub fn hold(log: &Utf8Path) -> LogFiles {
    let paths = paths(log);
    paths
        .into_iter()
        .filter_map(|(inode, path)| {
            let held = copy(&path);
            let held = held.inspect_err(
                |error| tracing::warn!(%path, %error, "the end of a console's log is lost"),
            );
            Some((inode, held.ok()?))
        })
        .collect()
}

fn copy(path: &Utf8Path) -> io::Result<File> {
    let held = memfd_create(c"console", MFdFlags::MFD_CLOEXEC)?;
    let mut held = File::from(held);
    io::copy(&mut File::open(path)?, &mut held)?;
    Ok(held)
}

fn paths(log: &Utf8Path) -> Vec<(u64, Utf8PathBuf)> {
    let rotated = (0..MAX_ROTATED).map(|index| Utf8PathBuf::from(format!("{log}.{index}")));
    std::iter::once(log.to_owned())
        .chain(rotated)
        .filter_map(|path| Some((fs::metadata(&path).ok()?.ino(), path)))
        .collect()
}

/// A guest's console log and where it is sent.
#[derive(Debug)]
pub struct Follower {
    placement: Placement,
    log: Utf8PathBuf,
    /// The guest has ended: what is left of its log.
    held: Option<LogFiles>,
    uplink: Arc<dyn Uplink>,
    position: Position,
    open: OpenFile,
    /// Where changes are heard of.
    changes: Option<Arc<Changes>>,
    /// The open file's.
    change: Option<Change>,
}

/// How far a console was handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// Offset of the next byte in the whole console.
    offset: u64,
    /// The file being read (0: none yet), and the next byte in it.
    inode: u64,
    within: u64,
}

impl Follower {
    /// A follower of `log`, which need not exist yet.
    pub fn new(placement: Placement, log: &Utf8Path, uplink: Arc<dyn Uplink>) -> Self {
        let position = fs::read(position_file(log))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Self {
            placement,
            log: log.to_owned(),
            held: None,
            uplink,
            position,
            open: OpenFile::default(),
            changes: None,
            change: None,
        }
    }

    /// The file that it has open, so that it can be closed at the guest's end.
    pub fn open(&self) -> OpenFile {
        Arc::clone(&self.open)
    }

    /// The same, not looking at a log that does not change.
    pub fn hearing(mut self, changes: Option<Arc<Changes>>) -> Self {
        self.changes = changes;
        self
    }

    /// Follows until `ended` gives what is left of the log and that was handed
    /// over, or took too long. Dropping the future loses nothing: the position
    /// is written after each chunk that arrived.
    pub async fn run(mut self, mut ended: oneshot::Receiver<LogFiles>) {
        let mut pause = LOOK;
        // A change was heard of, or something read, since the last pause: what
        // comes right after it (a new file after a renamed one) is not waited for.
        let mut lively = true;
        let mut give_up: Option<Instant> = None;
        loop {
            if give_up.is_some_and(|deadline| deadline <= Instant::now()) {
                tracing::warn!(placement = %self.placement, "a console's end was not handed over");
                return;
            }
            match self.step().await {
                Ok(true) => {
                    (pause, lively) = (LOOK, true);
                    continue;
                }
                Ok(false) if self.held.is_some() => return,
                Ok(false) => {
                    let quiet = !lively && self.change.is_some();
                    pause = if quiet { QUIET } else { LOOK };
                }
                Err(error) => {
                    tracing::debug!(placement = %self.placement, %error, "console not handed over");
                    (pause, lively) = ((pause * 2).clamp(LOOK, RETRY), true);
                }
            }
            // Cancel safe: a oneshot and a change are only looked at, sleep takes
            // nothing.
            tokio::select! {
                () = tokio::time::sleep(pause) => lively = false,
                () = heard(self.change.as_ref()), if !lively => lively = true,
                files = &mut ended, if self.held.is_none() => {
                    let Ok(files) = files else { return };
                    self.held = Some(files);
                    give_up = Some(Instant::now() + LAST_WORDS);
                }
            }
        }
    }

    /// Hands over one chunk; `false` when there is nothing new.
    async fn step(&mut self) -> Result<bool, ConsoleError> {
        let chunk = self.read().map_err(ConsoleError::Read)?;
        let (bytes, within) = match chunk {
            Chunk::Nothing => return Ok(false),
            Chunk::Rotated => return Ok(true),
            Chunk::Bytes(bytes) => {
                let within = self.position.within + bytes.len() as u64;
                (Bytes::from(bytes), within)
            }
            Chunk::Gap => {
                let text = "\r\n[surplus: console output is missing here]\r\n";
                (Bytes::from_static(text.as_bytes()), 0)
            }
        };
        let offset = self.position.offset;
        let end = offset + bytes.len() as u64;
        let next = self.uplink.console(self.placement, offset, bytes).await?;
        // The marketplace's count is the one that holds. Where it asks for
        // bytes in the middle of the chunk, they are read again.
        if next > offset && next < end && within >= end - next {
            self.position.within = within - (end - next);
        } else {
            self.position.within = within;
        }
        self.position.offset = next;
        self.save();
        Ok(true)
    }

    fn save(&self) {
        if let Ok(json) = serde_json::to_vec(&self.position) {
            // The directory is gone once the guest has ended; then nobody will
            // ask for the position again.
            let _ = replace(&position_file(&self.log), &json);
        }
    }

    /// Reads on, going from file to file as they were rotated.
    fn read(&mut self) -> io::Result<Chunk> {
        if lock(&self.open).is_none() && !self.find()? {
            return Ok(Chunk::Nothing);
        }
        let mut bytes = Vec::new();
        match &mut *lock(&self.open) {
            Some(file) => {
                file.seek(SeekFrom::Start(self.position.within))?;
                file.take(CHUNK).read_to_end(&mut bytes)?;
            }
            None => return Ok(Chunk::Gap),
        }
        if !bytes.is_empty() {
            return Ok(Chunk::Bytes(bytes));
        }
        let inodes = self.inodes();
        let next = match inodes
            .iter()
            .position(|inode| *inode == self.position.inode)
        {
            // The newest file: nothing more yet.
            Some(0) => return Ok(Chunk::Nothing),
            Some(index) => inodes[index - 1],
            None => match inodes.last() {
                Some(oldest) => *oldest,
                None => return Ok(Chunk::Nothing),
            },
        };
        let file = self.open_file(next)?;
        self.take_up(file);
        self.position = Position {
            inode: next,
            within: 0,
            ..self.position
        };
        Ok(Chunk::Rotated)
    }

    /// Opens the file that was being read; `false` when there is none yet.
    /// Leaves `open` empty, once, when it was rotated away meanwhile.
    fn find(&mut self) -> io::Result<bool> {
        let inodes = self.inodes();
        let known = inodes.iter().find(|inode| **inode == self.position.inode);
        let Some(inode) = known.or(inodes.last()) else {
            return Ok(false);
        };
        if known.is_none() {
            let gap = self.position.inode != 0;
            self.position = Position {
                inode: *inode,
                within: 0,
                ..self.position
            };
            if gap {
                return Ok(true);
            }
        }
        let file = self.open_file(*inode)?;
        // A shorter file is another one, which got the old one's inode.
        if file.metadata()?.len() < self.position.within {
            self.position.within = 0;
        }
        self.take_up(file);
        Ok(true)
    }

    /// From now on this file is read, and its changes are heard of.
    fn take_up(&mut self, file: File) {
        self.change = self
            .changes
            .as_ref()
            .and_then(|changes| changes.of(&file).ok());
        *lock(&self.open) = Some(file);
    }

    /// The log's files, newest first.
    fn inodes(&self) -> Vec<u64> {
        match &self.held {
            Some(files) => files.iter().map(|(inode, _)| *inode).collect(),
            None => paths(&self.log)
                .into_iter()
                .map(|(inode, _)| inode)
                .collect(),
        }
    }

    fn open_file(&self, inode: u64) -> io::Result<File> {
        if let Some(files) = &self.held {
            let held = files.iter().find(|(candidate, _)| *candidate == inode);
            return held.map_or(Err(io::ErrorKind::NotFound.into()), |(_, file)| {
                file.try_clone()
            });
        }
        let path = paths(&self.log)
            .into_iter()
            .find(|(candidate, _)| *candidate == inode);
        path.map_or(Err(io::ErrorKind::NotFound.into()), |(_, path)| {
            File::open(path)
        })
    }
}

/// Waits for a change; for ever, where none is heard of.
async fn heard(change: Option<&Change>) {
    match change {
        Some(change) => change.seen().await,
        None => std::future::pending().await,
    }
}

enum Chunk {
    Nothing,
    Rotated,
    Gap,
    Bytes(Vec<u8>),
}

#[derive(Debug, thiserror::Error)]
enum ConsoleError {
    #[error("reading the console log failed: {0}")]
    Read(io::Error),
    #[error(transparent)]
    Uplink(#[from] super::uplink::UplinkError),
}

fn position_file(log: &Utf8Path) -> Utf8PathBuf {
    log.with_extension("position")
}

#[cfg(test)]
mod tests;
