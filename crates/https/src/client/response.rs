//! Answers: head first, body as it comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use surplus_protocol::{Problem, problem};

use super::error::ClientError;

/// Longest JSON or refusal that is taken in, in bytes.
const MAX_DOCUMENT: usize = 64 << 20;

/// How much of a refusal without a problem document is shown, in characters.
const MAX_EXCERPT: usize = 200;

/// An answer with a 2xx status whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    url: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    timeout: Duration,
}

impl Response {
    pub(super) fn new(url: String, answer: http::Response<Incoming>, timeout: Duration) -> Self {
        let (head, body) = answer.into_parts();
        Self {
            url,
            status: head.status,
            headers: head.headers,
            body,
            timeout,
        }
    }

    /// Turns refusals into errors.
    pub(super) async fn accept(mut self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let retry_after = self.retry_after();
        let document = self
            .header(&header::CONTENT_TYPE)
            .is_some_and(|t| t.starts_with(problem::MEDIA_TYPE));
        // The refusal stands, whatever becomes of its explanation.
        let body = self.read(MAX_DOCUMENT).await.unwrap_or_default();
        if document && let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return Err(ClientError::Problem {
                problem,
                retry_after,
            });
        }
        let text = String::from_utf8_lossy(&body)
            .trim()
            .chars()
            .take(MAX_EXCERPT)
            .collect();
        Err(ClientError::Status {
            url: self.url,
            status: self.status,
            text,
            retry_after,
        })
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header's value, where it is text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The server's time when it answered (`Date`), to a second.
    pub fn date(&self) -> Option<Timestamp> {
        let text = self.header(&header::DATE)?;
        jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(text)
            .ok()
    }

    /// How long the server asks to wait (`Retry-After` in seconds).
    pub fn retry_after(&self) -> Option<Duration> {
        self.header(&header::RETRY_AFTER)?
            .trim()
            .parse()
            .ok()
            .map(Duration::from_secs)
    }

    /// Where the body starts within the whole: 0, or what `Content-Range` says.
    pub fn offset(&self) -> u64 {
        self.content_range().map_or(0, |(start, _)| start)
    }

    /// Length of the whole in bytes, where the server said it.
    pub fn total_length(&self) -> Option<u64> {
        match self.content_range() {
            Some((_, total)) => total,
            None => self.header(&header::CONTENT_LENGTH)?.parse().ok(),
        }
    }

    fn content_range(&self) -> Option<(u64, Option<u64>)> {
        if self.status != StatusCode::PARTIAL_CONTENT {
            return None;
        }
        let range = self
            .header(&header::CONTENT_RANGE)?
            .strip_prefix("bytes ")?;
        let (range, total) = range.split_once('/')?;
        let (start, _) = range.split_once('-')?;
        Some((start.parse().ok()?, total.parse().ok()))
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = tokio::time::timeout(self.timeout, self.body.frame())
                .await
                .map_err(|_| ClientError::Timeout {
                    url: self.url.clone(),
                    seconds: self.timeout.as_secs(),
                })?;
            match frame.transpose().map_err(|source| ClientError::Transport {
                url: self.url.clone(),
                source: source.into(),
            })? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The body piece by piece.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ClientError>> + Send {
        stream::try_unfold(self, |mut response| async move {
            Ok(response.chunk().await?.map(|chunk| (chunk, response)))
        })
    }

    /// The whole body, at most `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, ClientError> {
        self.read(limit).await
    }

    /// The whole body as JSON.
    pub async fn json<T: DeserializeOwned>(mut self) -> Result<T, ClientError> {
        let body = self.read(MAX_DOCUMENT).await?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode {
            url: self.url,
            source: source.into(),
        })
    }

    async fn read(&mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(ClientError::TooLong {
                    url: self.url.clone(),
                    limit,
                });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}
