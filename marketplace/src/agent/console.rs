//! Serial console bytes from hosts.

use axum::extract::State;
use bytes::Bytes;
use serde::Deserialize;
use surplus_market::store::{Store as _, Tx as _};
use surplus_protocol::agent::ConsoleAck;
use surplus_protocol::ids::{Epoch, LeaseId};

use crate::app::App;
use crate::auth::CallingHost;
use crate::extract::{Json, Path, Query};
use crate::refusal::Refusal;

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct From {
    offset: u64,
}

pub(super) async fn upload(
    State(app): State<App>,
    host: CallingHost,
    Path((id, epoch)): Path<(LeaseId, Epoch)>,
    Query(From { offset }): Query<From>,
    body: Bytes,
) -> Result<Json<ConsoleAck>, Refusal> {
    let lease = app.store.read().await?.lease(id).await?;
    let own = lease.filter(|lease| lease.was_on(host.record.id, epoch));
    if own.is_none() {
        return Err(Refusal::not_found(format!(
            "lease {id} with epoch {epoch} on this host"
        )));
    }
    let next_offset = app.consoles.append(id, epoch, offset, &body).await?;
    app.console_readers.wake(&id);
    Ok(Json(ConsoleAck { next_offset }))
}
