//! curl with openssl.

use surplus_pki::{Certificate, host_dns_name};

use crate::registrar::Marketplace;
use crate::tools::{Target, Workshop};

pub(crate) const VERSIONS: [&str; 2] = ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"];

/// Shows the first certificate in TLS.
const SHOWN: &str = "--cert first.pem --key first.key";

/// Makes `NAME.key` and the request `NAME.b64`, wrapped as base64(1) does it.
async fn request(workshop: &Workshop, name: &str, kind: &str, subject: &str, options: &str) {
    let key = format!("openssl req -new -newkey {kind} -nodes -keyout {name}.key -subj {subject}");
    workshop
        .must(&format!("{key} {options} -outform DER -out {name}.der"))
        .await;
    let wrapped = workshop.must(&format!("base64 {name}.der")).await;
    workshop.write(&format!("{name}.b64"), wrapped);
}

/// Opens the answer `NAME.p7` into `NAME.pem`; openssl has to find it good.
async fn open(workshop: &Workshop, name: &str) -> Certificate {
    let der = workshop.must(&format!("base64 -d {name}.p7")).await;
    workshop.write(&format!("{name}.p7.der"), der);
    let print = "openssl pkcs7 -inform DER -print_certs";
    workshop
        .must(&format!("{print} -in {name}.p7.der -out {name}.pem"))
        .await;
    workshop
        .must(&format!(
            "openssl verify -CAfile ca.pem -purpose sslclient {name}.pem"
        ))
        .await;
    let pem = workshop.read(&format!("{name}.pem"));
    Certificate::from_pem(&pem[pem.find("-----BEGIN").unwrap()..]).unwrap()
}

fn post(target: &Target, operation: &str, options: &str) -> String {
    let url = target.url(operation);
    let media = "Content-Type:%application/pkcs10";
    format!("curl -sS --fail-with-body --cacert ca.pem -H {media} {options} {url}")
}

#[tokio::test]
async fn the_ca_is_fetched_and_opened() {
    let marketplace = Marketplace::start(0).await;
    let target = marketplace.target();
    let workshop = target.workshop();
    for version in VERSIONS {
        let url = target.url("cacerts");
        workshop
            .must(&format!(
                "curl -sS --fail {version} --cacert ca.pem -o ca.p7 {url}"
            ))
            .await;
        let der = workshop.must("base64 -d ca.p7").await;
        workshop.write("ca.p7.der", der);
        let printed = workshop
            .must("openssl pkcs7 -inform DER -print_certs -in ca.p7.der")
            .await;
        let printed = String::from_utf8(printed).unwrap();
        let certificate = Certificate::from_pem(&printed[printed.find("-----BEGIN").unwrap()..]);
        assert_eq!(certificate.unwrap(), *marketplace.ca());
    }
}

#[tokio::test]
async fn curl_enrols_and_renews_over_both_versions_of_tls() {
    let marketplace = Marketplace::start(2).await;
    let target = marketplace.target();
    for version in VERSIONS {
        let (workshop, _) = enrol_and_renew(&target, version).await;
        // The first certificate is no longer the registered one.
        let options = format!("{version} {SHOWN} --data @second.b64");
        let line = post(&target, "simplereenroll", &options);
        let said = workshop.run(&line).await;
        assert!(!said.success);
        let body = String::from_utf8(said.stdout).unwrap();
        assert!(body.contains("not-registered"), "{body}");
    }
}

/// Enrols as `first` with the target's token, and renews as `second`.
pub(crate) async fn enrol_and_renew(target: &Target, version: &str) -> (Workshop, Certificate) {
    let (workshop, token) = (target.workshop(), &target.token);
    let kind = "ec -pkeyopt ec_paramgen_curve:P-256";
    request(&workshop, "first", kind, "/CN=machine", "").await;
    let options = format!("{version} --user any:{token} --data @first.b64 -o first.p7");
    let line = post(target, "simpleenroll", &options);
    workshop.must(&line).await;
    let first = open(&workshop, "first").await;
    let host = first.common_name().unwrap().to_owned();
    assert_eq!(first.dns_names(), [host_dns_name(&host)]);

    let subject = format!("/CN={host}");
    let names = format!("-addext subjectAltName=DNS:{}", host_dns_name(&host));
    request(&workshop, "second", kind, &subject, &names).await;
    let options = format!("{version} {SHOWN} --data-binary @second.b64 -o second.p7");
    let line = post(target, "simplereenroll", &options);
    workshop.must(&line).await;
    let second = open(&workshop, "second").await;
    assert_eq!(second.common_name(), Some(host.as_str()));
    assert_ne!(second.key_fingerprint(), first.key_fingerprint());
    (workshop, second)
}

#[tokio::test]
async fn pem_and_raw_der_and_rsa_are_taken() {
    let marketplace = Marketplace::start(2).await;
    let target = marketplace.target();
    let workshop = target.workshop();
    request(&workshop, "der", "rsa:2048", "/CN=machine", "").await;
    let pem = workshop.must("openssl req -inform DER -in der.der").await;
    workshop.write("pem.b64", pem);
    for (name, body) in [("der", "der.der"), ("pem", "pem.b64")] {
        let options = format!(
            "--user any:{} --data-binary @{body} -o {name}.p7",
            target.token
        );
        workshop
            .must(&post(&target, "simpleenroll", &options))
            .await;
        open(&workshop, name).await;
    }
}

#[tokio::test]
async fn a_bad_token_is_answered_with_a_challenge_and_a_problem_document() {
    let marketplace = Marketplace::start(1).await;
    let target = marketplace.target();
    let workshop = target.workshop();
    request(
        &workshop,
        "a",
        "ec -pkeyopt ec_paramgen_curve:P-256",
        "/CN=a",
        "",
    )
    .await;
    let options = "--user any:wrong --data @a.b64 -D head";
    let said = workshop.run(&post(&target, "simpleenroll", options)).await;
    assert!(!said.success);
    let head = workshop.read("head").to_ascii_lowercase();
    assert!(
        head.contains(" 401 ") && head.contains("www-authenticate: basic realm="),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/problem+json"),
        "{head}"
    );
    let body = String::from_utf8(said.stdout).unwrap();
    assert!(
        body.contains("token-unknown") && body.contains("surplus token create"),
        "{body}"
    );
    assert!(!body.contains("wrong"), "{body}");
}
