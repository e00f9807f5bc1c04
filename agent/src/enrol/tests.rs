use std::sync::Mutex;

use surplus_https::{Clock, PeerCertificate};
use surplus_protocol::Problem;
use surplus_site::Site;
use tokio::net::TcpListener;

use super::*;
use crate::fake_marketplace::{Answer, FakeMarketplace};
use crate::identity::Ram;
use crate::stages::Recorded;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct FakeClock(std::sync::Arc<Mutex<Timestamp>>);

impl SystemClock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn set(&self, to: Timestamp) -> Result<(), crate::clock::SetError> {
        *self.0.lock().unwrap() = to;
        Ok(())
    }
}

struct Host {
    directory: tempfile::TempDir,
    clock: FakeClock,
    consoles: Recorded,
    board: Board,
    road: Road,
    token: Option<SecretString>,
    facts: HostFacts,
}

impl Host {
    /// A host whose site file says that this marketplace is at `address`.
    fn of(marketplace: &FakeMarketplace, address: std::net::SocketAddr) -> Self {
        let ca = marketplace.shared.authority.certificate().to_pem();
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://{address}\"\nca = \"\"\"\n{ca}\"\"\"\ntoken = \"sesame\"\n"
        );
        let site = Site::parse(&text).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let now = std::sync::Arc::new(Mutex::new(Timestamp::now()));
        let tls = std::sync::Arc::clone(&now);
        let road = Road::new(&site.marketplace).unwrap();
        Self {
            board: Board::at(directory.path().join("status.json")),
            directory,
            clock: FakeClock(now),
            consoles: Recorded::default(),
            road: road.judged_by(Clock::new(move || *tls.lock().unwrap())),
            token: site.marketplace.token,
            facts: HostFacts {
                site: "lab".to_owned(),
                ..HostFacts::default()
            },
        }
    }

    fn storage(&self) -> Ram {
        Ram::at(self.directory.path().join("identity"))
    }

    fn means<'a>(&'a self, storage: &'a Ram) -> Means<'a> {
        Means {
            storage,
            clock: &self.clock,
            floor: "2020-01-01T00:00:00Z".parse().unwrap(),
            consoles: &self.consoles,
            board: &self.board,
            pace: Pace {
                quick: Backoff::of_a_test,
                slow: Backoff::of_a_test,
                approval: Duration::from_millis(5),
            },
        }
    }

    async fn enrol(&self) -> Identity {
        let storage = self.storage();
        let registrar = Marketplace {
            road: &self.road,
            client: self.road.anonymous().unwrap(),
            token: self.token.as_ref(),
            facts: &self.facts,
        };
        let means = self.means(&storage);
        let enrolled = tokio::time::timeout(DEADLINE, identity(&registrar, &means));
        enrolled.await.expect("enrolment did not end").unwrap()
    }

    /// Waits for a line with `text` while enrolment goes on.
    async fn says(&self, text: &str) -> String {
        let seen = async {
            loop {
                if let Some(line) = self
                    .consoles
                    .lines()
                    .into_iter()
                    .find(|line| line.contains(text))
                {
                    return line;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = self.enrol() => panic!("enrolled before saying {text:?}: {:#?}", self.consoles.lines()),
            line = seen => line,
        }
    }
}

#[tokio::test]
async fn a_host_enrols_with_its_token_and_a_restarted_agent_spends_none() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    let identity = host.enrol().await;
    assert_eq!(identity.host, marketplace.shared.host);
    let again = host.enrol().await;
    assert_eq!(again.chain, identity.chain);
    let asked = marketplace.asked();
    assert_eq!(asked.len(), 1);
    // "host:sesame"
    assert_eq!(
        asked[0].authorization.as_deref(),
        Some("Basic aG9zdDpzZXNhbWU=")
    );
    assert_eq!(
        asked[0]
            .facts
            .as_deref()
            .map(HostFacts::from_header)
            .unwrap()
            .unwrap(),
        host.facts
    );
    let lines = host.consoles.lines();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].contains("stage=enrolled") && lines[1].contains("kept=true"),
        "{lines:#?}"
    );
    assert!(!lines.concat().contains("sesame"));
}

#[tokio::test]
async fn a_host_that_waits_for_approval_says_so_and_keeps_asking_with_one_key() {
    let marketplace = FakeMarketplace::new([Answer::Pending, Answer::Pending, Answer::Pending]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    host.enrol().await;
    let asked = marketplace.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| request.key == asked[0].key));
    let lines = host.consoles.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("waiting=") && lines[0].contains("goes on asking"));
}

