//! The register of hosts.

use axum::extract::State;
use surplus_market::records::HostRecord;
use surplus_market::store::{LeaseFilter, Store as _, Tx as _};
use surplus_market::{enrol, rent, view};
use surplus_protocol::Problem;
use surplus_protocol::api::{Host, HostState};
use surplus_protocol::ids::HostId;

use crate::app::App;
use crate::auth::Operator;
use crate::extract::{Json, Path};
use crate::refusal::Refusal;

/// All hosts.
#[utoipa::path(get, path = "/hosts", tag = "hosts",
    responses((status = 200, body = Vec<Host>), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(app): State<App>, _: Operator) -> Result<Json<Vec<Host>>, Refusal> {
    let mut tx = app.store.read().await?;
    let hosts = tx.hosts().await?;
    let live = tx.leases(LeaseFilter::Live).await?;
    let (presence, now) = (app.presence_now(), app.now());
    Ok(Json(
        hosts
            .iter()
            .map(|host| view::host(host, &live, &presence, now))
            .collect(),
    ))
}

/// One host.
#[utoipa::path(get, path = "/hosts/{id}", tag = "hosts", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Host), (status = "4XX", body = Problem)))]
pub(super) async fn one(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<HostId>,
) -> Result<Json<Host>, Refusal> {
    let mut tx = app.store.read().await?;
    let host = tx
        .host(id)
        .await?
        .ok_or_else(|| Refusal::not_found(format!("host {id}")))?;
    let live = tx.leases(LeaseFilter::LiveOn(id)).await?;
    Ok(Json(view::host(
        &host,
        &live,
        &app.presence_now(),
        app.now(),
    )))
}

/// Let a host in that asked to join without a token, or let one in again. One
/// that is a silent host's hardware is that host from now on; one whose earlier
/// boot may be alive still stays pending, and joins when it asks on.
#[utoipa::path(post, path = "/hosts/{id}/approve", tag = "hosts",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Host), (status = "4XX", body = Problem)))]
pub(super) async fn approve(
    State(app): State<App>,
    Operator(operator): Operator,
    Path(id): Path<HostId>,
) -> Result<Json<Host>, Refusal> {
    let presence = app.presence_now();
    let mut tx = app.store.begin().await?;
    let host = enrol::approve(&mut tx, &presence, app.now(), id, &operator.name).await?;
    judged(&app, tx, &host).await
}

/// Turn a host away, or remove one that had joined: from now on it is refused,
/// also on connections that are open. Its guests are not known to be gone.
#[utoipa::path(post, path = "/hosts/{id}/reject", tag = "hosts",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Host), (status = "4XX", body = Problem)))]
pub(super) async fn reject(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<HostId>,
) -> Result<Json<Host>, Refusal> {
    let mut tx = app.store.begin().await?;
    let host = enrol::reject(&mut tx, id).await?;
    judged(&app, tx, &host).await
}

/// Confirm that a host is powered off, so that what it ran is surely gone: its
/// leases end, or are placed anew where their clause says so. Refused while the
/// host still calls.
#[utoipa::path(post, path = "/hosts/{id}/confirm-off", tag = "hosts",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Host), (status = "4XX", body = Problem)))]
pub(super) async fn confirm_off(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<HostId>,
) -> Result<Json<Host>, Refusal> {
    let mut tx = app.store.begin().await?;
    let host = tx.host(id).await?;
    let host = host.ok_or_else(|| Refusal::not_found(format!("host {id}")))?;
    if host.state == HostState::Enrolled && !app.presence().is_unreachable(&host, app.now()) {
        let detail = format!("host {id} called a moment ago");
        let next = "power it off, and confirm once it counts as unreachable";
        return Err(Refusal::conflict("host-alive", detail, next));
    }
    for lease in rent::confirm_off(&mut tx, app.now(), id).await? {
        app.console_readers.wake(&lease.id);
        let state = lease.life.state;
        tracing::info!(lease = %lease.id, host = %id, ?state, "gone: its host is confirmed off");
    }
    judged(&app, tx, &host).await
}

async fn judged(
    app: &App,
    mut tx: crate::store::SqliteTx,
    host: &HostRecord,
) -> Result<Json<Host>, Refusal> {
    let live = tx.leases(LeaseFilter::LiveOn(host.id)).await?;
    tx.commit().await?;
    app.hosts.wake(&host.id);
    tracing::info!(host = %host.id, state = ?host.state, "an operator judged a host");
    Ok(Json(view::host(
        host,
        &live,
        &app.presence_now(),
        app.now(),
    )))
}
