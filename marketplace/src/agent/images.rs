//! Guest images for hosts, with ranges so that a broken fetch goes on.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use surplus_protocol::Digest;

use crate::app::App;
use crate::auth::CallingHost;
use crate::extract::Path;
use crate::refusal::Refusal;

pub(super) async fn download(
    State(app): State<App>,
    _: CallingHost,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest: Digest = digest.parse().map_err(Refusal::invalid)?;
    app.images.send(digest, &headers).await
}
