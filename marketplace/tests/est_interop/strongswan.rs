//! strongSwan's `pki`, whose TLS is its own.

use std::time::Duration;

use surplus_pki::{Certificate, host_dns_name};

use crate::registrar::Marketplace;
use crate::tools::{Target, Workshop};

/// Makes `NAME.key` and the request `NAME.req`, both PEM.
async fn request(workshop: &Workshop, name: &str, subject: &str, options: &str) {
    let key = workshop
        .must("pki --gen --type ecdsa --size 256 --outform pem")
        .await;
    workshop.write(&format!("{name}.key"), key);
    let make = "pki --req --type priv --outform pem";
    let line = format!("{make} --in {name}.key --dn {subject} {options}");
    let request = workshop.must(&line).await;
    workshop.write(&format!("{name}.req"), request);
}

fn est(target: &Target, options: &str) -> String {
    // It takes the server alone and adds the well-known path itself.
    let url = target.base();
    format!("pki --est --url {url} --cacert ca.pem --outform pem {options}")
}

#[tokio::test]
async fn strongswan_enrols_and_renews() {
    let marketplace = Marketplace::start(1).await;
    enrol_and_renew(&marketplace.target()).await;
}

/// Enrols as `first` with the target's token, and renews as `second`.
pub(crate) async fn enrol_and_renew(target: &Target) {
    let workshop = target.workshop();
    request(&workshop, "first", "CN=machine", "").await;
    let options = format!("--in first.req --userpass any:{}", target.token);
    let pem = workshop.must(&est(target, &options)).await;
    workshop.write("first.pem", &pem);
    let first = Certificate::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap();
    let host = first.common_name().unwrap().to_owned();

    let names = format!("--san {}", host_dns_name(&host));
    request(&workshop, "second", &format!("CN={host}"), &names).await;
    let options = "--in second.req --cert first.pem --key first.key";
    let pem = workshop.must(&est(target, options)).await;
    let second = Certificate::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap();
    assert_eq!(second.common_name(), Some(host.as_str()));
    assert_ne!(second.key_fingerprint(), first.key_fingerprint());
}

#[tokio::test]
async fn strongswan_waits_while_pending_and_gets_its_certificate_once_approved() {
    let marketplace = Marketplace::start(0).await;
    let target = marketplace.target();
    let workshop = target.workshop();
    request(&workshop, "host", "CN=machine", "").await;
    let line = est(&target, "--in host.req --interval 1 --maxpolltime 50");
    let waiting = workshop.must(&line);
    let approving = async {
        // The register is the condition: asked at least once.
        loop {
            {
                let mut state = marketplace.register.state.lock().unwrap();
                if let Some(approved) = state.pending.values_mut().next() {
                    *approved = true;
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (pem, ()) = tokio::join!(waiting, approving);
    Certificate::from_pem(std::str::from_utf8(&pem).unwrap()).unwrap();
}

#[tokio::test]
async fn strongswan_fetches_the_ca() {
    let marketplace = Marketplace::start(0).await;
    let target = marketplace.target();
    let workshop = target.workshop();
    let url = target.base();
    let line = format!("pki --estca --url {url} --cacert ca.pem --caout fetched.pem --outform pem");
    workshop.must(&line).await;
    let fetched = std::fs::read_dir(workshop.path(""))
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("fetched"))
        .unwrap();
    assert_eq!(
        Certificate::from_pem(&workshop.read(&fetched)).unwrap(),
        *marketplace.ca()
    );
}
