//! Who may join, and who may not any more.

use jiff::{SignedDuration, Timestamp};
use surplus_pki::KeyPair;
use surplus_protocol::agent::SyncRequest;
use surplus_protocol::api::{CreateToken, Host, HostState};
use surplus_protocol::enrol::HostFacts;
use surplus_protocol::ids::{BootId, HostId, LeaseId};
use surplus_protocol::inventory::HardwareIdentity;

use crate::fake_host::{FakeHost, PATIENCE, enrol_with, renew};
use crate::marketplace::{Market, digest, problem};

async fn host(market: &Market, id: HostId) -> Host {
    market.get(&format!("/api/v1/hosts/{id}")).await.unwrap()
}

async fn judge(market: &Market, id: HostId, word: &str) -> Host {
    market
        .post(&format!("/api/v1/hosts/{id}/{word}"), &())
        .await
        .unwrap()
}

#[tokio::test]
async fn of_enrolments_racing_for_a_single_use_token_one_wins() {
    let market = Market::start().await;
    let token = market.token(Some(1)).await;
    let racers = (0..8)
        .map(|_| async { enrol_with(&market, &KeyPair::generate().unwrap(), Some(&token)).await });
    let answers = futures_util::future::join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for answer in lost {
        assert_eq!(problem(answer).name(), "token-spent");
    }
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    assert_eq!(hosts.len(), 1);
}

#[tokio::test]
async fn tokens_that_are_expired_unknown_or_for_another_network_are_refused() {
    let market = Market::start().await;
    let enrol = async |token: String| {
        problem(enrol_with(&market, &KeyPair::generate().unwrap(), Some(&token)).await)
    };
    let order = |name: &str| CreateToken {
        name: name.to_owned(),
        uses: None,
        expires_at: None,
        networks: Vec::new(),
    };
    let expires_at = Some(Timestamp::now() + SignedDuration::from_secs(60));
    let short = market
        .token_as(&CreateToken {
            expires_at,
            ..order("short")
        })
        .await;
    let networks = vec!["192.0.2.0/24".to_owned()];
    let far = market
        .token_as(&CreateToken {
            networks,
            ..order("far")
        })
        .await;
    market.hands.forward(SignedDuration::from_secs(61));
    assert_eq!(enrol(short).await.name(), "token-expired");
    let refused = enrol(far).await;
    assert_eq!(refused.name(), "token-network");
    assert!(refused.detail.contains("127.0.0.1"), "{}", refused.detail);
    assert!(
        refused.detail.contains("192.0.2.0/24"),
        "{}",
        refused.detail
    );
    assert_eq!(
        enrol("surplus_join_guess".to_owned()).await.name(),
        "token-unknown"
    );
}

#[tokio::test]
async fn a_token_for_an_ipv4_network_is_good_on_a_port_for_both() {
    let market = Market::start_for_both().await;
    let order = |name: &str, network: &str| CreateToken {
        name: name.to_owned(),
        uses: None,
        expires_at: None,
        networks: vec![network.to_owned()],
    };
    for (name, network) in [("plain", "127.0.0.0/8"), ("mapped", "::ffff:127.0.0.0/104")] {
        let token = market.token_as(&order(name, network)).await;
        let key = KeyPair::generate().unwrap();
        assert!(
            enrol_with(&market, &key, Some(&token))
                .await
                .unwrap()
                .is_some()
        );
    }
    let far = market.token_as(&order("far", "192.0.2.0/24")).await;
    let refused = problem(enrol_with(&market, &KeyPair::generate().unwrap(), Some(&far)).await);
    assert!(
        refused.detail.contains("from 127.0.0.1,"),
        "{}",
        refused.detail
    );
}

