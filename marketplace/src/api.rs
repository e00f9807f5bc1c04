//! The REST interface under `/api/v1`, and its OpenAPI document.

mod admission;
mod hosts;
mod images;
mod keys;
mod leases;
mod offers;
mod tokens;
mod trust;

use axum::Router;
use axum::routing::get;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Surplus marketplace",
        description = "Capacity offered by hosts, rented by the second. Refusals are problem \
                       documents (RFC 9457). Sizes are bytes, times UTC in RFC 3339, money \
                       integer micro-units."
    ),
    components(schemas(surplus_protocol::Problem)),
    security(("api_key" = [])),
    modifiers(&ApiKey)
)]
struct Document;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        if let Some(components) = openapi.components.as_mut() {
            components.add_security_scheme("api_key", SecurityScheme::Http(bearer));
        }
    }
}

fn routes() -> OpenApiRouter<App> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::delete))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::delete))
        .routes(routes!(admission::create, admission::list))
        .routes(routes!(admission::delete))
        .routes(routes!(trust::trust))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::one))
        .routes(routes!(hosts::approve))
        .routes(routes!(hosts::reject))
        .routes(routes!(hosts::confirm_off))
        .routes(routes!(offers::offers))
        .routes(routes!(offers::prices))
        .routes(routes!(offers::quote))
        .routes(routes!(images::list))
        .routes(routes!(images::upload, images::delete))
        .routes(routes!(leases::create, leases::list))
        .routes(routes!(leases::one))
        .routes(routes!(leases::end))
        .routes(routes!(leases::console))
        .routes(routes!(leases::bill));
    OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", v1)
}

/// The interface's routes.
pub(crate) fn router() -> Router<App> {
    let (router, _) = routes().split_for_parts();
    router.route("/api/v1/openapi.json", get(async || axum::Json(document())))
}

/// The interface's OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}
