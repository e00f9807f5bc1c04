//! Tokens, waiting, guessing, nonsense.

use std::time::Duration;

use http::StatusCode;
use surplus_https::{ClientError, Response};
use surplus_pki::{CertificateRequest, KeyPair, est, host_dns_name};
use surplus_protocol::enrol::{FACTS_HEADER, HostFacts};

use crate::registrar::{Marketplace, RETRY, TOKEN, certificate, post};

async fn enrol(
    marketplace: &Marketplace,
    token: Option<&str>,
    body: impl Into<surplus_https::Body>,
) -> Result<Response, ClientError> {
    post(
        &marketplace.builder().build().unwrap(),
        "simpleenroll",
        token,
        body,
    )
    .await
}

fn request() -> String {
    let key = KeyPair::generate().unwrap();
    est::encode_request(&CertificateRequest::create(&key, "new", &[]).unwrap())
}

fn refusal(answer: Result<Response, ClientError>) -> (u16, String) {
    let error = answer.unwrap_err();
    let problem = error.problem().unwrap_or_else(|| panic!("{error:?}"));
    assert!(
        !problem.next.is_empty() && !problem.detail.contains(TOKEN),
        "{problem}"
    );
    (problem.status, problem.name().to_owned())
}

#[tokio::test]
async fn a_spent_token_is_refused_but_a_lost_answer_can_be_asked_for_again() {
    let marketplace = Marketplace::start(1).await;
    let request_a = request();
    let first = certificate(
        enrol(&marketplace, Some(TOKEN), request_a.clone())
            .await
            .unwrap(),
    )
    .await;
    let again = certificate(enrol(&marketplace, Some(TOKEN), request_a).await.unwrap()).await;
    assert_eq!(again.common_name(), first.common_name());
    let refused = enrol(&marketplace, Some(TOKEN), request()).await;
    assert_eq!(refusal(refused), (401, "token-spent".to_owned()));
}

#[tokio::test]
async fn without_a_token_the_request_waits_until_it_is_approved() {
    let marketplace = Marketplace::start(0).await;
    let request = request();
    let answer = enrol(&marketplace, None, request.clone()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.retry_after(), Some(RETRY));
    for approved in marketplace
        .register
        .state
        .lock()
        .unwrap()
        .pending
        .values_mut()
    {
        *approved = true;
    }
    certificate(enrol(&marketplace, None, request).await.unwrap()).await;
}

#[tokio::test]
async fn guessing_at_tokens_is_slowed_down_and_says_until_when() {
    let marketplace = Marketplace::start(1).await;
    let request = request();
    let mut guesses = 0;
    let error = loop {
        let error = enrol(&marketplace, Some("wrong"), request.clone())
            .await
            .unwrap_err();
        if error.status() != Some(401) {
            break error;
        }
        guesses += 1;
        assert!(guesses < 100, "never slowed down");
    };
    assert_eq!(error.problem().unwrap().name(), "too-many-attempts");
    assert!(error.retryable());
    let wait = error.retry_after().unwrap();
    assert!(
        wait >= Duration::from_secs(1) && wait <= Duration::from_secs(3),
        "{wait:?}"
    );
    // A good token from there waits too: its goodness must not be told.
    assert_eq!(
        refusal(enrol(&marketplace, Some(TOKEN), request).await).0,
        429
    );
}

#[tokio::test]
async fn asking_on_without_a_token_is_slowed_down_and_says_until_when() {
    let marketplace = Marketplace::start(1).await;
    let request = request();
    let mut passed = 0;
    let error = loop {
        match enrol(&marketplace, None, request.clone()).await {
            Ok(answer) => assert_eq!(answer.status(), StatusCode::ACCEPTED),
            Err(error) => break error,
        }
        passed += 1;
        assert!(passed < 1000, "never slowed down");
    };
    assert!(passed >= 120, "a rack behind one address is held up");
    assert_eq!(error.problem().unwrap().name(), "too-many-attempts");
    assert!(error.retry_after().unwrap() >= Duration::from_secs(1));
    // Tokens are counted apart: who has one is not held up.
    enrol(&marketplace, Some(TOKEN), request).await.unwrap();
}

#[tokio::test]
async fn a_first_request_cannot_choose_its_host() {
    let marketplace = Marketplace::start(2).await;
    let (_, victim) = marketplace.enrolled().await;
    let id = victim.common_name().unwrap();
    let dns = host_dns_name(id);
    let key = KeyPair::generate().unwrap();
    for (name, dns) in [
        (id, vec![]),
        ("new", vec![dns.clone()]),
        (dns.as_str(), vec![]),
    ] {
        let request = CertificateRequest::create(&key, name, &dns).unwrap();
        let refused = enrol(&marketplace, Some(TOKEN), est::encode_request(&request)).await;
        assert_eq!(refusal(refused), (403, "names-a-host".to_owned()));
    }
    assert_eq!(
        marketplace.register.state.lock().unwrap().uses,
        1,
        "nothing was spent"
    );
}

#[tokio::test]
async fn nonsense_is_refused_and_spends_nothing() {
    let marketplace = Marketplace::start(1).await;
    let key = KeyPair::generate().unwrap();
    let mut forged = CertificateRequest::create(&key, "new", &[])
        .unwrap()
        .der()
        .to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let bodies = [Vec::new(), b"hello".to_vec(), forged, vec![b'M'; 100_000]];
    for body in bodies {
        let refused = enrol(&marketplace, Some(TOKEN), body).await;
        assert_eq!(refusal(refused), (400, "bad-request".to_owned()));
    }
    assert_eq!(marketplace.register.state.lock().unwrap().uses, 1);
}

#[tokio::test]
async fn what_a_host_says_of_itself_arrives() {
    let marketplace = Marketplace::start(1).await;
    let facts = HostFacts {
        site: "Zürich 1".to_owned(),
        ..HostFacts::default()
    };
    let client = marketplace
        .builder()
        .header(FACTS_HEADER.parse().unwrap(), &facts.to_header())
        .unwrap()
        .build()
        .unwrap();
    post(&client, "simpleenroll", Some(TOKEN), request())
        .await
        .unwrap();
    assert_eq!(
        marketplace.register.state.lock().unwrap().sites,
        ["Zürich 1"]
    );
}
