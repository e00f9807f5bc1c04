//! Rules that admit hosts without a token.

use http::{HeaderMap, Method};
use jiff::SignedDuration;
use surplus_https::{Body, ClientError};
use surplus_pki::{Certificate, KeyPair};
use surplus_protocol::api::{
    Admission, AdmissionRule, CreateAdmissionRule, Host, HostState, Selectors,
};
use surplus_protocol::enrol::HostFacts;
use surplus_protocol::ids::AdmissionRuleId;

use crate::fake_host::{FakeHost, enrol_saying, enrol_with, machine};
use crate::marketplace::{Market, problem};

const RULES: &str = "/api/v1/admission-rules";

fn here() -> Selectors {
    Selectors {
        networks: vec!["127.0.0.0/8".to_owned()],
        ..Selectors::default()
    }
}

async fn admit(market: &Market, selectors: Selectors, uses: Option<u32>) -> AdmissionRule {
    let order = CreateAdmissionRule {
        selectors,
        uses,
        expires_at: Some(market.hands.now() + SignedDuration::from_mins(30)),
    };
    market.post(RULES, &order).await.unwrap()
}

async fn hosts(market: &Market) -> Vec<Host> {
    market.get("/api/v1/hosts").await.unwrap()
}

fn facts(uuid: &str) -> HostFacts {
    let mut identity = machine(uuid);
    identity.system_serial = Some("B5RJ12".to_owned());
    identity.vendor = Some("Dell Inc.".to_owned());
    HostFacts {
        site: "berlin".to_owned(),
        rack: "r7".to_owned(),
        key_storage: "ram".to_owned(),
        identity,
        cpu_model: "Xeon".to_owned(),
        memory_bytes: 64 << 30,
    }
}

async fn ask(
    market: &Market,
    key: &KeyPair,
    facts: &HostFacts,
) -> Result<Option<Certificate>, ClientError> {
    enrol_saying(market, key, None, facts).await
}

