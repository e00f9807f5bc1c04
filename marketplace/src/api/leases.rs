//! Leases, their consoles and bills.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use surplus_market::records::LeaseRecord;
use surplus_market::store::{LeaseFilter, Store as _, Tx};
use surplus_market::{bill, rent, view};
use surplus_protocol::Problem;
use surplus_protocol::api::{Bill, CONSOLE_ENDED, CONSOLE_OFFSET, CreateLease, Lease, Role};
use surplus_protocol::ids::LeaseId;
use surplus_protocol::lease::EndReason;

use crate::app::App;
use crate::auth::Buyer;
use crate::extract::{Json, Path, Query};
use crate::refusal::Refusal;

/// Longest time for which a console read is held open, in seconds.
const MAX_CONSOLE_WAIT: u64 = 55;

/// Take a quote: from now on the window runs.
#[utoipa::path(post, path = "/leases", tag = "leases", request_body = CreateLease,
    responses((status = 201, body = Lease), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Buyer(key): Buyer,
    Json(order): Json<CreateLease>,
) -> Result<(StatusCode, Json<Lease>), Refusal> {
    let mut tx = app.store.begin().await?;
    let lease = rent::take(&mut tx, app.now(), key.id, order).await?;
    let shown = show(&app, &mut tx, &lease).await?;
    tx.commit().await?;
    app.hosts.wake(&lease.host);
    app.metrics.leases.inc();
    tracing::info!(lease = %lease.id, host = %lease.host, buyer = key.name, "lease made");
    Ok((StatusCode::CREATED, Json(shown)))
}

/// All leases: a buyer's own, or every one for an operator.
#[utoipa::path(get, path = "/leases", tag = "leases",
    responses((status = 200, body = Vec<Lease>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Buyer(key): Buyer,
) -> Result<Json<Vec<Lease>>, Refusal> {
    let filter = match key.role {
        Role::Operator => LeaseFilter::All,
        Role::Buyer => LeaseFilter::Owner(key.id),
    };
    let mut tx = app.store.read().await?;
    let leases = tx.leases(filter).await?;
    let hosts = tx.hosts().await?;
    let (presence, now) = (app.presence_now(), app.now());
    let mut shown: Vec<_> = leases
        .iter()
        .filter_map(|lease| {
            let host = hosts.iter().find(|host| host.id == lease.host);
            view::lease(
                lease,
                host.is_none_or(|host| presence.is_unreachable(host, now)),
            )
        })
        .collect();
    shown.sort_by_key(|lease| (lease.created_at, lease.id));
    Ok(Json(shown))
}

/// One lease.
#[utoipa::path(get, path = "/leases/{id}", tag = "leases", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Lease), (status = "4XX", body = Problem)))]
pub(super) async fn one(
    State(app): State<App>,
    buyer: Buyer,
    Path(id): Path<LeaseId>,
) -> Result<Json<Lease>, Refusal> {
    let mut tx = app.store.read().await?;
    let lease = find(&mut tx, &buyer, id).await?;
    Ok(Json(show(&app, &mut tx, &lease).await?))
}

/// End a lease. Its guest is gone once the state says `ended`.
#[utoipa::path(post, path = "/leases/{id}/end", tag = "leases", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Lease), (status = "4XX", body = Problem)))]
pub(super) async fn end(
    State(app): State<App>,
    buyer: Buyer,
    Path(id): Path<LeaseId>,
) -> Result<Json<Lease>, Refusal> {
    let mut tx = app.store.begin().await?;
    let lease = find(&mut tx, &buyer, id).await?;
    let owned = lease.owner == buyer.0.id;
    let reason = if owned {
        EndReason::Ended
    } else {
        EndReason::Reclaimed
    };
    let lease = rent::end(&mut tx, app.now(), lease, reason).await?;
    let shown = show(&app, &mut tx, &lease).await?;
    tx.commit().await?;
    app.hosts.wake(&lease.host);
    app.console_readers.wake(&lease.id);
    tracing::info!(lease = %lease.id, by = buyer.0.name, "lease shall end");
    Ok(Json(shown))
}

/// Where to read a console from, and how long to wait for more.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ConsoleRead {
    /// Offset of the first byte wanted; what is older than the store keeps is
    /// skipped.
    #[serde(default)]
    offset: u64,
    /// Wait so many seconds for the first byte, at most 55.
    #[serde(default)]
    wait: u64,
}

/// Read the guest's serial console.
#[utoipa::path(get, path = "/leases/{id}/console", tag = "leases",
    params(("id" = uuid::Uuid, Path), ConsoleRead),
    responses((status = 200, content_type = "application/octet-stream",
            description = "bytes; go on at the header's offset plus their number",
            headers(("surplus-console-offset" = u64), ("surplus-console-ended" = bool))),
        (status = "4XX", body = Problem)))]
pub(super) async fn console(
    State(app): State<App>,
    buyer: Buyer,
    Path(id): Path<LeaseId>,
    Query(read): Query<ConsoleRead>,
) -> Result<Response, Refusal> {
    let wait = Duration::from_secs(read.wait.min(MAX_CONSOLE_WAIT));
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    let mut changes = app.console_readers.subscribe(id);
    let mut last = wait.is_zero();
    loop {
        let lease = find(&mut app.store.read().await?, &buyer, id).await?;
        let live = lease.life.is_live();
        let part = app.consoles.read(id, lease.life.epoch, read.offset).await?;
        if !part.bytes.is_empty() || !live || last {
            let ended = !live && part.at_end;
            let offset = HeaderValue::from(part.offset);
            let ended = HeaderValue::from_static(if ended { "true" } else { "false" });
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(CONSOLE_OFFSET), offset);
            headers.insert(HeaderName::from_static(CONSOLE_ENDED), ended);
            let octets = HeaderValue::from_static("application/octet-stream");
            headers.insert(header::CONTENT_TYPE, octets);
            return Ok((headers, part.bytes).into_response());
        }
        // Cancel safe: `changed` loses no change, and the deadline is kept.
        tokio::select! {
            () = &mut deadline => last = true,
            () = app.closing.cancelled() => last = true,
            changed = changes.changed() => last = changed.is_err(),
        }
    }
}

/// What a lease costs, so far or for good.
#[utoipa::path(get, path = "/leases/{id}/bill", tag = "leases", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Bill), (status = "4XX", body = Problem)))]
pub(super) async fn bill(
    State(app): State<App>,
    buyer: Buyer,
    Path(id): Path<LeaseId>,
) -> Result<Json<Bill>, Refusal> {
    let mut tx = app.store.read().await?;
    let lease = find(&mut tx, &buyer, id).await?;
    Ok(Json(bill::bill_of(&mut tx, &lease).await?))
}

/// The lease, where the caller may see it. Another's does not exist.
async fn find(tx: &mut impl Tx, buyer: &Buyer, id: LeaseId) -> Result<LeaseRecord, Refusal> {
    let lease = tx.lease(id).await?;
    let lease = lease.filter(|lease| buyer.may_handle(lease) && lease.guest.is_some());
    lease.ok_or_else(|| Refusal::not_found(format!("lease {id}")))
}

async fn show(app: &App, tx: &mut impl Tx, lease: &LeaseRecord) -> Result<Lease, Refusal> {
    let host = tx.host(lease.host).await?;
    let now = app.now();
    let unreachable = host.is_none_or(|host| app.presence().is_unreachable(&host, now));
    view::lease(lease, unreachable).ok_or_else(|| Refusal::not_found(format!("lease {}", lease.id)))
}