#[tokio::test]
async fn a_spent_token_is_said_with_what_to_do_and_the_host_goes_on_trying() {
    let spent = || {
        let (detail, next) = (
            "token \"rack 7\" is spent",
            "create another one: surplus token create",
        );
        Answer::Refuse(Problem::new(
            403,
            "token_spent",
            "Token spent",
            detail,
            next,
        ))
    };
    let marketplace = FakeMarketplace::new([spent(), spent()]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    host.enrol().await;
    let lines = host.consoles.lines();
    assert!(
        lines[0].contains(r#"error="token \"rack 7\" is spent" next="create another one"#),
        "{}",
        lines[0]
    );
    assert_eq!(
        lines.len(),
        2,
        "the same refusal is not said twice: {lines:#?}"
    );
    assert_eq!(marketplace.asked().len(), 3);
}

#[tokio::test]
async fn a_marketplace_with_another_ca_gets_no_token_and_the_host_goes_on_trying() {
    let (expected, other) = (FakeMarketplace::new([]), FakeMarketplace::new([]));
    let (address, server) = other.start().await;
    let host = Host::of(&expected, address);
    let line = host.says("is not trusted").await;
    assert!(
        line.contains("next=") && line.contains("site file's CA"),
        "{line}"
    );
    assert!(other.asked().is_empty());
    server.abort();
    let _ = server.await;
    expected.serve(TcpListener::bind(address).await.unwrap());
    host.enrol().await;
}

#[tokio::test]
async fn an_unreachable_marketplace_is_said_and_found_when_it_is_there() {
    let marketplace = FakeMarketplace::new([]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let host = Host::of(&marketplace, address);
    let line = host.says("cannot connect").await;
    assert!(
        line.contains("stage=enrol") && line.contains("next="),
        "{line}"
    );
    marketplace.serve(TcpListener::bind(address).await.unwrap());
    host.enrol().await;
}

#[tokio::test]
async fn a_clock_at_1970_is_set_by_the_marketplaces_word() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    *host.clock.0.lock().unwrap() = Timestamp::UNIX_EPOCH;
    host.enrol().await;
    assert!(
        host.consoles.lines()[0].contains("stage=clock"),
        "{:#?}",
        host.consoles.lines()
    );
    assert!(
        Timestamp::now()
            .duration_since(host.clock.now())
            .as_secs()
            .abs()
            < 60
    );
}

#[tokio::test]
async fn a_clock_after_the_build_but_before_the_certificates_is_set_too() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    *host.clock.0.lock().unwrap() = "2021-01-01T00:00:00Z".parse().unwrap();
    host.enrol().await;
    assert!(host.clock.now() > "2022-01-01T00:00:00Z".parse().unwrap());
}

#[tokio::test]
async fn a_foreign_server_cannot_set_the_clock() {
    let (expected, other) = (FakeMarketplace::new([]), FakeMarketplace::new([]));
    let (address, _server) = other.start().await;
    let host = Host::of(&expected, address);
    *host.clock.0.lock().unwrap() = Timestamp::UNIX_EPOCH;
    host.says("is not trusted").await;
    assert_eq!(host.clock.now(), Timestamp::UNIX_EPOCH);
}

#[tokio::test]
async fn renewal_shows_the_old_certificate_and_swaps_in_the_new_one() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    let first = host.enrol().await;
    let (sender, mut shown) = watch::channel(Credentials::new(&host.road, first.clone()).unwrap());
    // Half of the life of a day.
    *host.clock.0.lock().unwrap() = Timestamp::now() + jiff::SignedDuration::from_hours(13);
    let storage = host.storage();
    let means = host.means(&storage);
    let renewal = keep_renewed(&host.road, &host.facts, &means, &sender);
    tokio::select! {
        () = renewal => unreachable!(),
        changed = tokio::time::timeout(DEADLINE, shown.changed()) => changed.unwrap().unwrap(),
    }
    let renewed = shown.borrow().identity.clone();
    assert_eq!(renewed.host, first.host);
    assert_ne!(
        renewed.certificate().serial_hex(),
        first.certificate().serial_hex()
    );
    assert_eq!(storage.identity().unwrap().unwrap().chain, renewed.chain);
    let asked = marketplace.asked();
    assert_eq!(asked[1].operation, "simplereenroll");
    assert_eq!(
        asked[1].shown,
        PeerCertificate::Valid(first.certificate().clone())
    );
    assert_eq!(asked[1].key, first.key.fingerprint());
}

