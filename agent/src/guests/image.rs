//! Guest images: fetched by content hash, verified while they stream, cached.
//!
//! What always holds: a file under its digest's name is whole and has that
//! digest, since it got the name only after it was verified and synced. What is
//! being fetched is called `.partial`, never grows beyond the length that the
//! ticket gives, and is taken up again where it broke off, also after the agent
//! was killed. What an image was converted to is called by its digest and format
//! and counts like it. Images that no lease uses go, least recently used first, when
//! the cache is full.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use surplus_protocol::Digest;
use surplus_protocol::lease::ImageFormat;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::uplink::{Uplink, UplinkError};

/// Connections in a row that may bring nothing, or too little, before a fetch gives
/// up.
const MAX_BARREN: u32 = 3;

/// How the name of a directory ends in which an image is converted.
pub const CONVERTING: &str = "converting";

/// How long a connection may bring nothing at all, and how slow it may be from its
/// beginning on, in bytes a second.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 16 << 10;

const TOO_SLOW: &str = "the marketplace sends too slowly";

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("fetching image {digest} failed")]
    Unreachable { digest: Digest, source: UplinkError },
    #[error("the marketplace does not give image {digest}")]
    Refused { digest: Digest, source: UplinkError },
    #[error("image {digest} ended after {got} of {expected} bytes")]
    Truncated {
        digest: Digest,
        got: u64,
        expected: u64,
    },
    #[error("image {digest} is longer than the {expected} bytes that the ticket gives")]
    TooLong { digest: Digest, expected: u64 },
    #[error("what was sent for image {expected} has the digest {got}")]
    Mismatch { expected: Digest, got: Digest },
    #[error(
        "the image cache holds at most {limit} bytes, and images in use leave no room for \
         {needed} more"
    )]
    NoRoom { limit: u64, needed: u64 },
    #[error("storing image {digest} failed")]
    Store { digest: Digest, source: io::Error },
}

/// The cache directory.
#[derive(Debug)]
pub struct ImageStore {
    dir: Utf8PathBuf,
    limit: Option<u64>,
    /// One fetch of an image at a time.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// The whole lengths of what is being fetched now.
    reserved: Mutex<HashMap<Digest, u64>>,
    /// Images that leases use.
    in_use: Mutex<BTreeSet<Digest>>,
}

