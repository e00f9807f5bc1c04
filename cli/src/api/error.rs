//! Why the marketplace did not do what was asked.

use http::StatusCode;
use surplus_protocol::Problem;

use crate::failure::Failure;

/// Where a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The name does not exist, or cannot be looked up.
    Name,
    /// Nobody listens there.
    Refused,
    /// No answer in time, to the connection or to the request.
    Silence,
    /// The certificate is not one that the CA vouches for.
    Trust,
    /// What answers there speaks no TLS, or none that we know.
    NotTls,
    /// It broke while it was used.
    Broken,
}

/// Why the marketplace did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The marketplace said no, and why.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// It was not reached, or was lost; `sent` when the request may have
    /// arrived, `made` when it makes something.
    #[error("the marketplace at {url} cannot be reached: {cause}")]
    Unreachable {
        url: String,
        cause: String,
        trouble: Trouble,
        sent: bool,
        made: bool,
    },
    /// An answer that no marketplace gives.
    #[error("{url} gave an answer that is not a marketplace's: {cause}")]
    Strange { url: String, cause: String },
    #[error("the request cannot be made: {cause}")]
    Request { cause: String },
    #[error("{file} cannot be read: {cause}")]
    File { file: String, cause: String },
}

impl ApiError {
    /// Another attempt may go better, and does no harm where the request may
    /// be repeated.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Refused(problem) => StatusCode::from_u16(problem.status).is_ok_and(|status| {
                matches!(
                    status,
                    StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                )
            }),
            Self::Unreachable { trouble, .. } => {
                matches!(trouble, Trouble::Refused | Trouble::Broken)
            }
            Self::Strange { .. } | Self::Request { .. } | Self::File { .. } => false,
        }
    }

    /// It certainly did not arrive, and another attempt may go better.
    pub(crate) fn never_arrived(&self) -> bool {
        matches!(self, Self::Unreachable { sent: false, .. }) && self.may_pass()
    }

    /// The same of a request that makes something.
    pub(super) fn of_something_made(self) -> Self {
        match self {
            Self::Unreachable {
                url,
                cause,
                trouble,
                sent,
                ..
            } => Self::Unreachable {
                url,
                cause,
                trouble,
                sent,
                made: true,
            },
            other => other,
        }
    }

    fn next(&self) -> &'static str {
        match self {
            Self::Unreachable {
                sent: true,
                made: true,
                ..
            } => {
                "it may have been carried out before the connection was lost: look (`surplus leases`, \
                 `token list`, `key list`) before you repeat it"
            }
            Self::Unreachable { trouble, .. } => match trouble {
                Trouble::Name => "check the name in SURPLUS_URL, and this machine's name server",
                Trouble::Refused => {
                    "check that surplus-marketplace runs there, and the port in SURPLUS_URL"
                }
                Trouble::Silence => "check the address in SURPLUS_URL, and firewalls on the way",
                Trouble::Trust => {
                    "check that SURPLUS_CA is this marketplace's ca.pem, or its fingerprint as it printed it, \
                     and that SURPLUS_URL has a name its certificate is for"
                }
                Trouble::NotTls => "check the port in SURPLUS_URL: something else may answer there",
                Trouble::Broken => "try again; look at the marketplace's log if it stays so",
            },
            Self::Strange { .. } => {
                "check SURPLUS_URL, and that `surplus --version` fits the marketplace's version"
            }
            Self::Request { .. } => "check what was given on the command line",
            Self::File { .. } => "check the file; nothing was taken over by the marketplace",
            Self::Refused(_) => "",
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let next = error.next();
        match error {
            ApiError::Refused(problem) => Self::from(*problem),
            other => Self::new(other.to_string(), next),
        }
    }
}

/// What an answer without a problem document means.
pub(super) fn bare_refusal(status: StatusCode) -> Problem {
    let next = match status {
        StatusCode::UNAUTHORIZED => "set SURPLUS_TOKEN to an API key of this marketplace",
        StatusCode::FORBIDDEN => "use a key of the role that may do this",
        StatusCode::NOT_FOUND => "check SURPLUS_URL, and that both versions fit",
        _ => "try again; look at the marketplace's log if it stays so",
    };
    Problem::new(
        status.as_u16(),
        "http",
        "the marketplace refused",
        format!("HTTP status {status}"),
        next,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(trouble: Trouble, sent: bool) -> ApiError {
        ApiError::Unreachable {
            url: "https://m".into(),
            cause: "x".into(),
            trouble,
            sent,
            made: false,
        }
    }

    #[test]
    fn what_may_have_arrived_is_not_sent_twice() {
        assert!(lost(Trouble::Refused, false).never_arrived());
        assert!(!lost(Trouble::Broken, true).never_arrived());
        assert!(lost(Trouble::Broken, true).may_pass());
    }

    #[test]
    fn a_wrong_ca_or_name_is_not_tried_again() {
        assert!(!lost(Trouble::Trust, false).may_pass());
        assert!(!lost(Trouble::Name, false).may_pass());
    }

    #[test]
    fn a_lost_answer_warns_before_a_repetition() {
        let text = Failure::from(lost(Trouble::Broken, true).of_something_made()).text();
        assert!(text.contains("may have been carried out"), "{text}");
    }
}