#[tokio::test]
async fn a_pinned_ca_is_fetched_and_compared() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let authority = marketplace.shared.authority.certificate().clone();
    let road = |pin: [u8; 32]| {
        let pin: String = pin.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://{address}\"\nca_sha256 = \"sha256:{pin}\"\n"
        );
        Road::new(&Site::parse(&text).unwrap().marketplace).unwrap()
    };
    let good = road(authority.fingerprint());
    assert_eq!(
        good.authority(&good.anonymous().unwrap()).await.unwrap(),
        authority
    );
    let bad = road([7; 32]);
    assert!(bad.authority(&bad.anonymous().unwrap()).await.is_err());
}

#[tokio::test]
async fn a_host_that_the_register_forgot_enrols_again_with_its_key_and_token() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    let now = Timestamp::now();
    let forgotten = crate::identity::fixture::identity(
        &marketplace.shared.authority,
        now,
        jiff::SignedDuration::from_hours(1),
    );
    assert_ne!(forgotten.host, marketplace.shared.host);
    let storage = host.storage();
    storage.keep_key(&forgotten.key).unwrap();
    let key = forgotten.key.fingerprint();
    let registrar = Marketplace {
        road: &host.road,
        client: host.road.anonymous().unwrap(),
        token: host.token.as_ref(),
        facts: &host.facts,
    };
    let (credentials, shown) = watch::channel(Credentials::new(&host.road, forgotten).unwrap());
    let (means, stranger) = (host.means(&storage), Notify::new());
    stranger.notify_one();
    let again = keep_registered(&registrar, &host.road, &means, &stranger, &credentials);
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    let now = shown.borrow().identity.clone();
    assert_eq!(now.host, marketplace.shared.host);
    assert_eq!(now.key.fingerprint(), key);
    // The next agent takes it up.
    assert_eq!(storage.identity().unwrap().unwrap().chain, now.chain);
    let asked = marketplace.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].authorization.is_some());
}

#[test]
fn a_pending_host_is_told_with_the_command_that_lets_it_in() {
    let id = "13b91b24-7084-4d2b-9a55-0f8a4f3c9a11";
    let waiting = format!("host {id} waits for an operator's approval");
    let next = pending_next(&waiting, false);
    assert!(
        next.contains(&format!("`surplus hosts approve {id}`")),
        "{next}"
    );
    assert!(next.contains("admission rule"), "{next}");
    assert!(pending_next("somebody", false).contains("`surplus hosts approve ID`"));
    assert!(!pending_next(&waiting, true).contains("approve"));
}

#[test]
fn a_pending_host_asks_again_when_it_was_told_to_but_not_in_a_day() {
    let second = Duration::from_secs(1);
    let wait = |told: Option<u64>| approval_wait(told.map(Duration::from_secs), second).as_secs();
    assert_eq!(wait(Some(30)), 30);
    assert_eq!(wait(Some(0)), 1);
    assert_eq!(wait(None), APPROVAL_WAIT.as_secs());
    assert_eq!(wait(Some(86_400)), LONGEST_APPROVAL_WAIT.as_secs());
}

#[tokio::test]
async fn a_certificate_that_ran_out_three_months_ago_is_renewed_without_anybodys_doing() {
    let marketplace = FakeMarketplace::new([]);
    let (address, _server) = marketplace.start().await;
    let host = Host::of(&marketplace, address);
    let first = host.enrol().await;
    let day = jiff::SignedDuration::from_hours(24);
    let old = marketplace
        .shared
        .authority
        .issue_host(
            &CertificateRequest::create(&first.key, "a host", &[]).unwrap(),
            &first.host.to_string(),
            Timestamp::now() - day * 91,
            day,
        )
        .unwrap();
    let lapsed = Identity::new(first.key.clone(), vec![old.clone()]).unwrap();
    let (sender, mut shown) = watch::channel(Credentials::new(&host.road, lapsed).unwrap());
    let storage = host.storage();
    let means = host.means(&storage);
    let renewal = keep_renewed(&host.road, &host.facts, &means, &sender);
    tokio::select! {
        () = renewal => unreachable!(),
        changed = tokio::time::timeout(DEADLINE, shown.changed()) => changed.unwrap().unwrap(),
    }
    let renewed = shown.borrow().identity.clone();
    assert_eq!(renewed.host, first.host);
    assert!(renewed.certificate().is_valid_at(Timestamp::now()));
    let asked = marketplace.asked();
    assert_eq!(asked[1].operation, "simplereenroll");
    assert_eq!(asked[1].shown, PeerCertificate::Expired(old));
}