#[tokio::test]
async fn what_a_host_says_of_itself_is_cut_to_size() {
    let market = Market::start().await;
    let facts = HostFacts {
        site: format!("a\tb{}", "s".repeat(500)),
        rack: "r".repeat(500),
        key_storage: "k".repeat(500),
        identity: HardwareIdentity {
            product: Some("p".repeat(5000)),
            ..crate::fake_host::machine("uuid-1")
        },
        cpu_model: "c".repeat(5000),
        memory_bytes: u64::MAX,
    };
    let key = KeyPair::generate().unwrap();
    let asked = crate::fake_host::enrol_saying(&market, &key, None, &facts).await;
    assert!(asked.unwrap().is_none());
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    let host = &hosts[0];
    assert_eq!((host.site.len(), host.rack.len()), (64, 64));
    assert!(host.site.starts_with("abs"), "{}", host.site);
    assert_eq!(host.key_storage.len(), 64);
    assert_eq!(host.identity.product.as_ref().unwrap().len(), 512);
    assert_eq!(host.cpu_model.len(), 512);
}

#[tokio::test]
async fn an_approval_while_the_old_boot_may_live_makes_no_second_host() {
    let market = Market::start().await;
    let mut first = FakeHost::enrolled(&market).await;
    let mut hello = first.introduction();
    let facts = crate::fake_host::machine("uuid-1");
    hello.inventory.as_mut().unwrap().identity = facts.clone();
    first.sync(hello).await.unwrap();
    let key = KeyPair::generate().unwrap();
    let ask = async || {
        let asked = crate::fake_host::enrol_as(&market, &key, None, facts.clone());
        asked.await.unwrap()
    };
    assert!(ask().await.is_none());
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    let waits = hosts.iter().find(|host| host.id != first.id).unwrap();
    let approved = judge(&market, waits.id, "approve").await;
    assert_eq!(approved.state, HostState::Pending, "{}", approved.detail);
    assert!(ask().await.is_none(), "the old boot may live still");
    market.hands.forward(SignedDuration::from_secs(121));
    let certificate = ask().await.unwrap();
    assert_eq!(
        certificate.common_name(),
        Some(first.id.to_string().as_str())
    );
    assert_eq!(
        problem(first.sync(first.nothing()).await).name(),
        "not-registered"
    );
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    assert_eq!(hosts.len(), 1, "a ghost stayed in the register");
}

#[tokio::test]
async fn a_host_without_a_token_waits_for_approval() {
    let market = Market::start().await;
    let key = KeyPair::generate().unwrap();
    assert!(enrol_with(&market, &key, None).await.unwrap().is_none());
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    assert_eq!(hosts[0].state, HostState::Pending);
    judge(&market, hosts[0].id, "approve").await;
    let certificate = enrol_with(&market, &key, None).await.unwrap().unwrap();
    assert_eq!(
        certificate.common_name(),
        Some(hosts[0].id.to_string().as_str())
    );
}

#[tokio::test]
async fn a_host_without_a_certificate_or_with_another_key_is_refused() {
    let market = Market::start().await;
    let request = FakeHost::enrolled(&market).await.introduction();
    let sync = async |client: surplus_https::Client| {
        let path = surplus_protocol::agent::SYNC_PATH;
        problem(client.post_json::<serde_json::Value>(path, &request).await)
    };
    assert_eq!(sync(market.stranger()).await.name(), "certificate-required");
    // A certificate of our CA for a host that the register knows by another key.
    let elsewhere = Market::start().await;
    let stolen = FakeHost::enrolled(&elsewhere).await;
    let foreign = market
        .builder()
        .identity(stolen.key, stolen.certificate)
        .build()
        .unwrap();
    let path = surplus_protocol::agent::SYNC_PATH;
    let refused = foreign.post_json::<serde_json::Value>(path, &request).await;
    assert!(refused.is_err(), "another CA's certificate was taken");
}

#[tokio::test]
async fn a_removed_host_is_refused_on_a_live_connection() {
    let market = Market::start().await;
    let mut removed = FakeHost::offering(&market).await;
    let mut waiting = removed.clone();
    let poll = tokio::spawn(async move {
        let request = SyncRequest {
            wait_seconds: 55,
            ..waiting.nothing()
        };
        waiting.sync(request).await
    });
    judge(&market, removed.id, "reject").await;
    assert_eq!(
        problem(removed.sync(removed.nothing()).await).name(),
        "host-rejected"
    );
    let poll = tokio::time::timeout(PATIENCE, poll).await.unwrap().unwrap();
    assert_eq!(problem(poll).name(), "host-rejected");
    // Every path asks the register, not the sync alone.
    let image = format!("/agent/v1/images/{}", digest(b"any"));
    let refused = removed.client.download(&image, 0).await;
    assert_eq!(problem(refused).name(), "host-rejected");
    let console = removed.write_console(LeaseId::new_v4(), 0, "x").await;
    assert_eq!(problem(console).name(), "host-rejected");
    judge(&market, removed.id, "approve").await;
    removed.sync(removed.nothing()).await.unwrap();
}

