//! What can be rented, and for how much.

use axum::extract::State;
use http::StatusCode;
use surplus_market::rent::{self, Asker};
use surplus_market::store::{LeaseFilter, Store as _, Tx as _};
use surplus_market::view;
use surplus_protocol::Problem;
use surplus_protocol::api::{Offer, PriceBook, Quote, QuoteRequest, Role};
use surplus_protocol::ids::{LeaseId, QuoteId};

use crate::app::App;
use crate::auth::Buyer;
use crate::extract::Json;
use crate::refusal::Refusal;

/// What each host offers now: the largest guest that fits.
#[utoipa::path(get, path = "/offers", tag = "offers",
    responses((status = 200, body = Vec<Offer>), (status = "4XX", body = Problem)))]
pub(super) async fn offers(State(app): State<App>, _: Buyer) -> Result<Json<Vec<Offer>>, Refusal> {
    let mut tx = app.store.read().await?;
    let hosts = tx.hosts().await?;
    let live = tx.leases(LeaseFilter::Live).await?;
    let (presence, now) = (app.presence_now(), app.now());
    let offer = |host| view::offer(host, &live, &presence, now, &app.prices);
    Ok(Json(hosts.iter().filter_map(offer).collect()))
}

/// The prices that quotes are made with.
#[utoipa::path(get, path = "/prices", tag = "offers",
    responses((status = 200, body = PriceBook), (status = "4XX", body = Problem)))]
pub(super) async fn prices(State(app): State<App>, _: Buyer) -> Json<PriceBook> {
    Json(app.prices.clone())
}

/// Ask for a firm price. It holds its reservation for a few minutes.
#[utoipa::path(post, path = "/quotes", tag = "offers", request_body = QuoteRequest,
    responses((status = 201, body = Quote), (status = "4XX", body = Problem)))]
pub(super) async fn quote(
    State(app): State<App>,
    Buyer(key): Buyer,
    Json(request): Json<QuoteRequest>,
) -> Result<(StatusCode, Json<Quote>), Refusal> {
    let asker = Asker {
        owner: key.id,
        quote: QuoteId::new_v4(),
        lease: LeaseId::new_v4(),
        open_quotes: (key.role == Role::Buyer).then_some(app.limits.open_quotes),
    };
    let presence = app.presence_now();
    let mut tx = app.store.begin().await?;
    let lease = rent::quote(&mut tx, &presence, app.now(), asker, &request, &app.prices).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view::quote(&lease))))
}
