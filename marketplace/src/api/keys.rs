//! API keys of operators and buyers.

use axum::extract::State;
use http::StatusCode;
use surplus_market::records::KeyRecord;
use surplus_market::store::{Store as _, Tx as _};
use surplus_market::view;
use surplus_protocol::Problem;
use surplus_protocol::api::{CreateKey, CreatedKey, Key};
use surplus_protocol::ids::KeyId;

use crate::app::App;
use crate::auth::Operator;
use crate::extract::{Json, Path};
use crate::refusal::Refusal;
use crate::secret;

/// Make an API key. Its secret is shown this once.
#[utoipa::path(post, path = "/keys", tag = "keys", request_body = CreateKey,
    responses((status = 201, body = CreatedKey), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    _: Operator,
    Json(order): Json<CreateKey>,
) -> Result<(StatusCode, Json<CreatedKey>), Refusal> {
    if order.name.is_empty() || order.name.chars().count() > 64 {
        return Err(Refusal::invalid("a key needs a name of 1 to 64 characters"));
    }
    let secret = secret::generate(secret::KEY_PREFIX)
        .map_err(|error| Refusal::internal("making a key", &error))?;
    let key = KeyRecord {
        id: KeyId::new_v4(),
        name: order.name,
        role: order.role,
        hash: secret::hash(&secret),
        created_at: app.now(),
    };
    let mut tx = app.store.begin().await?;
    tx.put_key(&key).await?;
    tx.commit().await?;
    tracing::info!(key = key.name, role = ?key.role, "API key made");
    Ok((
        StatusCode::CREATED,
        Json(CreatedKey {
            key: view::key(&key),
            secret,
        }),
    ))
}

/// All API keys, without their secrets.
#[utoipa::path(get, path = "/keys", tag = "keys",
    responses((status = 200, body = Vec<Key>), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(app): State<App>, _: Operator) -> Result<Json<Vec<Key>>, Refusal> {
    let keys = app.store.read().await?.keys().await?;
    Ok(Json(keys.iter().map(view::key).collect()))
}

/// Take an API key back. The one that asks cannot take back itself.
#[utoipa::path(delete, path = "/keys/{name}", tag = "keys", params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Operator(caller): Operator,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    if caller.name == name {
        let detail = format!("API key {name:?} is the one that asks");
        return Err(Refusal::conflict(
            "own-key",
            detail,
            "use another operator's key for that",
        ));
    }
    let mut tx = app.store.begin().await?;
    if !tx.delete_key(&name).await? {
        return Err(Refusal::not_found(format!("API key {name:?}")));
    }
    tx.commit().await?;
    tracing::info!(key = name, "API key taken back");
    Ok(StatusCode::NO_CONTENT)
}
