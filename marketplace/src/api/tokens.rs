//! Join tokens.

use axum::extract::State;
use http::StatusCode;
use surplus_market::store::{Store as _, Tx as _};
use surplus_market::token;
use surplus_protocol::Problem;
use surplus_protocol::api::{CreateToken, CreatedToken, Token};
use surplus_protocol::ids::TokenId;

use crate::app::App;
use crate::auth::Operator;
use crate::extract::{Json, Path};
use crate::refusal::Refusal;
use crate::secret;

/// Make a join token. Its secret is shown this once.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = 201, body = CreatedToken), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    _: Operator,
    Json(order): Json<CreateToken>,
) -> Result<(StatusCode, Json<CreatedToken>), Refusal> {
    let secret = secret::generate(secret::TOKEN_PREFIX)
        .map_err(|error| Refusal::internal("making a token", &error))?;
    let mut tx = app.store.begin().await?;
    let hash = secret::hash(&secret);
    let token = token::create(&mut tx, app.now(), TokenId::new_v4(), hash, order).await?;
    tx.commit().await?;
    tracing::info!(token = token.name, "join token made");
    Ok((
        StatusCode::CREATED,
        Json(CreatedToken {
            token: token::view(token),
            secret,
        }),
    ))
}

/// All join tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "tokens",
    responses((status = 200, body = Vec<Token>), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(app): State<App>, _: Operator) -> Result<Json<Vec<Token>>, Refusal> {
    let tokens = app.store.read().await?.tokens().await?;
    Ok(Json(tokens.into_iter().map(token::view).collect()))
}

/// Take a join token back. Hosts that joined with it stay.
#[utoipa::path(delete, path = "/tokens/{name}", tag = "tokens", params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let mut tx = app.store.begin().await?;
    if !tx.delete_token(&name).await? {
        return Err(Refusal::not_found(format!("join token {name:?}")));
    }
    tx.commit().await?;
    tracing::info!(token = name, "join token taken back");
    Ok(StatusCode::NO_CONTENT)
}
