//! Serial consoles of guests, bounded: of each lease at least the last MiB is
//! kept, and each byte has its offset since the guest's start.
//!
//! A console is a directory of segments, each named by the offset of its first
//! byte. The newest is appended to; all but the last two are removed. A gap
//! (bytes that the host had to drop) begins a new segment.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use surplus_protocol::ids::{Epoch, LeaseId};
use tokio::fs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;

use crate::refusal::Refusal;

/// Largest upload at once.
pub(crate) const MAX_UPLOAD: usize = 1 << 20;

/// A segment is closed once it is this long.
const SEGMENT_BYTES: u64 = 1 << 20;

/// No guest writes more in its life: 256 TiB.
const MAX_OFFSET: u64 = 1 << 48;

/// Most bytes of one answer.
const MAX_READ: u64 = 256 << 10;

/// The consoles of all leases.
#[derive(Debug)]
pub(crate) struct Consoles {
    dir: PathBuf,
    /// One upload at a time: a host repeats a request whose answer it missed.
    writing: Mutex<()>,
}

/// Part of a console.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Offset of the first byte.
    pub offset: u64,
    pub bytes: Bytes,
    /// Nothing more is there now.
    pub at_end: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    start: u64,
    length: u64,
    path: PathBuf,
}

impl Consoles {
    /// Consoles in `dir`, which exists.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            writing: Mutex::new(()),
        }
    }

    /// Takes `bytes` from `offset` on and says which offset is expected next.
    /// What is held already is ignored.
    ///
    /// # Errors
    ///
    /// Where the disk fails.
    pub(crate) async fn append(
        &self,
        lease: LeaseId,
        epoch: Epoch,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, Refusal> {
        if offset > MAX_OFFSET {
            return Err(Refusal::invalid(format!(
                "a console has no byte at offset {offset}"
            )));
        }
        let _one = self.writing.lock().await;
        let dir = self.of(lease, epoch);
        let appended = append(&dir, offset, bytes).await;
        appended.map_err(|error| Refusal::internal("writing a console", &error))
    }

    /// The console from `offset` on, or from the oldest byte that is kept.
    ///
    /// # Errors
    ///
    /// Where the disk fails.
    pub(crate) async fn read(
        &self,
        lease: LeaseId,
        epoch: Epoch,
        offset: u64,
    ) -> Result<Part, Refusal> {
        let part = read(&self.of(lease, epoch), offset).await;
        part.map_err(|error| Refusal::internal("reading a console", &error))
    }

    fn of(&self, lease: LeaseId, epoch: Epoch) -> PathBuf {
        self.dir.join(format!("{lease}.{epoch}"))
    }
}

/// The segments in `dir`, oldest first.
async fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut entries = match fs::read_dir(dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut segments = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let Some(start) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let length = entry.metadata().await?.len();
        segments.push(Segment {
            start,
            length,
            path: entry.path(),
        });
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

async fn append(dir: &Path, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut segments = segments(dir).await?;
    let next = segments
        .last()
        .map_or(0, |last| last.start.saturating_add(last.length));
    let known = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
    let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) else {
        return Ok(next);
    };
    let start = offset.max(next);
    let open = segments
        .last()
        .filter(|last| last.length < SEGMENT_BYTES && start == next);
    let path = match open {
        Some(segment) => segment.path.clone(),
        None => {
            fs::create_dir_all(dir).await?;
            // So named, they sort by age in any listing.
            let path = dir.join(format!("{start:020}"));
            segments.push(Segment {
                start,
                length: 0,
                path: path.clone(),
            });
            path
        }
    };
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .await?;
    file.write_all(fresh).await?;
    file.flush().await?;
    let surplus = segments.len().saturating_sub(2);
    for old in segments.drain(..surplus) {
        fs::remove_file(old.path).await?;
    }
    Ok(start + fresh.len() as u64)
}

async fn read(dir: &Path, offset: u64) -> io::Result<Part> {
    let segments = segments(dir).await?;
    let end = segments
        .last()
        .map_or(0, |last| last.start.saturating_add(last.length));
    let holding = segments
        .iter()
        .find(|segment| offset < segment.start.saturating_add(segment.length));
    let Some(segment) = holding else {
        return Ok(Part {
            offset: end.min(offset),
            bytes: Bytes::new(),
            at_end: true,
        });
    };
    let from = offset.max(segment.start);
    let wanted = (segment.start + segment.length - from).min(MAX_READ);
    let mut file = match fs::File::open(&segment.path).await {
        Ok(file) => file,
        // Removed since it was listed: nothing now, older than what is kept next.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Part {
                offset,
                bytes: Bytes::new(),
                at_end: false,
            });
        }
        Err(error) => return Err(error),
    };
    file.seek(io::SeekFrom::Start(from - segment.start)).await?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes).await?;
    let at_end = from + bytes.len() as u64 >= end;
    Ok(Part {
        offset: from,
        bytes: bytes.into(),
        at_end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn repeated_bytes_are_kept_once_and_old_ones_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        assert_eq!(append(&path, 0, b"hello").await.unwrap(), 5);
        assert_eq!(append(&path, 3, b"lo, world").await.unwrap(), 12);
        assert_eq!(append(&path, 0, b"hello").await.unwrap(), 12);
        let part = read(&path, 5).await.unwrap();
        assert_eq!(
            (part.offset, &part.bytes[..], part.at_end),
            (5, &b", world"[..], true)
        );

        let block = vec![b'x'; MAX_UPLOAD];
        let mut next = 12;
        for _ in 0..4 {
            next = append(&path, next, &block).await.unwrap();
        }
        let kept = segments(&path).await.unwrap();
        let total: u64 = kept.iter().map(|segment| segment.length).sum();
        assert!((1 << 20..=3 << 20).contains(&total), "{total}");
        assert!(read(&path, 0).await.unwrap().offset > 0);
    }

    #[tokio::test]
    async fn an_absurd_offset_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let consoles = Consoles::new(dir.path().to_owned());
        let lease = LeaseId::new_v4();
        assert!(consoles.append(lease, 1, u64::MAX, b"x").await.is_err());
        assert_eq!(consoles.append(lease, 1, 0, b"x").await.unwrap(), 1);
    }

    #[tokio::test]
    async fn bytes_that_the_host_dropped_leave_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        append(&path, 0, b"one").await.unwrap();
        assert_eq!(append(&path, 100, b"two").await.unwrap(), 103);
        let part = read(&path, 3).await.unwrap();
        assert_eq!((part.offset, &part.bytes[..]), (100, &b"two"[..]));
    }
}
