//! Why a request has no good answer, and whether trying again can help.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::StatusCode;
use surplus_protocol::Problem;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url:?} is not a URL")]
    Url { url: String },
    #[error("cannot write the request as JSON")]
    Encode { source: serde_json::Error },
    /// Nothing was sent.
    #[error("cannot connect to {url}")]
    Connect { url: String, source: BoxError },
    /// The server did not prove to be the marketplace. Nothing was sent.
    #[error("{url} is not trusted: {reason}")]
    Untrusted {
        url: String,
        reason: String,
        certificate: rustls::CertificateError,
    },
    /// The connection broke; the server may or may not have acted.
    #[error("the connection to {url} broke")]
    Transport { url: String, source: BoxError },
    #[error("{url} was silent for {seconds} s")]
    Timeout { url: String, seconds: u64 },
    /// The server refused and said why.
    #[error("{problem}")]
    Problem {
        problem: Problem,
        retry_after: Option<Duration>,
    },
    /// The server refused without a problem document: a proxy, or not a
    /// marketplace.
    #[error("{url} answered {status}: {text}")]
    Status {
        url: String,
        status: StatusCode,
        text: String,
        retry_after: Option<Duration>,
    },
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("the answer of {url} is not what was asked for")]
    Decode { url: String, source: BoxError },
}

impl ClientError {
    /// Tells apart what went wrong while connecting or sending.
    pub(super) fn transport(url: &str, source: hyper_util::client::legacy::Error) -> Self {
        let url = url.to_owned();
        if let Some(rustls::Error::InvalidCertificate(certificate)) = tls_error(&source) {
            let certificate = certificate.clone();
            return Self::Untrusted {
                url,
                reason: certificate_reason(&certificate),
                certificate,
            };
        }
        if source.is_connect() {
            return Self::Connect {
                url,
                source: source.into(),
            };
        }
        Self::Transport {
            url,
            source: source.into(),
        }
    }

    /// The problem document, where the server sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The status, where the server answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { problem, .. } => Some(problem.status),
            Self::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// How long the server asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Transport { .. } | Self::Timeout { .. } => true,
            // A clock that is set right, or a certificate renewed in time.
            Self::Untrusted { certificate, .. } => is_about_time(certificate),
            Self::Problem { .. } | Self::Status { .. } => {
                matches!(self.status(), Some(408 | 425 | 429 | 500..))
            }
            Self::Url { .. } | Self::Encode { .. } | Self::TooLong { .. } | Self::Decode { .. } => {
                false
            }
        }
    }

    /// Whether surely nothing was sent.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Untrusted { .. })
    }
}

fn is_about_time(certificate: &rustls::CertificateError) -> bool {
    use rustls::CertificateError as E;
    matches!(
        certificate,
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
    )
}

fn certificate_reason(certificate: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match certificate {
        E::UnknownIssuer => "its certificate was not issued by the CA that was given".to_owned(),
        E::Other(rustls::OtherError(reason)) => reason.to_string(),
        other => format!("its certificate is refused: {other}"),
    }
}

/// The TLS error at the bottom of `error`, which I/O errors wrap without
/// naming it as their source.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
