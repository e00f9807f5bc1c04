//! Guest images by content hash, as files.
//!
//! What always holds: a file under its digest's name is whole and has that
//! digest. An upload goes to a file of its own, is hashed while it is written,
//! and is removed where anything is wrong with it.

mod content;
mod pace;
mod range;
mod tidy;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::Digest as _;
use surplus_protocol::Digest;
use surplus_protocol::ids::KeyId;
use surplus_protocol::lease::ImageFormat;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};
use tokio_util::io::ReaderStream;

pub(crate) use content::Content;
pub(crate) use tidy::tidy;

use self::pace::Pace;
use crate::limits::Limits;
use crate::refusal::Refusal;

/// Marks what was not finished when the process ended.
const UPLOAD_PREFIX: &str = ".upload-";

/// How often, in bytes, an upload asks for the space left.
const ASK_EVERY: u64 = 16 << 20;

/// The image store.
#[derive(Debug)]
pub(crate) struct Images {
    dir: PathBuf,
    max_bytes: u64,
    limits: Limits,
    /// Bytes of each key's uploads that are under way.
    under_way: Mutex<BTreeMap<KeyId, u64>>,
    /// Held by whoever brings files and names together: no file is removed
    /// between its arrival and its name.
    pub(crate) shelf: tokio::sync::Mutex<()>,
}

/// Who uploads, and what its key may still store; none: as much as it wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uploader {
    pub key: KeyId,
    pub room: Option<u64>,
}

/// A received file that has its digest. Removed unless it is kept.
#[derive(Debug)]
pub(crate) struct Received {
    upload: Upload,
    pub content: Content,
}

/// A file that is removed unless it is kept.
#[derive(Debug)]
struct Upload {
    path: PathBuf,
    kept: bool,
}

/// A key's bytes under way, given back at the end.
struct UnderWay<'a> {
    images: &'a Images,
    by: Uploader,
    bytes: u64,
}

impl UnderWay<'_> {
    /// Counts bytes that came. Refuses what is more than the key may store.
    fn grow(&mut self, bytes: u64) -> Result<(), Refusal> {
        let mut under_way = self.images.under_way();
        let all = under_way.entry(self.by.key).or_default();
        *all += bytes;
        self.bytes += bytes;
        match self.by.room.filter(|room| *all > *room) {
            Some(room) => Err(used_up(format!(
                "{room} bytes are left of what it may store"
            ))),
            None => Ok(()),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.images.under_way();
        if let Some(all) = under_way.get_mut(&self.by.key) {
            *all = all.saturating_sub(self.bytes);
            if *all == 0 {
                under_way.remove(&self.by.key);
            }
        }
    }
}

fn too_slow(bytes: u64) -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "slow-upload",
        "The upload is too slow",
        format!("after {bytes} bytes no more came in time"),
        "upload the image anew over a faster connection, or a smaller one",
    )
}

/// The key may store no more.
pub(crate) fn used_up(detail: String) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "image-space",
        "The key's space for images is used up",
        detail,
        "delete an image that is not needed: surplus image delete NAME",
    )
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove an upload");
        }
    }
}

