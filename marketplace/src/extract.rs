//! Extractors that refuse with a problem document.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::Refusal;

/// JSON in and out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<T>(pub T);

/// Parameters in the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<T>(pub T);

/// Parameters in the query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let extracted = axum::Json::<T>::from_request(request, state).await;
        extracted
            .map(|axum::Json(value)| Self(value))
            .map_err(|rejection| match rejection {
                JsonRejection::MissingJsonContentType(_) => bad(
                    rejection.status(),
                    rejection.body_text(),
                    "send `Content-Type: application/json`",
                ),
                JsonRejection::BytesRejection(_) => bad(
                    rejection.status(),
                    rejection.body_text(),
                    "send less at once",
                ),
                _ => bad(
                    rejection.status(),
                    rejection.body_text(),
                    "see /api/v1/openapi.json for what is expected",
                ),
            })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let extracted = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        extracted
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection: PathRejection| {
                let detail = rejection.body_text();
                bad(rejection.status(), detail, "check the id in the path")
            })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let extracted = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        extracted
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection: QueryRejection| {
                let next = "see /api/v1/openapi.json for the parameters";
                bad(rejection.status(), rejection.body_text(), next)
            })
    }
}

fn bad(status: StatusCode, detail: String, next: &str) -> Refusal {
    Refusal::new(
        status,
        "bad-request",
        "The request cannot be read",
        detail,
        next,
    )
}
