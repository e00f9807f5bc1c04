//! The list of what is served, and the answer to one request.

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::range::{self, Wanted};
use crate::transfer::{Observer, Transfer};

/// A body of an answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes that are read and sent at a time.
const CHUNK: usize = 256 * 1024;

/// What is served: names, and where each one's bytes are.
#[derive(Clone, Debug, Default)]
pub struct Artefacts(BTreeMap<String, Content>);

#[derive(Clone, Debug)]
enum Content {
    /// Opened anew for each request.
    File(PathBuf),
    Made {
        bytes: Bytes,
        /// A strong validator, with its quotes.
        tag: String,
    },
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot read the artefact {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no file", path.display())]
    NotFile { path: PathBuf },
}

impl Artefacts {
    /// Serves `names` of `directory`.
    ///
    /// # Errors
    ///
    /// Where one of them is missing or cannot be read.
    pub fn open(directory: &Path, names: &[&str]) -> Result<Self, OpenError> {
        let mut files = BTreeMap::new();
        for name in names {
            let path = directory.join(name);
            let metadata = std::fs::File::open(&path).and_then(|file| file.metadata());
            let metadata = metadata.map_err(|source| OpenError::Read {
                path: path.clone(),
                source,
            })?;
            if !metadata.is_file() {
                return Err(OpenError::NotFile { path });
            }
            files.insert((*name).to_owned(), Content::File(path));
        }
        Ok(Self(files))
    }

    /// Serves `bytes` under `name`, instead of a file where one has that name.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let sum = hex::encode(&Sha256::digest(&bytes)[..16]);
        let tag = format!("\"{sum}\"");
        let made = Content::Made { bytes, tag };
        self.0.insert(name.to_owned(), made);
        self
    }

    /// Answers one request.
    pub async fn answer<B>(
        &self,
        request: &Request<B>,
        peer: SocketAddr,
        observer: &Arc<dyn Observer>,
    ) -> Response<Body> {
        let name = request.uri().path().trim_start_matches('/');
        let Some(content) = self.0.get(name) else {
            let there: Vec<_> = self.0.keys().map(String::as_str).collect();
            let text = format!("no such file; there are: {}\n", there.join(" "));
            return refuse(StatusCode::NOT_FOUND, text);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD\n".to_owned());
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(header::ALLOW, allowed);
            return answer;
        }
        let opened = match Opened::open(content).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(name, %error, "cannot read an artefact");
                let text = format!("{name} cannot be read now\n");
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        };
        let transfer = Transfer {
            peer,
            name: name.to_owned(),
            user_agent: text(request.headers(), header::USER_AGENT).map(str::to_owned),
            first: 0,
            total: opened.length,
        };
        respond(request, opened, transfer, observer).await
    }
}

/// An artefact as it is now.
struct Opened {
    /// None: it was made in memory.
    file: Option<File>,
    made: Bytes,
    length: u64,
    /// A strong validator, with its quotes.
    tag: String,
}

impl Opened {
    async fn open(content: &Content) -> io::Result<Self> {
        match content {
            Content::Made { bytes, tag } => Ok(Self {
                file: None,
                made: bytes.clone(),
                length: bytes.len() as u64,
                tag: tag.clone(),
            }),
            Content::File(path) => {
                let file = File::open(path).await?;
                let metadata = file.metadata().await?;
                Ok(Self {
                    file: Some(file),
                    made: Bytes::new(),
                    length: metadata.len(),
                    tag: format!(
                        "\"{:x}-{:x}-{:x}.{:x}\"",
                        metadata.ino(),
                        metadata.len(),
                        metadata.mtime(),
                        metadata.mtime_nsec()
                    ),
                })
            }
        }
    }

    /// The bytes from `first` on, `count` of them.
    async fn stream(
        self,
        first: u64,
        count: u64,
    ) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let Some(mut file) = self.file else {
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let mut rest = self.made.slice(index(first)..index(first + count));
            let chunks = std::iter::from_fn(move || {
                let chunk = rest.split_to(rest.len().min(CHUNK));
                (!chunk.is_empty()).then_some(Ok(chunk))
            });
            return Ok(stream::iter(chunks).left_stream());
        };
        file.seek(SeekFrom::Start(first)).await?;
        Ok(ReaderStream::with_capacity(file.take(count), CHUNK).right_stream())
    }
}