impl ImageStore {
    /// The cache in `dir`, which exists; at most `limit` bytes where given.
    /// What an agent that died was converting goes.
    pub fn new(dir: Utf8PathBuf, limit: Option<u64>) -> Self {
        for entry in dir.read_dir_utf8().into_iter().flatten().flatten() {
            if entry.path().extension() == Some(CONVERTING)
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path(), "a half converted image stays");
            }
        }
        Self {
            dir,
            limit,
            fetching: Mutex::default(),
            reserved: Mutex::default(),
            in_use: Mutex::default(),
        }
    }

    /// Says which images leases use; those stay.
    pub fn keep(&self, digests: BTreeSet<Digest>) {
        *self.in_use.lock().unwrap_or_else(PoisonError::into_inner) = digests;
    }

    /// Waits until nobody else fetches or converts the image.
    pub async fn turn(&self, digest: Digest) -> Turn {
        let turn = {
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(fetching.entry(digest).or_default())
        };
        Turn {
            digest,
            _held: turn.lock_owned().await,
        }
    }

    /// Where an image of that format lies once it is converted.
    pub fn converted(&self, digest: Digest, format: ImageFormat) -> Utf8PathBuf {
        self.dir.join(format!("{}.{format}.qcow2", digest.to_hex()))
    }

    /// Whether a file of that image is there; it is used now.
    pub async fn is_there(&self, digest: Digest, path: &Utf8Path) -> Result<bool, ImageError> {
        let there = fs::try_exists(path).await;
        let there = there.map_err(|source| ImageError::Store { digest, source })?;
        if there {
            // The modification time says when it was last used.
            let touch = std::fs::File::options().append(true).open(path);
            let _ = touch.and_then(|file| file.set_modified(SystemTime::now()));
        }
        Ok(there)
    }

    /// The path of the whole, verified image, which is fetched where it is not
    /// cached. `progress` hears how many bytes are there.
    pub async fn fetch(
        &self,
        turn: &Turn,
        uplink: &dyn Uplink,
        bytes: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Utf8PathBuf, ImageError> {
        let digest = turn.digest;
        let path = self.dir.join(digest.to_hex());
        let store = |source| ImageError::Store { digest, source };
        if self.is_there(digest, &path).await? {
            return Ok(path);
        }
        let _room = self.reserve(digest, bytes)?;
        let partial = self.dir.join(format!("{}.partial", digest.to_hex()));
        let mut fetch = Fetch::resume(digest, bytes, &partial)
            .await
            .map_err(store)?;
        progress(fetch.got);
        let result = fetch.run(uplink, progress).await;
        if let Err(
            ImageError::Mismatch { .. } | ImageError::TooLong { .. } | ImageError::Refused { .. },
        ) = &result
        {
            fs::remove_file(&partial).await.map_err(store)?;
        }
        result?;
        fs::rename(&partial, &path).await.map_err(store)?;
        Ok(path)
    }

    /// Keeps room for an image until the answer is dropped, and removes unused
    /// images, oldest first, until it fits beside all that is being fetched.
    pub fn reserve(&self, digest: Digest, bytes: u64) -> Result<Reservation<'_>, ImageError> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(digest, bytes, &reserved)?;
        reserved.insert(digest, bytes);
        Ok(Reservation {
            digest,
            reserved: &self.reserved,
        })
    }

    fn make_room(
        &self,
        digest: Digest,
        needed: u64,
        reserved: &HashMap<Digest, u64>,
    ) -> Result<(), ImageError> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        // What is on its way in counts whole, and not by what came of it so far.
        let coming: BTreeSet<_> = reserved
            .keys()
            .chain([&digest])
            .map(Digest::to_hex)
            .collect();
        let mut images = self.cached();
        images.retain(|image| !coming.contains(image.digest()));
        images.sort_by_key(|image| image.used);
        let files = images.iter().map(|image| image.bytes);
        let mut total = files
            .chain(reserved.values().copied())
            .fold(0, u64::saturating_add);
        let in_use = self
            .in_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let in_use: BTreeSet<_> = in_use.iter().map(Digest::to_hex).collect();
        for image in images {
            if total.saturating_add(needed) <= limit {
                break;
            }
            let name = image.digest();
            if !in_use.contains(name) && std::fs::remove_file(&image.path).is_ok() {
                tracing::info!(image = name, "removed from the image cache to make room");
                total -= image.bytes;
            }
        }
        if total.saturating_add(needed) <= limit {
            Ok(())
        } else {
            Err(ImageError::NoRoom { limit, needed })
        }
    }

    fn cached(&self) -> Vec<Cached> {
        let Ok(entries) = self.dir.read_dir_utf8() else {
            return Vec::new();
        };
        let cached = entries.filter_map(Result::ok).filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(Cached {
                path: entry.path().to_owned(),
                bytes: metadata.len(),
                used: metadata.modified().ok()?,
            })
        });
        cached.collect()
    }
}

/// The right to fetch and convert an image, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    digest: Digest,
    _held: tokio::sync::OwnedMutexGuard<()>,
}

impl Turn {
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Room in the cache that a fetch has for itself, also when it is dropped half
/// way.
#[derive(Debug)]
pub struct Reservation<'a> {
    digest: Digest,
    reserved: &'a Mutex<HashMap<Digest, u64>>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.remove(&self.digest);
    }
}

