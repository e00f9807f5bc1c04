//! Who may renew what.

use jiff::SignedDuration;
use surplus_https::ClientError;
use surplus_pki::{Certificate, CertificateRequest, KeyPair, est};

use crate::registrar::{Marketplace, certificate, post};

/// Past a host certificate's lifetime.
const LONG: SignedDuration = SignedDuration::from_hours(24 * 200);

async fn renew(
    marketplace: &Marketplace,
    (key, old): (&KeyPair, &Certificate),
    request: &CertificateRequest,
) -> Result<Certificate, String> {
    let client = marketplace.known(key, old);
    match post(
        &client,
        "simplereenroll",
        None,
        est::encode_request(request),
    )
    .await
    {
        Ok(answer) => Ok(certificate(answer).await),
        Err(ClientError::Problem { problem, .. }) => Err(problem.name().to_owned()),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_host_renews_with_its_old_key_or_a_new_one() {
    let marketplace = Marketplace::start(1).await;
    let (key, first) = marketplace.enrolled().await;
    let request = CertificateRequest::renew(&key, &first).unwrap();
    let second = renew(&marketplace, (&key, &first), &request).await.unwrap();
    assert_ne!(second.serial_hex(), first.serial_hex());
    let new_key = KeyPair::generate().unwrap();
    let request = CertificateRequest::renew(&new_key, &second).unwrap();
    let third = renew(&marketplace, (&key, &second), &request)
        .await
        .unwrap();
    assert_eq!(third.names(), first.names());
    assert_eq!(third.key_fingerprint(), new_key.fingerprint());
    // The key that was replaced is worth nothing now.
    let refused = renew(&marketplace, (&key, &second), &request).await;
    assert_eq!(refused.unwrap_err(), "not-registered");
}

#[tokio::test]
async fn a_host_that_was_off_for_long_comes_back_with_its_key() {
    let marketplace = Marketplace::start(1).await;
    let (key, old) = marketplace.enrolled().await;
    marketplace.register.time.forward(LONG);
    let new_key = KeyPair::generate().unwrap();
    let request = CertificateRequest::renew(&new_key, &old).unwrap();
    let refused = renew(&marketplace, (&key, &old), &request).await;
    assert_eq!(refused.unwrap_err(), "expired-new-key");
    let request = CertificateRequest::renew(&key, &old).unwrap();
    let fresh = renew(&marketplace, (&key, &old), &request).await.unwrap();
    assert!(fresh.is_valid_at(marketplace.register.time.now()));
}

#[tokio::test]
async fn an_expired_certificate_whose_key_is_not_registered_any_more_is_refused() {
    let marketplace = Marketplace::start(1).await;
    let (key, old) = marketplace.enrolled().await;
    let new_key = KeyPair::generate().unwrap();
    let request = CertificateRequest::renew(&new_key, &old).unwrap();
    renew(&marketplace, (&key, &old), &request).await.unwrap();
    marketplace.register.time.forward(LONG);
    let request = CertificateRequest::renew(&key, &old).unwrap();
    assert_eq!(
        renew(&marketplace, (&key, &old), &request)
            .await
            .unwrap_err(),
        "not-registered"
    );
}

#[tokio::test]
async fn one_host_cannot_ask_for_anothers_certificate() {
    let marketplace = Marketplace::start(2).await;
    let (key_a, a) = marketplace.enrolled().await;
    let (key_b, b) = marketplace.enrolled().await;
    for key in [&key_a, &key_b] {
        let request = CertificateRequest::renew(key, &b).unwrap();
        assert_eq!(
            renew(&marketplace, (&key_a, &a), &request)
                .await
                .unwrap_err(),
            "another-host"
        );
    }
    let more = [a.dns_names()[0].to_owned(), b.dns_names()[0].to_owned()];
    let request = CertificateRequest::create(&key_a, a.common_name().unwrap(), &more).unwrap();
    assert_eq!(
        renew(&marketplace, (&key_a, &a), &request)
            .await
            .unwrap_err(),
        "another-host"
    );
}

#[tokio::test]
async fn nobody_renews_without_a_hosts_certificate() {
    let marketplace = Marketplace::start(1).await;
    let (key, old) = marketplace.enrolled().await;
    let request = CertificateRequest::renew(&key, &old).unwrap();
    let client = marketplace.builder().build().unwrap();
    let error = post(
        &client,
        "simplereenroll",
        None,
        est::encode_request(&request),
    )
    .await
    .unwrap_err();
    assert_eq!(error.problem().unwrap().name(), "certificate-required");
}
