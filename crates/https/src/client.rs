//! The client: one marketplace under one or several base URLs, one trust, at
//! most one identity.
//!
//! Changing the identity or the trust means building another client, for
//! pooled connections keep what they were opened with. A request whose
//! connection could not be opened was not sent and is tried on the next base
//! URL; any other failure is the caller's to repeat.

mod body;
mod builder;
mod connect;
mod dial;
mod error;
mod response;
mod time;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use body::Body;
pub use builder::{BuildError, Builder};
pub use error::ClientError;
pub use response::Response;
pub use time::{TimeError, server_time};
pub use trust::PinMismatch;
pub use trust::Trust;

use body::{Progress, Wire};
use connect::Connector;

/// An HTTP client of one marketplace. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    http: hyper_util::client::legacy::Client<Connector, Wire>,
    /// Shuffled, never empty, each without a slash at its end.
    bases: Vec<String>,
    /// The base that answered last.
    current: AtomicUsize,
    headers: HeaderMap,
}

impl Client {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same client with another limit on silence: how long a request may
    /// go without progress (body bytes sent, head received, body bytes
    /// received). A long poll wants its wait and some more.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            timeout,
        }
    }

    /// `GET path`, the answer as JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, accept_json(), Body::empty())
            .await?
            .json()
            .await
    }

    /// `POST body` to `path` as JSON, the answer as JSON.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ClientError::Encode { source })?;
        let mut headers = accept_json();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        self.request(Method::POST, path, headers, Body::from(body))
            .await?
            .json()
            .await
    }

    /// `GET path` from byte `from` on. [`Response::offset`] says where the
    /// answer really starts: a server without ranges starts at 0.
    pub async fn download(&self, path: &str, from: u64) -> Result<Response, ClientError> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(header::RANGE, number(format!("bytes={from}-")));
        }
        self.request(Method::GET, path, headers, Body::empty())
            .await
    }

    /// Sends a request and waits for the head of the answer. `path` starts
    /// with a slash and may have a query. Any status but 2xx is an error.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response, ClientError> {
        let shared = &*self.shared;
        let bases = shared.bases.len();
        let start = shared.current.load(Ordering::Relaxed);
        let mut body = Some(body);
        let mut last = None;
        for at in (0..bases).map(|step| (start + step) % bases) {
            let url = format!("{}{path}", shared.bases[at]);
            // A streamed body can be sent once only.
            let repeat = body.as_ref().and_then(Body::repeat);
            let Some(current) = std::mem::replace(&mut body, repeat) else {
                break;
            };
            match self.send(&method, &url, &headers, current).await {
                Err(error) if error.is_unsent() => last = Some(error),
                answer => {
                    shared.current.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        // `bases` is never empty, so there is a last error.
        Err(last.unwrap_or(ClientError::Url {
            url: path.to_owned(),
        }))
    }

    async fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ClientError> {
        let invalid = || ClientError::Url {
            url: url.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let progress = Progress::start();
        let mut request = Request::new(body.on_wire(progress.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        request.headers_mut().extend(self.shared.headers.clone());
        request.headers_mut().extend(headers.clone());
        let mut answer = std::pin::pin!(self.shared.http.request(request));
        loop {
            let deadline = progress.last() + self.timeout;
            match tokio::time::timeout_at(deadline, answer.as_mut()).await {
                Ok(Ok(answer)) => {
                    return Response::new(url.to_owned(), answer, self.timeout)
                        .accept()
                        .await;
                }
                Ok(Err(source)) => return Err(ClientError::transport(url, source)),
                Err(_) if progress.last() + self.timeout > Instant::now() => {}
                Err(_) => {
                    let seconds = self.timeout.as_secs();
                    return Err(ClientError::Timeout {
                        url: url.to_owned(),
                        seconds,
                    });
                }
            }
        }
    }
}

fn accept_json() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

/// A header value of digits and ASCII words.
fn number(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("0"))
}