struct Cached {
    path: Utf8PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cached {
    /// What its name begins with, whatever of the image it is.
    fn digest(&self) -> &str {
        let name = self.path.file_name().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }
}

/// One image on its way in.
struct Fetch {
    digest: Digest,
    expected: u64,
    got: u64,
    hash: Sha256,
    file: File,
}

impl Fetch {
    /// Takes up what an earlier fetch left; its bytes are hashed again.
    async fn resume(digest: Digest, expected: u64, partial: &Utf8Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(partial).await?;
        // Readable by every guest's QEMU, whatever the umask; it is the buyers'
        // disks that are not.
        let readable = std::fs::Permissions::from_mode(0o644);
        file.set_permissions(readable).await?;
        if file.metadata().await?.len() > expected {
            file.set_len(0).await?;
        }
        let (mut got, mut hash) = (0, Sha256::new());
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = file.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            got += count as u64;
        }
        Ok(Self {
            digest,
            expected,
            got,
            hash,
            file,
        })
    }

    async fn run(
        &mut self,
        uplink: &dyn Uplink,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let mut barren = 0;
        while self.got < self.expected {
            let before = self.got;
            let broken = self.stream(uplink, progress).await?;
            let slow = broken.as_ref().is_some_and(|error| error.what == TOO_SLOW);
            if self.got > before && !slow {
                barren = 0;
                continue;
            }
            barren += 1;
            if barren >= MAX_BARREN {
                let (digest, got, expected) = (self.digest, self.got, self.expected);
                return Err(match broken {
                    Some(source) => ImageError::Unreachable { digest, source },
                    None => ImageError::Truncated {
                        digest,
                        got,
                        expected,
                    },
                });
            }
        }
        let got = Digest::from_sha256(self.hash.clone().finalize().into());
        if got != self.digest {
            return Err(ImageError::Mismatch {
                expected: self.digest,
                got,
            });
        }
        let digest = self.digest;
        self.file
            .sync_all()
            .await
            .map_err(|source| ImageError::Store { digest, source })
    }

    /// One connection: takes what it brings. `Ok(None)` when it ended by
    /// itself, `Ok(Some)` when it broke in a way that can be tried again.
    async fn stream(
        &mut self,
        uplink: &dyn Uplink,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<UplinkError>, ImageError> {
        let digest = self.digest;
        let broken = |source: UplinkError| {
            if source.retryable {
                Ok(Some(source))
            } else {
                Err(ImageError::Refused { digest, source })
            }
        };
        let (begun, before) = (Instant::now(), self.got);
        let too_slow = || UplinkError {
            what: TOO_SLOW.to_owned(),
            retryable: true,
        };
        let opened = tokio::time::timeout(PATIENCE, uplink.image(digest, self.got)).await;
        let mut stream = match opened.unwrap_or_else(|_| Err(too_slow())) {
            Ok(stream) => stream,
            Err(error) => return broken(error),
        };
        loop {
            let brought = Duration::from_secs((self.got - before) / SLOWEST);
            let deadline = begun + PATIENCE + brought;
            let next = tokio::time::timeout_at(deadline, stream.next()).await;
            let Some(chunk) = next.unwrap_or_else(|_| Some(Err(too_slow()))) else {
                break;
            };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.flush().await?;
                    return broken(error);
                }
            };
            if chunk.len() as u64 > self.expected - self.got {
                return Err(ImageError::TooLong {
                    digest,
                    expected: self.expected,
                });
            }
            self.hash.update(&chunk);
            let written = self.file.write_all(&chunk).await;
            written.map_err(|source| ImageError::Store { digest, source })?;
            self.got += chunk.len() as u64;
            progress(self.got);
        }
        self.flush().await?;
        Ok(None)
    }

    async fn flush(&mut self) -> Result<(), ImageError> {
        let digest = self.digest;
        self.file
            .flush()
            .await
            .map_err(|source| ImageError::Store { digest, source })
    }
}

#[cfg(test)]
mod tests;
