//! What a handler left unread of a request.
//!
//! A refusal often comes before the body was read. To send it and drop the rest
//! resets the stream (HTTP/2) or the connection (HTTP/1), and some clients, curl
//! 7.88 among them, then lose the answer. So a short rest is read first.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// How much is read at most, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// How long it is read at most.
const MAX_TIME: Duration = Duration::from_secs(2);

/// A request's body, which gives back what was left of it.
pub(super) struct Returning {
    body: Option<Incoming>,
    to: Option<oneshot::Sender<Incoming>>,
}

/// Where the rest of a body arrives.
pub(super) struct Leftover(oneshot::Receiver<Incoming>);

pub(super) fn returning(body: Incoming) -> (Returning, Leftover) {
    let (to, from) = oneshot::channel();
    let returning = Returning {
        body: Some(body),
        to: Some(to),
    };
    (returning, Leftover(from))
}

impl Leftover {
    /// Reads a short rest. A body that is still being read is left alone.
    pub(super) async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        let reading = async {
            let mut read = 0;
            while read <= MAX_BYTES {
                match body.frame().await {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => break,
                }
            }
        };
        // A rest that is longer or slower is reset, as it would have been.
        let _ = tokio::time::timeout(MAX_TIME, reading).await;
    }
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.body.as_mut() {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let (Some(body), Some(to)) = (self.body.take(), self.to.take())
            && !body.is_end_stream()
        {
            // Nobody waits where the connection is gone.
            let _ = to.send(body);
        }
    }
}
