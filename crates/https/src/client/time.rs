//! A server's time, for a host whose own clock cannot be believed.

use std::sync::Arc;

use http::{HeaderMap, Method};
use jiff::Timestamp;

use super::Body;
use super::builder::{BuildError, Builder};
use super::error::ClientError;
use super::trust::Verifier;

/// Why a server's time is not known.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    #[error("cannot ask the server for the time")]
    Build(#[from] BuildError),
    #[error("cannot ask the server for the time")]
    Client(#[from] ClientError),
    #[error("the server's answer bears no time")]
    NoDate,
    #[error("the server says that it is {date}, when its own certificate is not valid")]
    Implausible { date: Timestamp },
}

/// Asks the server that `builder` describes for the time, to a second: the
/// `Date` of its answer to `GET path`.
///
/// The server has to prove itself as ever, but for its certificate's validity:
/// that is judged by the time it tells.
pub async fn server_time(builder: Builder, path: &str) -> Result<Timestamp, TimeError> {
    let trust = builder.trust.clone().ok_or(BuildError::NoTrust)?;
    let verifier = Arc::new(Verifier::timeless(trust));
    let client = builder.build_with(verifier.clone())?;
    let answer = client
        .request(Method::GET, path, HeaderMap::new(), Body::empty())
        .await?;
    let date = answer.date().ok_or(TimeError::NoDate)?;
    match verifier.seen() {
        Some(certificate) if certificate.is_valid_at(date) => Ok(date),
        _ => Err(TimeError::Implausible { date }),
    }
}
