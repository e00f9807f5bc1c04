//! Refusals: every error that leaves by HTTP, as a problem document that says
//! what to do next.

use std::error::Error;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use surplus_https::ProblemResponse;
use surplus_market::admission::CreateRuleError;
use surplus_market::bill::BillError;
use surplus_market::enrol::JudgeError;
use surplus_market::rent::{EndError, QuoteError, TakeError};
use surplus_market::store::StoreError;
use surplus_market::sync::SyncError;
use surplus_market::token::CreateTokenError;
use surplus_protocol::Problem;
use surplus_protocol::api::HostState;

/// A request that was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// In a box, so that results stay small.
    pub(crate) problem: Box<Problem>,
    /// When to try again, in seconds.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// A refusal of the kind `name`: what happened, and what to do next.
    pub(crate) fn new(
        status: StatusCode,
        name: &str,
        title: &str,
        detail: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        let problem = Box::new(Problem::new(status.as_u16(), name, title, detail, next));
        Self {
            problem,
            retry_after: None,
        }
    }

    /// The same, with a time to wait.
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// The caller's own mistake.
    pub(crate) fn invalid(detail: impl ToString) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-request",
            "The request makes no sense",
            detail.to_string(),
            "correct the request and send it again",
        )
    }

    /// There is no such thing.
    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is no such thing",
            format!("{what} is not known here"),
            "list what there is and use an id or name from there",
        )
    }

    /// Something of that kind is in the way.
    pub(crate) fn conflict(name: &str, detail: impl ToString, next: &str) -> Self {
        let title = "The request conflicts with what is there";
        Self::new(StatusCode::CONFLICT, name, title, detail.to_string(), next)
    }

    /// Our own failure. The cause goes to the log and not to the caller.
    pub(crate) fn internal(attempt: &str, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = chain(error), "{attempt} failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The marketplace failed",
            format!("{attempt} failed inside the marketplace; its log says why"),
            "try again; if it stays so, ask the marketplace's operator to look into its log",
        )
        .retry_after(5)
    }
}

/// An error and its sources in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = ProblemResponse(*self.problem).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { .. } => {
                Self::conflict("exists", error, "choose another name, or use what is there")
            }
            StoreError::Conflict => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "The marketplace is busy",
                "another change came between",
                "try again",
            )
            .retry_after(1),
            StoreError::Failed { .. } | StoreError::ReadOnly => {
                Self::internal("the store's answer", &error)
            }
        }
    }
}

impl From<CreateTokenError> for Refusal {
    fn from(error: CreateTokenError) -> Self {
        match error {
            CreateTokenError::Store(error) => error.into(),
            error => Self::invalid(error),
        }
    }
}

impl From<CreateRuleError> for Refusal {
    fn from(error: CreateRuleError) -> Self {
        match error {
            CreateRuleError::Store(error) => error.into(),
            error => Self::invalid(error),
        }
    }
}

impl From<JudgeError> for Refusal {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Unknown { id } => Self::not_found(format!("host {id}")),
            JudgeError::Store(error) => error.into(),
        }
    }
}

impl From<QuoteError> for Refusal {
    fn from(error: QuoteError) -> Self {
        match error {
            QuoteError::Store(error) => error.into(),
            QuoteError::Nowhere(nowhere) => {
                let detail = match nowhere.reasons.len() {
                    0 => "no host has joined yet".to_owned(),
                    hosts => format!("none of {hosts} hosts takes the guest"),
                };
                let next = nowhere
                    .cheapest
                    .unwrap_or_else(|| match nowhere.reasons.len() {
                        0 => "let one join: an operator writes a site file for it with \
                          `surplus site-file --token-name NAME -o site.toml`, and the machine \
                          boots from the medium with that file"
                            .to_owned(),
                        _ => {
                            "see each host's reason, and try again when that has changed".to_owned()
                        }
                    });
                let mut refusal = Self::new(
                    StatusCode::CONFLICT,
                    "no-capacity",
                    "No host has room for the guest",
                    detail,
                    next,
                );
                refusal.problem.reasons = nowhere.reasons;
                refusal
            }
            QuoteError::TooMany { .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-quotes",
                "Too many quotes are open",
                error.to_string(),
                "take one of them, or wait until they run out after five minutes",
            )
            .retry_after(60),
            error => Self::invalid(error),
        }
    }
}

impl From<TakeError> for Refusal {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Store(error) => error.into(),
            TakeError::UnknownQuote(id) => Self::not_found(format!("quote {id}")),
            TakeError::UnknownImage(name) => Self::not_found(format!("image {name:?}")),
            TakeError::Expired { .. } => Self::new(
                StatusCode::GONE,
                "quote-expired",
                "The quote ran out",
                error.to_string(),
                "ask for a new quote",
            ),
            TakeError::Taken { .. } => Self::conflict(
                "quote-taken",
                error,
                "look at that lease, or ask for a new quote",
            ),
            TakeError::DiskTooSmall { .. } => Self::conflict(
                "disk-too-small",
                error,
                "ask for a quote with a larger disk",
            ),
            TakeError::Invalid(error) => Self::internal("taking the quote", &error),
            error => Self::invalid(error),
        }
    }
}

impl From<EndError> for Refusal {
    fn from(error: EndError) -> Self {
        match error {
            EndError::Store(error) => error.into(),
            EndError::Invalid(error) => {
                Self::conflict("not-a-lease", error, "take the quote first")
            }
        }
    }
}

impl From<BillError> for Refusal {
    fn from(error: BillError) -> Self {
        match error {
            BillError::Store(error) => error.into(),
            error => Self::internal("making the bill", &error),
        }
    }
}

impl From<SyncError> for Refusal {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Store(error) => error.into(),
            SyncError::Notary(error) => Self::internal("signing a ticket", &error),
            SyncError::Unknown(id) => Self::unregistered(&format!("host {id}")),
            SyncError::NotEnrolled { state, detail, .. } => Self::not_enrolled(state, &detail),
        }
    }
}

impl Refusal {
    /// A host that the register does not know, or not by this key.
    pub(crate) fn unregistered(who: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "not-registered",
            "The register does not know this host",
            format!("{who} is not in the register under this key"),
            "enrol with a join token, or ask the operator for approval",
        )
    }

    /// A host that is in the register and may do nothing.
    pub(crate) fn not_enrolled(state: HostState, detail: &str) -> Self {
        let (name, title, next) = match state {
            HostState::Pending => (
                "host-pending",
                "The host waits for approval",
                "ask the operator to approve it: surplus hosts approve, or surplus admit",
            ),
            HostState::Quarantined => (
                "host-quarantined",
                "The host is quarantined",
                "find the second machine, take one of the two away, and have the operator approve",
            ),
            HostState::Rejected | HostState::Enrolled => (
                "host-rejected",
                "The host was turned away",
                "ask the operator to approve it, if it shall come back",
            ),
        };
        Self::new(StatusCode::FORBIDDEN, name, title, detail, next)
    }
}
