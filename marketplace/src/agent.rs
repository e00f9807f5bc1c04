//! The agents' interface under `/agent/v1`. Each request is judged by the
//! client certificate of its connection, and a host sees what is its own.

mod console;
mod images;
mod sync;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::app::App;
use crate::consoles;

/// Largest sync: inventory, leases, and what piled up while offline.
const MAX_SYNC_BYTES: usize = 16 << 20;

/// The agents' routes.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .route(
            surplus_protocol::agent::SYNC_PATH,
            post(sync::sync).layer(DefaultBodyLimit::max(MAX_SYNC_BYTES)),
        )
        .route("/agent/v1/images/{digest}", get(images::download))
        .route(
            "/agent/v1/leases/{lease}/{epoch}/console",
            post(console::upload).layer(DefaultBodyLimit::max(consoles::MAX_UPLOAD)),
        )
}