impl Images {
    /// Images of at most `max_bytes` each in `dir`, which exists. Unfinished
    /// uploads of an earlier run are removed.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be used.
    pub(crate) fn open(dir: PathBuf, max_bytes: u64, limits: Limits) -> io::Result<Self> {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(UPLOAD_PREFIX)
            {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            dir,
            max_bytes,
            limits,
            under_way: Mutex::default(),
            shelf: tokio::sync::Mutex::default(),
        })
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, BTreeMap<KeyId, u64>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an upload in: whole, with that digest, and of a kind that hosts
    /// can run. Nothing of a refused one stays.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) async fn receive(
        &self,
        by: Uploader,
        digest: Digest,
        declared: Option<ImageFormat>,
        body: Body,
    ) -> Result<Received, Refusal> {
        let name = format!("{UPLOAD_PREFIX}{}", uuid::Uuid::new_v4());
        let upload = Upload {
            path: self.dir.join(name),
            kept: false,
        };
        let mut under_way = UnderWay {
            images: self,
            by,
            bytes: 0,
        };
        let actual = self.write(&mut under_way, &upload.path, body).await?;
        if actual != digest {
            return Err(Refusal::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "digest-mismatch",
                "The image is not what it is called",
                format!("the bytes received have digest {actual}, the path says {digest}"),
                "compute the file's SHA-256 again, and upload it anew",
            ));
        }
        let content = content::examine(&upload.path, declared).await?;
        Ok(Received { upload, content })
    }

    /// Puts a received file under its digest's name. The caller holds the
    /// shelf and gives the image a name.
    ///
    /// # Errors
    ///
    /// Where the disk fails.
    pub(crate) async fn keep(&self, digest: Digest, mut received: Received) -> Result<(), Refusal> {
        let keep = async {
            fs::rename(&received.upload.path, self.path(digest)).await?;
            File::open(&self.dir).await?.sync_all().await
        };
        keep.await
            .map_err(|error| Refusal::internal("keeping an image", &error))?;
        received.upload.kept = true;
        Ok(())
    }

    /// Refuses an upload that the disk has no room for.
    fn ask_for_space(&self) -> Result<(), Refusal> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|error| Refusal::internal("asking for free space", &error))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free >= self.limits.free_bytes.saturating_add(ASK_EVERY) {
            return Ok(());
        }
        tracing::error!(free, keep = self.limits.free_bytes, "no space for images");
        Err(Refusal::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "disk-full",
            "The marketplace has no space left for images",
            "its disk is as full as it may be",
            "delete images that are not needed, or ask the operator for a larger disk",
        ))
    }

    /// Writes the body to `path` and says what its digest is.
    async fn write(
        &self,
        under_way: &mut UnderWay<'_>,
        path: &Path,
        body: Body,
    ) -> Result<Digest, Refusal> {
        self.ask_for_space()?;
        let failed = |error: io::Error| Refusal::internal("writing an image", &error);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .await;
        let mut file = BufWriter::with_capacity(1 << 20, file.map_err(failed)?);
        let mut hash = sha2::Sha256::new();
        let mut length = 0_u64;
        let mut body = body.into_data_stream();
        let pace = Pace::begin();
        loop {
            let next = tokio::time::timeout_at(pace.deadline(length), body.next());
            let Some(piece) = next.await.map_err(|_| too_slow(length))? else {
                break;
            };
            let piece = piece.map_err(|error| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "truncated-upload",
                    "The upload broke off",
                    format!("the body ended early after {length} bytes: {error}"),
                    "upload the image anew",
                )
            })?;
            let asked = length / ASK_EVERY;
            length += piece.len() as u64;
            under_way.grow(piece.len() as u64)?;
            if length / ASK_EVERY > asked {
                self.ask_for_space()?;
            }
            if length > self.max_bytes {
                return Err(Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "image-too-large",
                    "The image is too large",
                    format!("an image may have {} bytes at most", self.max_bytes),
                    "make a smaller one: a sparse qcow2 file, for instance",
                ));
            }
            hash.update(&piece);
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        file.get_ref().sync_all().await.map_err(failed)?;
        Ok(Digest::from_sha256(hash.finalize().into()))
    }

    /// Sends an image, or the range of it that is asked for.
    ///
    /// # Errors
    ///
    /// Where there is no such image or range.
    pub(crate) async fn send(
        &self,
        digest: Digest,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let failed = |error: io::Error| Refusal::internal("reading an image", &error);
        let mut file = match File::open(self.path(digest)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Refusal::not_found(format!("image {digest}")));
            }
            Err(error) => return Err(failed(error)),
        };
        let length = file.metadata().await.map_err(failed)?.len();
        let asked = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok());
        let range = range::parse(asked, length)?;
        let mut out = HeaderMap::new();
        let octets = HeaderValue::from_static("application/octet-stream");
        out.insert(header::CONTENT_TYPE, octets);
        out.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let (status, start, sent) = match range {
            None => (StatusCode::OK, 0, length),
            Some((first, last)) => {
                let text = format!("bytes {first}-{last}/{length}");
                if let Ok(value) = HeaderValue::from_str(&text) {
                    out.insert(header::CONTENT_RANGE, value);
                }
                (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
            }
        };
        out.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
        file.seek(io::SeekFrom::Start(start))
            .await
            .map_err(failed)?;
        let body = Body::from_stream(ReaderStream::with_capacity(file.take(sent), 256 << 10));
        Ok((status, out, body).into_response())
    }

    /// The images that are here as files.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be read.
    pub(crate) async fn files(&self) -> io::Result<BTreeSet<Digest>> {
        let mut files = BTreeSet::new();
        let mut entries = fs::read_dir(&self.dir).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            files.extend(name.parse::<Digest>().ok());
        }
        Ok(files)
    }

    /// Removes the file of an image that nothing needs.
    pub(crate) async fn remove(&self, digest: Digest) {
        match fs::remove_file(self.path(digest)).await {
            Ok(()) => tracing::info!(%digest, "image removed"),
            Err(error) => tracing::warn!(%error, %digest, "cannot remove an image"),
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_hex())
    }
}

#[cfg(test)]
mod tests;
