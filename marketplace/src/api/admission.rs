//! Rules that admit hosts without a token.

use axum::extract::State;
use http::StatusCode;
use surplus_market::admission;
use surplus_market::store::{Store as _, Tx as _};
use surplus_protocol::Problem;
use surplus_protocol::api::{AdmissionRule, CreateAdmissionRule};
use surplus_protocol::ids::AdmissionRuleId;

use crate::app::App;
use crate::auth::Operator;
use crate::extract::{Json, Path};
use crate::refusal::Refusal;

/// Make a rule. Hosts that wait and that it means join when they ask again.
#[utoipa::path(post, path = "/admission-rules", tag = "admission",
    request_body = CreateAdmissionRule,
    responses((status = 201, body = AdmissionRule), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Operator(operator): Operator,
    Json(order): Json<CreateAdmissionRule>,
) -> Result<(StatusCode, Json<AdmissionRule>), Refusal> {
    let mut tx = app.store.begin().await?;
    let (id, by) = (AdmissionRuleId::new_v4(), &operator.name);
    let rule = admission::create(&mut tx, app.now(), id, by, order).await?;
    tx.commit().await?;
    tracing::info!(rule = %id, by, means = %rule.selectors, "admission rule made");
    Ok((StatusCode::CREATED, Json(admission::view(rule))))
}

/// All rules, spent and expired ones too.
#[utoipa::path(get, path = "/admission-rules", tag = "admission",
    responses((status = 200, body = Vec<AdmissionRule>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Operator,
) -> Result<Json<Vec<AdmissionRule>>, Refusal> {
    let rules = app.store.read().await?.admission_rules().await?;
    Ok(Json(rules.into_iter().map(admission::view).collect()))
}

/// Take a rule back. Hosts that joined by it stay.
#[utoipa::path(delete, path = "/admission-rules/{id}", tag = "admission",
    params(("id" = uuid::Uuid, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<AdmissionRuleId>,
) -> Result<StatusCode, Refusal> {
    let mut tx = app.store.begin().await?;
    if !tx.delete_admission_rule(id).await? {
        return Err(Refusal::not_found(format!("admission rule {id}")));
    }
    tx.commit().await?;
    tracing::info!(rule = %id, "admission rule taken back");
    Ok(StatusCode::NO_CONTENT)
}
