//! The sync: answered at once where there is something to say, else held open
//! until there is.

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use surplus_market::store::{Store as _, StoreError, Tx as _};
use surplus_market::sync::{self, Answer, Caller, Moment, Outcome, SyncError};
use surplus_protocol::agent::{MAX_WAIT_SECONDS, SyncRequest, SyncResponse};
use surplus_protocol::ids::HostId;
use tokio::sync::SemaphorePermit;

use crate::app::App;
use crate::auth::CallingHost;
use crate::extract::Json;
use crate::notary::HostNotary;
use crate::refusal::Refusal;
use crate::store::SqliteTx;

/// How long a sync waits in line before its host is asked to come later.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// The range, in seconds, over which hosts that are sent away are spread.
const SPREAD: std::ops::Range<u32> = 5..30;

pub(super) async fn sync(
    State(app): State<App>,
    host: CallingHost,
    Json(request): Json<SyncRequest>,
) -> Result<Json<SyncResponse>, Refusal> {
    app.metrics.syncs.inc();
    let mut held = Held::open(&app, host.record.id);
    let answer = answer(&app, &host, &request).await;
    held.answered = true;
    answer
}

/// A sync that is being answered. Dropped before that, its host hung up.
struct Held<'a> {
    app: &'a App,
    host: HostId,
    answered: bool,
}

impl<'a> Held<'a> {
    fn open(app: &'a App, host: HostId) -> Self {
        app.presence().opened(host);
        Self {
            app,
            host,
            answered: false,
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let now = self.app.now();
        self.app.presence().closed(self.host, now, !self.answered);
    }
}

async fn answer(
    app: &App,
    host: &CallingHost,
    request: &SyncRequest,
) -> Result<Json<SyncResponse>, Refusal> {
    let id = host.record.id;
    let wait = Duration::from_secs(request.wait_seconds.min(MAX_WAIT_SECONDS).into());
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    // Before the first look, so that no change is missed.
    let mut changes = app.hosts.subscribe(id);
    let newest = app.presence().is_newest(id, request.boot, request.seq);
    let first = if newest { Pass::First } else { Pass::Overtaken };
    let answer = work(app, host, request, first).await?;
    app.presence().answered(id, app.now());
    if answer.urgent || wait.is_zero() {
        return Ok(Json(answer.response));
    }
    loop {
        // Cancel safe: `changed` loses no change, and the deadline is kept.
        let last = tokio::select! {
            () = &mut deadline => true,
            () = app.closing.cancelled() => true,
            changed = changes.changed() => changed.is_err(),
        };
        let answer = work(app, host, request, Pass::Later).await?;
        if last || answer.urgent {
            app.presence().let_go(id, app.now());
            return Ok(Json(answer.response));
        }
    }
}

/// Whether the request is taken in, or only answered anew.
#[derive(Clone, Copy)]
enum Pass {
    First,
    /// A newer one of the same boot came before it.
    Overtaken,
    Later,
}

/// One look at the store, behind the storm brake.
async fn work(
    app: &App,
    host: &CallingHost,
    request: &SyncRequest,
    pass: Pass,
) -> Result<Answer, Refusal> {
    let id = host.record.id;
    let _permit = in_line(app).await?;
    // Most syncs change nothing: those read beside each other, and only the
    // others wait for the one writer.
    let read = outcome(app.store.read().await?, app, host, request, pass).await;
    let outcome = match read {
        Err(SyncError::Store(StoreError::ReadOnly)) => {
            outcome(app.store.begin().await?, app, host, request, pass).await?
        }
        other => other?,
    };
    match outcome {
        Outcome::Answer(answer) => {
            note(app, id, request, &answer);
            Ok(answer)
        }
        Outcome::Superseded => {
            tracing::warn!(host = %id, boot = %request.boot, "a former boot spoke up");
            Err(Refusal::conflict(
                "boot-superseded",
                format!(
                    "another boot of host {id} has taken over from boot {}",
                    request.boot
                ),
                "if this machine was not restarted, two machines share one identity: \
                 take one of them away",
            ))
        }
        Outcome::Quarantined { detail } => {
            tracing::error!(host = %id, detail, "host quarantined");
            app.hosts.wake(&id);
            let state = surplus_protocol::api::HostState::Quarantined;
            Err(Refusal::not_enrolled(state, &detail))
        }
    }
}

async fn outcome(
    mut tx: SqliteTx,
    app: &App,
    host: &CallingHost,
    request: &SyncRequest,
    pass: Pass,
) -> Result<Outcome, SyncError> {
    let signer = app.certificates.signer();
    let notary = HostNotary {
        signer: &signer,
        authority: app.authority.certificate(),
        host_key: host.certificate.spki_der(),
    };
    let id = host.record.id;
    let moment = Moment {
        now: app.now(),
        since: app.presence().since(),
    };
    let caller = Caller {
        id,
        from: host.from,
    };
    let outcome = match pass {
        Pass::First => sync::sync(&mut tx, &notary, moment, caller, request).await?,
        Pass::Overtaken => sync::overtaken(&mut tx, &notary, moment, caller, request).await?,
        Pass::Later => sync::look(&mut tx, &notary, moment, id, request).await?,
    };
    tx.commit().await?;
    Ok(outcome)
}

fn note(app: &App, id: HostId, request: &SyncRequest, answer: &Answer) {
    for remark in &answer.remarks {
        tracing::warn!(host = %id, remark, "odd sync");
    }
    if answer.wrote {
        // What a console reader waits for may be the lease's end.
        for ack in &answer.response.receipts_acknowledged {
            app.console_readers.wake(&ack.lease);
        }
        tracing::debug!(host = %id, seq = request.seq, "sync changed something");
    }
}

async fn in_line(app: &App) -> Result<SemaphorePermit<'_>, Refusal> {
    match tokio::time::timeout(LINE_TIMEOUT, app.syncs.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "Too many hosts sync at once",
            "the sync waited in line for too long",
            "try again after the time given",
        )
        .retry_after(rand::random_range(SPREAD))),
    }
}
