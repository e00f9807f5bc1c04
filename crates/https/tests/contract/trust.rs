//! What a client believes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use surplus_https::client::{TimeError, server_time};
use surplus_https::{Client, ClientError, Clock, ServerIdentity, Trust};
use surplus_pki::{Authority, KeyPair};

use super::site::{Site, who};

fn untrusted(answer: Result<serde_json::Value, ClientError>) -> String {
    match answer {
        Err(ClientError::Untrusted { reason, .. }) => reason,
        other => panic!("expected to be distrusted, got {other:?}"),
    }
}

#[tokio::test]
async fn a_server_of_the_ca_is_believed_over_http2_and_tls_1_3() {
    let site = Site::start().await;
    let who = who(&site.client()).await;
    assert_eq!((who.http.as_str(), who.tls.as_str()), ("HTTP/2.0", "1.3"));
    assert_eq!(who.certificate, "none");
}

#[tokio::test]
async fn a_pinned_ca_is_found_in_the_chain() {
    let site = Site::start().await;
    let pin = Trust::Pin(site.authority.certificate().fingerprint());
    let client = Client::builder()
        .url(site.url())
        .trust(pin)
        .build()
        .unwrap();
    who(&client).await;
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_named() {
    let site = Site::start().await;
    let client = Client::builder()
        .url(site.url())
        .trust(Trust::Pin([0xab; 32]))
        .build()
        .unwrap();
    let answer = client.get_json("/who").await;
    assert!(!answer.as_ref().unwrap_err().retryable());
    let (reason, seen) = (untrusted(answer), site.authority.certificate());
    assert!(reason.contains(&"ab".repeat(32)), "{reason}");
    let seen: String = seen
        .fingerprint()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(reason.contains(&format!("but sha256:{seen}")), "{reason}");
}

#[tokio::test]
async fn a_pin_names_a_ca_and_not_the_server_itself() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1".to_owned()];
    let leaf = site
        .authority
        .issue_server(&names, &key, site.time.now())
        .unwrap();
    // The leaf twice: as server and where its CA should be.
    site.identity.replace(&key, &leaf, &leaf).unwrap();
    let pin = Trust::Pin(leaf.fingerprint());
    let client = Client::builder()
        .url(site.url())
        .trust(pin)
        .build()
        .unwrap();
    let reason = untrusted(client.get_json("/who").await);
    assert!(reason.contains("no CA certificate"), "{reason}");
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let site = Site::start().await;
    let other = Authority::create(site.time.now()).unwrap();
    let trust = Trust::Authority(other.certificate().clone());
    let client = Client::builder()
        .url(site.url())
        .trust(trust)
        .build()
        .unwrap();
    let reason = untrusted(client.get_json("/who").await);
    assert!(reason.contains("not issued by the CA"), "{reason}");
}

#[tokio::test]
async fn a_host_cannot_pose_as_the_marketplace() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let host = site.host(&key, SignedDuration::from_hours(1));
    site.identity
        .replace(&key, &host, site.authority.certificate())
        .unwrap();
    untrusted(site.client().get_json("/who").await);
}

#[tokio::test]
async fn a_server_under_another_name_is_refused() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let names = ["other.example".to_owned()];
    let certificate = site
        .authority
        .issue_server(&names, &key, site.time.now())
        .unwrap();
    site.identity
        .replace(&key, &certificate, site.authority.certificate())
        .unwrap();
    untrusted(site.client().get_json("/who").await);
}

#[tokio::test]
async fn the_certificate_is_exchanged_while_the_server_runs() {
    let site = Site::start().await;
    let other = Authority::create(site.time.now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1".to_owned()];
    let certificate = other.issue_server(&names, &key, site.time.now()).unwrap();
    site.identity
        .replace(&key, &certificate, other.certificate())
        .unwrap();
    untrusted(site.client().get_json("/who").await);
    let trust = Trust::Authority(other.certificate().clone());
    who(&site.builder().trust(trust).build().unwrap()).await;
    let foreign = KeyPair::generate().unwrap();
    assert!(ServerIdentity::new(&foreign, &certificate, other.certificate()).is_err());
}

#[tokio::test]
async fn a_host_at_1970_learns_the_time_from_the_pinned_server_alone() {
    let site = Site::start().await;
    let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
    let pin = Trust::Pin(site.authority.certificate().fingerprint());
    let builder = Client::builder().url(site.url()).clock(clock);
    let lost = builder
        .clone()
        .trust(pin.clone())
        .build()
        .unwrap()
        .get_json("/who")
        .await;
    assert!(
        lost.as_ref().unwrap_err().retryable(),
        "a clock can be set right"
    );
    untrusted(lost);
    let told = server_time(builder.clone().trust(pin), "/healthz")
        .await
        .unwrap();
    assert!(told.duration_since(Timestamp::now()).abs() < SignedDuration::from_secs(60));
    let wrong = server_time(builder.trust(Trust::Pin([0; 32])), "/healthz").await;
    assert!(
        matches!(wrong, Err(TimeError::Client(ClientError::Untrusted { .. }))),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn a_time_outside_of_the_servers_own_validity_is_not_believed() {
    let site = Site::start().await;
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1".to_owned()];
    // As a key would be that was stolen long ago.
    let old = site.time.now() - SignedDuration::from_hours(24 * 365);
    let authority = Authority::create(old).unwrap();
    let certificate = authority.issue_server(&names, &key, old).unwrap();
    site.identity
        .replace(&key, &certificate, authority.certificate())
        .unwrap();
    let trust = Trust::Authority(authority.certificate().clone());
    let told = server_time(site.builder().trust(trust), "/healthz").await;
    assert!(
        matches!(told, Err(TimeError::Implausible { .. })),
        "{told:?}"
    );
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_tried_again_later() {
    let site = Site::start().await;
    let dead = "https://127.0.0.1:1";
    let timeout = Duration::from_secs(5);
    let client = Client::builder()
        .url(dead)
        .trust(site.trust())
        .connect_timeout(timeout)
        .build()
        .unwrap();
    let error = client.get_json::<()>("/who").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Connect { .. }) && error.retryable(),
        "{error:?}"
    );
    // With a second address the first does no harm, wherever the shuffle put it.
    for _ in 0..4 {
        who(&site.builder().url(dead).build().unwrap()).await;
    }
}