#[tokio::test]
async fn two_live_boots_under_one_identity_are_quarantined() {
    let market = Market::start().await;
    let mut one = FakeHost::offering(&market).await;
    let mut two = one.clone();
    two.boot = BootId::new_v4();
    two.sync(two.nothing()).await.unwrap();
    assert_eq!(
        problem(one.sync(one.nothing()).await).name(),
        "boot-superseded"
    );
    // A single late request is not a second machine.
    two.sync(two.nothing()).await.unwrap();
    assert_eq!(
        problem(one.sync(one.nothing()).await).name(),
        "host-quarantined"
    );
    assert_eq!(
        problem(two.sync(two.nothing()).await).name(),
        "host-quarantined"
    );
    let shown = host(&market, one.id).await;
    assert_eq!(shown.state, HostState::Quarantined);
    assert!(
        shown.detail.contains(&two.boot.to_string()),
        "{}",
        shown.detail
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_the_way_out() {
    let market = Market::start().await;
    let mut late = FakeHost::offering(&market).await;
    market.hands.forward(SignedDuration::from_hours(24 * 89));
    late.sync(late.nothing()).await.unwrap();
    // The TLS port's own certificate lasts as long as a host's.
    // The host was away for three months after its own had run out.
    market.hands.forward(SignedDuration::from_hours(24 * 91));
    let market = market.restart().await;
    late.reconnect(&market);
    let refused = problem(late.sync(late.nothing()).await);
    assert_eq!(refused.name(), "certificate-expired");
    assert!(refused.next.contains("simplereenroll"));
    // With the known key it comes back without a visit.
    let renewed = renew(&late, &late.key).await.unwrap();
    let mut back = FakeHost::new(&market, late.key.clone(), renewed);
    assert_eq!(back.id, late.id);
    back.boot = late.boot;
    back.sync(back.nothing()).await.unwrap();
}

#[tokio::test]
async fn a_new_key_takes_the_old_ones_place_with_its_first_use() {
    let market = Market::start().await;
    let mut old = FakeHost::offering(&market).await;
    let key = KeyPair::generate().unwrap();
    renew(&old, &key).await.unwrap();
    // The answer was lost: the old key is still good, also for asking again.
    old.sync(old.nothing()).await.unwrap();
    let certificate = renew(&old, &key).await.unwrap();
    let mut new = FakeHost::new(&market, key, certificate);
    new.boot = old.boot;
    new.sync(new.nothing()).await.unwrap();
    assert_eq!(
        problem(old.sync(old.nothing()).await).name(),
        "not-registered"
    );
    assert_eq!(
        problem(renew(&old, &old.key).await).name(),
        "not-registered"
    );
}

#[tokio::test]
async fn a_removed_host_cannot_renew() {
    let market = Market::start().await;
    let removed = FakeHost::enrolled(&market).await;
    judge(&market, removed.id, "reject").await;
    assert_eq!(
        problem(renew(&removed, &removed.key).await).name(),
        "host-rejected"
    );
    let again = enrol_with(&market, &removed.key, None).await;
    assert_eq!(problem(again).name(), "host-rejected");
}

#[tokio::test]
async fn the_same_machine_with_a_new_key_keeps_its_name_if_a_token_vouches_for_it() {
    let market = Market::start().await;
    let mut first = FakeHost::enrolled(&market).await;
    let mut hello = first.introduction();
    let facts = crate::fake_host::machine("uuid-1");
    hello.inventory.as_mut().unwrap().identity = facts.clone();
    first.sync(hello).await.unwrap();
    let token = market.token(Some(1)).await;
    let key = KeyPair::generate().unwrap();
    let enrol = async || {
        let certificate = crate::fake_host::enrol_as(&market, &key, Some(&token), facts.clone());
        certificate.await.unwrap()
    };
    // The first was alive a moment ago: nobody is let in yet, nothing is spent.
    assert!(enrol().await.is_none());
    market.hands.forward(SignedDuration::from_secs(121));
    let mut back = FakeHost::new(&market, key.clone(), enrol().await.unwrap());
    assert_eq!(back.id, first.id);
    back.sync(back.introduction()).await.unwrap();
    assert_eq!(
        problem(first.sync(first.nothing()).await).name(),
        "not-registered"
    );
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    assert_eq!(hosts.len(), 1, "a ghost stayed in the register");
}

#[tokio::test]
async fn a_held_sync_whose_connection_closed_makes_way_for_the_next_boot() {
    let market = Market::start().await;
    let mut first = FakeHost::enrolled(&market).await;
    let mut hello = first.introduction();
    let facts = crate::fake_host::machine("uuid-1");
    hello.inventory.as_mut().unwrap().identity = facts.clone();
    first.sync(hello).await.unwrap();
    let mut held = first.clone();
    let poll = tokio::spawn(async move {
        let wait_seconds = 55;
        let request = SyncRequest {
            wait_seconds,
            ..held.nothing()
        };
        held.sync(request).await
    });
    let key = KeyPair::generate().unwrap();
    let token = market.token(Some(1)).await;
    let enrol = async || {
        let certificate = crate::fake_host::enrol_as(&market, &key, Some(&token), facts.clone());
        certificate.await.unwrap()
    };
    assert!(enrol().await.is_none());
    let is_held = async {
        let (client, headers) = (market.stranger(), http::HeaderMap::new);
        while !{
            let answer = client.request(
                http::Method::GET,
                "/metrics",
                headers(),
                surplus_https::Body::empty(),
            );
            let text = answer.await.unwrap().bytes(1 << 20).await.unwrap();
            String::from_utf8_lossy(&text).contains("surplus_syncs_total 2")
        } {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, is_held).await.unwrap();
    // Both of its connections close; the sync before counts as a call until
    // then.
    poll.abort();
    drop(first);
    let back = async {
        loop {
            // Longer than a host that hung up is waited for, never as long as
            // one that merely is silent.
            market.hands.forward(SignedDuration::from_secs(1));
            if let Some(certificate) = enrol().await {
                return certificate;
            }
        }
    };
    let began = market.hands.now();
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    let waited = market.hands.now().duration_since(began);
    assert!(waited < SignedDuration::from_secs(110), "{waited}");
    let hosts: Vec<Host> = market.get("/api/v1/hosts").await.unwrap();
    assert_eq!(hosts.len(), 1);
}

#[tokio::test]
async fn an_agent_that_speaks_tls_1_2_is_refused() {
    use secrecy::ExposeSecret as _;
    let market = Market::start().await;
    let host = FakeHost::offering(&market).await;
    let dir = market.dir.path();
    std::fs::write(dir.join("host.pem"), host.certificate.to_pem()).unwrap();
    std::fs::write(dir.join("host.key"), host.key.to_pem().expose_secret()).unwrap();
    let sync = async |version: &str| {
        let body = serde_json::to_string(&host.nothing()).unwrap();
        let url = format!(
            "https://{}{}",
            market.address,
            surplus_protocol::agent::SYNC_PATH
        );
        let curl = tokio::process::Command::new("curl")
            .current_dir(dir)
            .args([
                "-sS",
                "--cacert",
                "data/ca.pem",
                "--cert",
                "host.pem",
                "--key",
                "host.key",
            ])
            .args([
                "-H",
                "Content-Type: application/json",
                "-d",
                &body,
                "--tls-max",
                version,
            ])
            .arg(url)
            .output();
        let answer = curl.await.unwrap();
        assert!(
            answer.status.success(),
            "{}",
            String::from_utf8_lossy(&answer.stderr)
        );
        String::from_utf8(answer.stdout).unwrap()
    };
    assert!(
        sync("1.2")
            .await
            .contains("urn:surplus:problem:tls-version")
    );
    assert!(sync("1.3").await.contains("generation"));
}
