//! Request bodies: nothing, bytes, or a stream of known or unknown length.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// What a request carries.
pub struct Body(Content);

enum Content {
    Bytes(Bytes),
    Stream(ByteStream, Option<u64>),
}

type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

impl Body {
    pub fn empty() -> Self {
        Self(Content::Bytes(Bytes::new()))
    }

    /// A body that is read as it is sent. `length` in bytes, where known,
    /// becomes the `Content-Length`.
    pub fn stream(
        chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        length: Option<u64>,
    ) -> Self {
        Self(Content::Stream(Box::pin(chunks), length))
    }

    /// The same body once more, where that is possible.
    pub(super) fn repeat(&self) -> Option<Self> {
        match &self.0 {
            Content::Bytes(bytes) => Some(Self(Content::Bytes(bytes.clone()))),
            Content::Stream(..) => None,
        }
    }

    pub(super) fn on_wire(self, progress: Progress) -> Wire {
        let (chunks, left) = match self.0 {
            Content::Bytes(bytes) => {
                let length = bytes.len() as u64;
                let chunk = (!bytes.is_empty()).then_some(Ok(bytes));
                (stream::iter(chunk).boxed(), Some(length))
            }
            Content::Stream(chunks, length) => (chunks, length),
        };
        Wire {
            chunks: Mutex::new(chunks),
            left,
            progress,
        }
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Content::Bytes(bytes.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Content::Stream(_, length) => write!(f, "Body(stream of {length:?} bytes)"),
        }
    }
}

/// When a request last moved.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(super) fn start() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A body on its way, noting that it moves.
pub(super) struct Wire {
    /// In a mutex that is never locked: the client wants it `Sync`.
    chunks: Mutex<ByteStream>,
    left: Option<u64>,
    progress: Progress,
}

impl hyper::body::Body for Wire {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let chunks = self
            .chunks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let chunk = std::task::ready!(chunks.as_mut().poll_next(context));
        self.progress.moved();
        if let (Some(left), Some(Ok(bytes))) = (self.left.as_mut(), &chunk) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({:?} bytes left)", self.left)
    }
}
