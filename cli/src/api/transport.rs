//! Requests on the wire: trust, key, troubles told apart.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use indicatif::ProgressBar;
use secrecy::ExposeSecret as _;
use surplus_https::{Body, Client, ClientError, Trust};
use surplus_pki::Certificate;
use surplus_protocol::Digest;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::error::{ApiError, Trouble, bare_refusal};
use crate::config::{CaSource, Settings};
use crate::failure::Failure;

/// Longest answer that is taken in, in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// How much of a file is read and sent at once, in bytes.
const CHUNK: usize = 256 << 10;

/// The way to one marketplace.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client,
    url: String,
}

impl Transport {
    pub(super) fn new(settings: Settings) -> Result<Self, Failure> {
        let builder = Client::builder()
            .url(format!("{}/api/v1", settings.url))
            .trust(trust(&settings.ca)?)
            .connect_timeout(Duration::from_secs(10));
        let unusable = |error: surplus_https::client::BuildError| {
            Failure::new(
                format!("a connection cannot be prepared: {}", chain(&error)),
                "check SURPLUS_URL",
            )
        };
        let builder = match &settings.token {
            Some(token) => builder.bearer(token.expose_secret()).map_err(unusable)?,
            None => builder,
        };
        Ok(Self {
            client: builder.build().map_err(unusable)?,
            url: settings.url,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// One request, the whole answer. `limit` bounds silence.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        json: Option<Bytes>,
        limit: Duration,
    ) -> Result<(HeaderMap, Bytes), ApiError> {
        let mut headers = HeaderMap::new();
        if json.is_some() {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        }
        let body = json.map_or_else(Body::empty, Body::from);
        self.send(method, path, headers, body, limit).await
    }

    /// Sends a file as it is read.
    pub(super) async fn upload(
        &self,
        path: &str,
        file: &Path,
        length: u64,
        bar: &ProgressBar,
    ) -> Result<(HeaderMap, Bytes), ApiError> {
        let unreadable = |error: io::Error| ApiError::File {
            file: file.display().to_string(),
            cause: error.to_string(),
        };
        let reader = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let counter = bar.clone();
        // A file that grows meanwhile is sent as it was announced; its hash tells.
        let chunks = ReaderStream::with_capacity(reader.take(length), CHUNK)
            .inspect_ok(move |chunk: &Bytes| counter.inc(chunk.len() as u64));
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        )]);
        // After the last byte the marketplace checks and stores the whole.
        let limit = Duration::from_secs(120);
        self.send(
            Method::PUT,
            path,
            headers,
            Body::stream(chunks, Some(length)),
            limit,
        )
        .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
        limit: Duration,
    ) -> Result<(HeaderMap, Bytes), ApiError> {
        let client = self.client.with_timeout(limit);
        let answer = client
            .request(method, path, headers, body)
            .await
            .map_err(|error| self.told_apart(error))?;
        let headers = answer.headers().clone();
        let bytes = answer
            .bytes(MAX_ANSWER)
            .await
            .map_err(|error| self.told_apart(error))?;
        Ok((headers, bytes))
    }

    fn told_apart(&self, error: ClientError) -> ApiError {
        let unreachable = |cause: String, trouble, sent| ApiError::Unreachable {
            url: self.url.clone(),
            cause,
            trouble,
            sent,
            made: false,
        };
        match error {
            ClientError::Problem { problem, .. } => ApiError::Refused(Box::new(problem)),
            ClientError::Status { status, text, .. } => {
                ApiError::Refused(Box::new(without_problem(status, &text)))
            }
            ClientError::Untrusted { reason, .. } => unreachable(reason, Trouble::Trust, false),
            ClientError::Connect { source, .. } => {
                let (trouble, cause) = connecting(&*source);
                unreachable(cause, trouble, false)
            }
            ClientError::Transport { source, .. } => unreachable(
                format!("the connection broke: {}", chain(&*source)),
                Trouble::Broken,
                true,
            ),
            ClientError::Timeout { seconds, .. } => unreachable(
                format!("no answer within {seconds} s"),
                Trouble::Silence,
                true,
            ),
            error @ (ClientError::TooLong { .. } | ClientError::Decode { .. }) => {
                ApiError::Strange {
                    url: self.url.clone(),
                    cause: chain(&error),
                }
            }
            error @ (ClientError::Url { .. } | ClientError::Encode { .. }) => ApiError::Request {
                cause: chain(&error),
            },
        }
    }
}

fn trust(source: &CaSource) -> Result<Trust, Failure> {
    match source {
        CaSource::Pin(pin) => match pin.parse::<Digest>() {
            Ok(digest) => Ok(Trust::Pin(*digest.as_bytes())),
            Err(error) => Err(Failure::new(error.to_string(), "")),
        },
        CaSource::File(path) => {
            let next = "set SURPLUS_CA to the marketplace's ca.pem, or to its sha256:… fingerprint";
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    format!("the CA {} cannot be read: {error}", path.display()),
                    next,
                )
            })?;
            let certificate = Certificate::from_pem(&text).map_err(|error| {
                Failure::new(
                    format!(
                        "{} is not a CA certificate: {}",
                        path.display(),
                        chain(&error)
                    ),
                    next,
                )
            })?;
            Ok(Trust::Authority(certificate))
        }
    }
}

fn without_problem(status: StatusCode, text: &str) -> surplus_protocol::Problem {
    let mut problem = bare_refusal(status);
    if !text.is_empty() {
        problem.reasons.push(text.to_owned());
    }
    problem
}

/// What failed while connecting, in words for the person.
fn connecting(error: &(dyn StdError + 'static)) -> (Trouble, String) {
    let mut refused = false;
    let mut late = false;
    let mut tls = false;
    let mut name = false;
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        refused |= io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
        late |= io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut);
        // Not a type to downcast to: the resolver's error is told by its words.
        name |=
            error.to_string().contains("dns error") || error.to_string().contains("lookup address");
        tls |= io.is_some_and(|io| io.kind() == io::ErrorKind::InvalidData);
        next = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    match (name, refused, late, tls) {
        (true, ..) => (Trouble::Name, "the name cannot be looked up".to_owned()),
        (_, true, ..) => (Trouble::Refused, "the connection was refused".to_owned()),
        (_, _, true, _) => (Trouble::Silence, "no answer to the connection".to_owned()),
        (.., true) => (
            Trouble::NotTls,
            format!("it does not speak TLS as expected: {}", chain(error)),
        ),
        _ => (Trouble::Broken, chain(error)),
    }
}

/// The error and its causes, each once.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        next = error.source();
    }
    text
}
