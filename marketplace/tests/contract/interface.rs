//! What holds for every path: who may call, how refusals look, the document.

use std::os::unix::fs::PermissionsExt as _;

use http::{HeaderMap, Method, header};
use surplus_https::{Body, Client, ClientError};
use surplus_pki::KeyPair;
use surplus_protocol::api::{CreateKey, CreatedKey, Key, Role, Trust};

use crate::fake_host::{FakeHost, PATIENCE, enrol_with};
use crate::marketplace::{Market, problem};

async fn send(client: &Client, method: Method, path: &str, body: &str) -> Result<(), ClientError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    let body = Body::from(body.as_bytes().to_vec());
    client.request(method, path, headers, body).await.map(drop)
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let market = Market::start().await;
    let (admin, stranger) = (&market.admin, &market.stranger());
    let buyer = &market.buyer("bob").await;
    let wrong_key = &market
        .builder()
        .bearer("surplus_guess")
        .unwrap()
        .build()
        .unwrap();
    for (client, method, path, body, status) in [
        (admin, Method::GET, "/nowhere", "", 404),
        (admin, Method::GET, "/api/v1/nowhere", "", 404),
        (admin, Method::GET, "/.well-known/est/nowhere", "", 404),
        (admin, Method::PATCH, "/api/v1/hosts", "", 405),
        (admin, Method::DELETE, "/.well-known/est/cacerts", "", 405),
        (admin, Method::POST, "/api/v1/tokens", "{", 400),
        (admin, Method::POST, "/api/v1/tokens", "{}", 422),
        (
            admin,
            Method::POST,
            "/api/v1/tokens",
            r#"{"name":"","uses":1}"#,
            422,
        ),
        (admin, Method::GET, "/api/v1/hosts/nobody", "", 400),
        (admin, Method::DELETE, "/api/v1/tokens/nobody", "", 404),
        (admin, Method::DELETE, "/api/v1/keys/admin", "", 409),
        (stranger, Method::GET, "/api/v1/hosts", "", 401),
        (wrong_key, Method::GET, "/api/v1/offers", "", 401),
        (buyer, Method::GET, "/api/v1/hosts", "", 403),
        (
            buyer,
            Method::POST,
            "/api/v1/tokens",
            r#"{"name":"x","uses":1}"#,
            403,
        ),
    ] {
        let refused = problem(send(client, method.clone(), path, body).await);
        assert_eq!(
            refused.status, status,
            "{method} {path} {body}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn an_api_key_works_until_it_is_taken_back() {
    let market = Market::start().await;
    let order = CreateKey {
        name: "carol".to_owned(),
        role: Role::Operator,
    };
    let key: CreatedKey = market.post("/api/v1/keys", &order).await.unwrap();
    assert!(key.secret.starts_with("surplus_"));
    let carol = market
        .builder()
        .bearer(&key.secret)
        .unwrap()
        .build()
        .unwrap();
    let keys: Vec<Key> = carol.get_json("/api/v1/keys").await.unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(
        problem(market.post::<CreatedKey>("/api/v1/keys", &order).await).status,
        409
    );
    send(&market.admin, Method::DELETE, "/api/v1/keys/carol", "")
        .await
        .unwrap();
    assert_eq!(
        problem(carol.get_json::<Vec<Key>>("/api/v1/keys").await).status,
        401
    );
}

#[tokio::test]
async fn secrets_are_for_their_owner_alone_and_not_in_the_store() {
    let market = Market::start().await;
    let data = market.dir.path().join("data");
    for name in ["admin.key", "ca.key", "server.key", "signer.key"] {
        let mode = std::fs::metadata(data.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let token = market.token(None).await;
    let admin = std::fs::read_to_string(data.join("admin.key")).unwrap();
    let admin = admin.strip_suffix('\n').unwrap();
    for file in std::fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().starts_with("store.db") {
            let bytes = std::fs::read(file.path()).unwrap();
            for secret in [admin, &token] {
                let found = bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes());
                assert!(!found, "a secret is in {:?}", file.file_name());
            }
        }
    }
}

#[tokio::test]
async fn the_figures_count_hosts_leases_and_enrolments() {
    let market = Market::start().await;
    let mut host = FakeHost::offering(&market).await;
    enrol_with(&market, &KeyPair::generate().unwrap(), None)
        .await
        .unwrap();
    host.sync(host.nothing()).await.unwrap();
    let stranger = market.stranger();
    let wanted = [
        "surplus_syncs_total 2",
        "surplus_enrolments_total 1",
        "surplus_leases_made_total 0",
        "surplus_hosts{state=\"enrolled\"} 1",
        "surplus_hosts{state=\"pending\"} 1",
        "surplus_hosts_unreachable 0",
    ];
    // Hosts are counted with each sweep.
    let counted = async {
        loop {
            let headers = HeaderMap::new();
            let answer = stranger.request(Method::GET, "/metrics", headers, Body::empty());
            let text = answer.await.unwrap().bytes(1 << 20).await.unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            if wanted.iter().all(|line| text.contains(line)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn anyone_may_ask_for_health_figures_and_trust() {
    let market = Market::start().await;
    let stranger = market.stranger();
    let text = async |path: &str| {
        let answer = stranger
            .request(Method::GET, path, HeaderMap::new(), Body::empty())
            .await
            .unwrap();
        String::from_utf8(answer.bytes(1 << 20).await.unwrap().to_vec()).unwrap()
    };
    assert_eq!(text("/healthz").await, "ok\n");
    assert!(text("/metrics").await.contains("surplus_syncs_total 0"));
    let trust: Trust = stranger.get_json("/api/v1/trust").await.unwrap();
    assert_eq!(trust.urls, [format!("https://{}", market.address)]);
    let openapi: serde_json::Value = stranger.get_json("/api/v1/openapi.json").await.unwrap();
    assert!(openapi["paths"]["/api/v1/leases/{id}/console"]["get"].is_object());
}

/// Write it anew with `cargo run -p surplus-marketplace -- openapi > docs/openapi.json`.
#[test]
fn the_committed_openapi_document_is_what_the_program_serves() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap();
    let mut served = surplus_marketplace::openapi().to_pretty_json().unwrap();
    served.push('\n');
    assert!(
        committed == served,
        "docs/openapi.json is not what the program serves"
    );
}
