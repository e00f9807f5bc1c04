//! Problem documents (RFC 9457): every refusal over HTTP is one of these.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, to what, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A stable name of the kind of problem: `urn:surplus:problem:<name>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words, the same for each occurrence.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What happened this time, to what, and why.
    pub detail: String,
    /// What the caller can do about it.
    pub next: String,
    /// Each host that did not fit and why, where the problem is a request that
    /// no host can satisfy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Problem {
    pub const PREFIX: &str = "urn:surplus:problem:";

    pub fn new(
        status: u16,
        name: &str,
        title: impl Into<String>,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("{}{name}", Self::PREFIX),
            title: title.into(),
            status,
            detail: detail.into(),
            next: next.into(),
            reasons: Vec::new(),
        }
    }

    /// The kind's short name, the part after [`Self::PREFIX`].
    pub fn name(&self) -> &str {
        self.kind.strip_prefix(Self::PREFIX).unwrap_or(&self.kind)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; next: {}", self.title, self.detail, self.next)
    }
}

impl std::error::Error for Problem {}