#[tokio::test]
async fn a_host_waits_with_its_facts_and_joins_by_a_rule_made_later() {
    let market = Market::start().await;
    let key = KeyPair::generate().unwrap();
    assert!(ask(&market, &key, &facts("u1")).await.unwrap().is_none());
    let waits = hosts(&market).await.remove(0);
    assert_eq!(waits.state, HostState::Pending);
    assert_eq!((waits.site.as_str(), waits.rack.as_str()), ("berlin", "r7"));
    assert_eq!(waits.address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(waits.identity, facts("u1").identity);
    assert_eq!(
        (waits.cpu_model.as_str(), waits.memory_bytes),
        ("Xeon", 64 << 30)
    );
    assert_eq!(waits.admitted_by, None);

    let everything = Selectors {
        mac_prefixes: vec!["02-00-00".to_owned()],
        serials: vec!["b5rj12".to_owned()],
        racks: vec!["r7".to_owned()],
        ..here()
    };
    let rule = admit(&market, everything, Some(1)).await;
    assert_eq!(rule.selectors.mac_prefixes, ["02:00:00"]);
    assert_eq!(rule.created_by, "admin");
    let certificate = ask(&market, &key, &facts("u1")).await.unwrap().unwrap();
    assert_eq!(
        certificate.common_name(),
        Some(waits.id.to_string().as_str())
    );
    let joined = hosts(&market).await.remove(0);
    assert_eq!(joined.state, HostState::Enrolled);
    assert_eq!(joined.admitted_by, Some(Admission::Rule { id: rule.id }));
    let rules: Vec<AdmissionRule> = market.get(RULES).await.unwrap();
    assert_eq!(rules[0].used, 1);
}

#[tokio::test]
async fn each_selector_keeps_others_out() {
    let market = Market::start().await;
    let list = |text: &str| vec![text.to_owned()];
    let other = Selectors::default;
    for selectors in [
        Selectors {
            mac_prefixes: list("ff:ff"),
            ..here()
        },
        Selectors {
            serials: list("B5RJ1"),
            ..here()
        },
        Selectors {
            racks: list("r8"),
            ..here()
        },
        Selectors {
            networks: list("192.0.2.0/24"),
            ..other()
        },
    ] {
        admit(&market, selectors, None).await;
    }
    let key = KeyPair::generate().unwrap();
    assert!(ask(&market, &key, &facts("u1")).await.unwrap().is_none());
}

#[tokio::test]
async fn of_hosts_racing_for_a_rule_so_many_join_as_it_says() {
    let market = Market::start().await;
    admit(&market, here(), Some(3)).await;
    let racers = (0..8).map(|n| {
        let facts = facts(&format!("u{n}"));
        let market = &market;
        async move {
            let key = KeyPair::generate().unwrap();
            ask(market, &key, &facts).await.unwrap().is_some()
        }
    });
    let joined = futures_util::future::join_all(racers).await;
    assert_eq!(joined.into_iter().filter(|joined| *joined).count(), 3);
    let rules: Vec<AdmissionRule> = market.get(RULES).await.unwrap();
    assert_eq!(rules[0].used, 3);
}

#[tokio::test]
async fn an_expired_or_deleted_rule_admits_nobody() {
    let market = Market::start().await;
    let rule = admit(&market, here(), None).await;
    let path = format!("{RULES}/{}", rule.id);
    let delete = async |path: &str| {
        let gone = market
            .admin
            .request(Method::DELETE, path, HeaderMap::new(), Body::empty());
        gone.await
    };
    delete(&path).await.unwrap();
    assert_eq!(problem(delete(&path).await).status, 404);
    let asked = ask(&market, &KeyPair::generate().unwrap(), &facts("u1")).await;
    assert!(asked.unwrap().is_none());
    admit(&market, here(), None).await;
    market.hands.forward(SignedDuration::from_mins(31));
    let asked = ask(&market, &KeyPair::generate().unwrap(), &facts("u2")).await;
    assert!(asked.unwrap().is_none());
    let waiting = hosts(&market).await;
    let said = |host: &Host| host.detail.contains("expired at");
    assert!(waiting.iter().any(said), "{waiting:?}");
}

#[tokio::test]
async fn a_rule_that_means_nobody_or_makes_no_sense_is_refused_with_the_way_out() {
    let market = Market::start().await;
    let refused = async |body: &str| {
        let mut headers = HeaderMap::new();
        let json = "application/json".parse().unwrap();
        headers.insert(http::header::CONTENT_TYPE, json);
        let body = Body::from(body.as_bytes().to_vec());
        problem(
            market
                .admin
                .request(Method::POST, RULES, headers, body)
                .await,
        )
    };
    let everyone = refused(r#"{"selectors":{}}"#).await;
    assert_eq!(everyone.status, 422);
    assert!(everyone.detail.contains("0.0.0.0/0"), "{}", everyone.detail);
    for (body, named) in [
        (r#"{"selectors":{"networks":["10.0.0.1"]}}"#, "10.0.0.1"),
        (r#"{"selectors":{"mac_prefixes":["5:2"]}}"#, "5:2"),
        (r#"{"selectors":{"racks":["a"]},"uses":0}"#, "0 uses"),
        (
            r#"{"selectors":{"racks":["a"]},"expires_at":"2020-01-01T00:00:00Z"}"#,
            "passed",
        ),
        // A selector that is not known would have narrowed the rule.
        (r#"{"selectors":{"racks":["a"],"serial":["b"]}}"#, "serial"),
    ] {
        let problem = refused(body).await;
        assert_eq!(problem.status, 422, "{problem:?}");
        assert!(problem.detail.contains(named), "{problem:?}");
    }
    let rules: Vec<AdmissionRule> = market.get(RULES).await.unwrap();
    assert!(rules.is_empty());
    let buyer = market.buyer("bob").await;
    let path = format!("{RULES}/{}", AdmissionRuleId::new_v4());
    for (method, path) in [(Method::GET, RULES), (Method::DELETE, path.as_str())] {
        let asked = buyer.request(method, path, HeaderMap::new(), Body::empty());
        assert_eq!(problem(asked.await).status, 403);
    }
}

#[tokio::test]
async fn a_machine_that_was_restarted_comes_back_as_itself_by_its_rule() {
    let market = Market::start().await;
    admit(&market, here(), Some(1)).await;
    let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = ask(&market, &old, &facts("u1")).await.unwrap().unwrap();
    let mut first = FakeHost::new(&market, old, certificate);
    let mut hello = first.introduction();
    hello.inventory.as_mut().unwrap().identity = facts("u1").identity;
    first.sync(hello).await.unwrap();
    // The first was alive a moment ago.
    assert!(ask(&market, &new, &facts("u1")).await.unwrap().is_none());
    first.sync(first.nothing()).await.unwrap();
    market.hands.forward(SignedDuration::from_secs(121));
    let certificate = ask(&market, &new, &facts("u1")).await.unwrap().unwrap();
    let mut back = FakeHost::new(&market, new, certificate);
    assert_eq!(back.id, first.id);
    back.sync(back.introduction()).await.unwrap();
    assert_eq!(
        problem(first.sync(first.nothing()).await).name(),
        "not-registered"
    );
    assert_eq!(hosts(&market).await.len(), 1);
    // Another machine does not fit into the rule's count.
    let other = ask(&market, &KeyPair::generate().unwrap(), &facts("u2")).await;
    assert!(other.unwrap().is_none());
}

#[tokio::test]
async fn a_rule_for_an_ipv4_network_holds_on_a_port_for_both() {
    let market = Market::start_for_both().await;
    admit(&market, here(), None).await;
    let joined = enrol_with(&market, &KeyPair::generate().unwrap(), None).await;
    assert!(joined.unwrap().is_some());
}