async fn respond<B>(
    request: &Request<B>,
    opened: Opened,
    mut transfer: Transfer,
    observer: &Arc<dyn Observer>,
) -> Response<Body> {
    let headers = request.headers();
    let length = opened.length;
    if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &opened.tag)) {
        let mut answer = Response::new(empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        insert(answer.headers_mut(), header::ETAG, &opened.tag);
        return answer;
    }
    // A resumed transfer of a file that was replaced meanwhile begins anew.
    let same = text(headers, header::IF_RANGE).is_none_or(|tag| tag.trim() == opened.tag);
    let wanted = match text(headers, header::RANGE).filter(|_| same) {
        Some(range) => range::wanted(Some(range), length),
        None => Wanted::Whole,
    };
    let mut answer = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &opened.tag)
        .header(header::CONTENT_TYPE, content_type(&transfer.name));
    let (first, count) = match wanted {
        Wanted::Whole => (0, length),
        Wanted::Part(first, last) => {
            let range = format!("bytes {first}-{last}/{length}");
            answer = answer
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, range);
            (first, last - first + 1)
        }
        Wanted::Nothing => {
            let mut answer = refuse(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("{} has {length} bytes\n", transfer.name),
            );
            let range = format!("bytes */{length}");
            insert(answer.headers_mut(), header::CONTENT_RANGE, &range);
            return answer;
        }
    };
    answer = answer.header(header::CONTENT_LENGTH, count);
    let body = if request.method() == Method::HEAD {
        empty()
    } else {
        transfer.first = first;
        match opened.stream(first, count).await {
            Ok(stream) => watched(stream, transfer, observer),
            Err(error) => {
                tracing::error!(name = transfer.name, %error, "cannot read an artefact");
                let text = format!("{} cannot be read now\n", transfer.name);
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        }
    };
    answer
        .body(body)
        .unwrap_or_else(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
}

/// The body of `stream`, its progress told to the observer.
fn watched(
    stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    transfer: Transfer,
    observer: &Arc<dyn Observer>,
) -> Body {
    let observer = observer.clone();
    observer.begun(&transfer);
    let mut position = transfer.first;
    let frames = stream.map_ok(move |chunk| {
        position += chunk.len() as u64;
        observer.sent(&transfer, position);
        Frame::data(chunk)
    });
    http_body_util::BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn matches(tags: &str, tag: &str) -> bool {
    tags.split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == "*" || one == tag)
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// UEFI looks at the type where the name does not say enough.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, kind)| kind) {
        Some("efi") => "application/efi",
        Some("ipxe") => "text/plain; charset=utf-8",
        _ if name == crate::sums::FILE => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn refuse(status: StatusCode, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut answer = Response::new(http_body_util::BodyExt::boxed_unsync(body));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

fn empty() -> Body {
    let body = http_body_util::Empty::new().map_err(|never| match never {});
    http_body_util::BodyExt::boxed_unsync(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tag_of_what_was_made_is_computed_once_and_is_that_of_the_bytes() {
        let made = Artefacts::default().with("one", "1").with("two", "2");
        let mut tags = Vec::new();
        for name in ["one", "two"] {
            let Content::Made { bytes, tag } = &made.0[name] else {
                panic!("{name} was made");
            };
            let sum = hex::encode(Sha256::digest(bytes));
            assert_eq!(tag, &format!("\"{}\"", &sum[..32]));
            let request = Request::get(format!("/{name}")).body(()).unwrap();
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            let nobody: Arc<dyn Observer> = Arc::new(());
            let answer = made.answer(&request, peer, &nobody).await;
            assert_eq!(answer.headers()[header::ETAG], tag.as_str());
            tags.push(tag);
        }
        assert_ne!(tags[0], tags[1]);
    }
}
