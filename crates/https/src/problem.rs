//! Problem documents as HTTP answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use surplus_protocol::{Problem, problem};

/// A [`Problem`] as an answer, with its status and media type. Headers go
/// before it: `([(header::RETRY_AFTER, "5")], ProblemResponse(problem))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemResponse(pub Problem);

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and numbers alone: writing them cannot fail.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let media_type = HeaderValue::from_static(problem::MEDIA_TYPE);
        (status, [(header::CONTENT_TYPE, media_type)], body).into_response()
    }
}
