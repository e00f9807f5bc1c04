//! The marketplace's REST interface as the commands use it.
//!
//! What always holds: a request that may have been carried out is repeated
//! only if doing it twice is the same as doing it once; repeating ends after a
//! few attempts, because a person waits; the key goes to the one marketplace
//! whose certificate the given CA vouches for.

use std::path::Path;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use http::{HeaderMap, Method};
use indicatif::ProgressBar;
use serde::Serialize;
use serde::de::DeserializeOwned;
use surplus_protocol::api::{CONSOLE_ENDED, CONSOLE_OFFSET, Image};
use surplus_protocol::ids::LeaseId;

mod error;
mod transport;

pub(crate) use error::ApiError;
use transport::Transport;

use crate::config::Settings;
use crate::failure::Failure;

/// How long the marketplace may take to answer, waiting asked for apart.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The marketplace.
#[derive(Debug)]
pub(crate) struct Api {
    transport: Transport,
}

/// A piece of a guest's console.
#[derive(Debug)]
pub(crate) struct ConsolePart {
    /// The first byte's place in all that the guest has written.
    pub(crate) offset: u64,
    /// Nothing more will come.
    pub(crate) ended: bool,
    pub(crate) bytes: Bytes,
}

impl Api {
    /// Prepares connections; nothing is sent yet.
    pub(crate) fn connect(settings: Settings) -> Result<Self, Failure> {
        Ok(Self {
            transport: Transport::new(settings)?,
        })
    }

    pub(crate) fn url(&self) -> &str {
        self.transport.url()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.read(
            &self
                .repeated(Method::GET, path, TIMEOUT, backoff())
                .await?
                .1,
        )
    }

    /// The same for somebody who waits anyway: a marketplace that is started
    /// anew meanwhile does not end the wait.
    pub(crate) async fn poll<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.read(
            &self
                .repeated(Method::GET, path, TIMEOUT, patient())
                .await?
                .1,
        )
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.repeated(Method::DELETE, path, TIMEOUT, backoff())
            .await
            .map(drop)
    }

    /// A post that means the same when it is made twice.
    pub(crate) async fn post_again<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.read(
            &self
                .repeated(Method::POST, path, TIMEOUT, backoff())
                .await?
                .1,
        )
    }

    /// A post that makes something: repeated only while it certainly did not
    /// arrive.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Request {
            cause: error.to_string(),
        })?;
        let body = Bytes::from(body);
        let send = || {
            self.transport
                .exchange(Method::POST, path, Some(body.clone()), TIMEOUT)
        };
        let answer = send.retry(backoff()).when(ApiError::never_arrived).await;
        self.read(&answer.map_err(ApiError::of_something_made)?.1)
    }

    /// Console bytes from `offset` on; waits up to `wait` seconds for the
    /// first.
    pub(crate) async fn console(
        &self,
        lease: LeaseId,
        offset: u64,
        wait: u64,
    ) -> Result<ConsolePart, ApiError> {
        let path = format!("/leases/{lease}/console?offset={offset}&wait={wait}");
        let limit = TIMEOUT + Duration::from_secs(wait);
        let again = if wait > 0 { patient() } else { backoff() };
        let (headers, bytes) = self.repeated(Method::GET, &path, limit, again).await?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let offset = header(CONSOLE_OFFSET)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                self.strange(format!("a console without the header {CONSOLE_OFFSET}"))
            })?;
        Ok(ConsolePart {
            offset,
            ended: header(CONSOLE_ENDED) == Some("true"),
            bytes,
        })
    }

    /// Sends the file's `length` bytes as they are; `bar` counts them.
    pub(crate) async fn upload(
        &self,
        path: &str,
        file: &Path,
        length: u64,
        bar: &ProgressBar,
    ) -> Result<Image, ApiError> {
        let send = || async {
            bar.reset();
            self.transport.upload(path, file, length, bar).await
        };
        let (_, bytes) = send.retry(backoff()).when(ApiError::may_pass).await?;
        self.read(&bytes)
    }

    /// Gives bytes that the marketplace holds already another name, without
    /// sending them.
    pub(crate) async fn name_image(&self, path: &str) -> Result<Image, ApiError> {
        let (_, bytes) = self.repeated(Method::PUT, path, TIMEOUT, backoff()).await?;
        self.read(&bytes)
    }

    /// A request that may be repeated, as often as `again` says.
    async fn repeated(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
        again: ExponentialBuilder,
    ) -> Result<(HeaderMap, Bytes), ApiError> {
        let send = || self.transport.exchange(method.clone(), path, None, limit);
        send.retry(again).when(ApiError::may_pass).await
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ApiError> {
        serde_json::from_slice(bytes).map_err(|error| self.strange(error.to_string()))
    }

    fn strange(&self, cause: String) -> ApiError {
        ApiError::Strange {
            url: self.url().to_owned(),
            cause,
        }
    }
}

/// Four attempts within about three seconds.
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(300))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(3)
        .with_jitter()
}

/// A minute's worth of attempts.
fn patient() -> ExponentialBuilder {
    backoff()
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(12)
}

/// A name as one segment of a path.
pub(crate) fn path_segment(name: &str) -> String {
    query_value(name)
}

/// A text as a value in a query: all but unreserved characters (RFC 3986,
/// section 2.3) percent-encoded.
pub(crate) fn query_value(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_url() {
        assert_eq!(query_value("debian-13.2_x~"), "debian-13.2_x~");
        assert_eq!(path_segment("../keys?a=b&ä"), "..%2Fkeys%3Fa%3Db%26%C3%A4");
    }
}
