//! What a site file needs to trust this marketplace.

use axum::extract::State;
use surplus_protocol::Digest;
use surplus_protocol::api::Trust;

use crate::app::App;
use crate::extract::Json;

/// The CA to trust and the addresses to call. Public.
#[utoipa::path(get, path = "/trust", tag = "trust", security(()),
    responses((status = 200, body = Trust)))]
pub(super) async fn trust(State(app): State<App>) -> Json<Trust> {
    let certificate = app.authority.certificate();
    Json(Trust {
        ca_pem: certificate.to_pem(),
        ca_fingerprint: Digest::from_sha256(certificate.fingerprint()).to_string(),
        urls: app.urls.clone(),
    })
}
