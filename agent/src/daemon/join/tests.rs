use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use surplus_protocol::Problem;

use super::*;
use crate::fake_marketplace::{Answer, FakeMarketplace};
use crate::stages::Recorded;
use crate::status::Board;

const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than the test: a refused host does not ask again by itself.
fn never() -> Backoff {
    Backoff::new(10 * DEADLINE, 10 * DEADLINE)
}

#[tokio::test]
async fn a_refused_host_gets_in_with_the_token_of_a_later_site_file_and_the_same_key() {
    let refusal = Problem::new(
        403,
        "token-spent",
        "spent",
        "the token was used",
        "make another",
    );
    let marketplace = FakeMarketplace::new([Answer::Refuse(refusal)]);
    let (address, _server) = marketplace.start().await;
    let ca = marketplace.shared.authority.certificate().to_pem();
    let site = |token: &str| {
        let text = format!(
            "version = 1\n[marketplace]\nurl = \"https://{address}\"\nca = \"\"\"\n{ca}\"\"\"\ntoken = \"{token}\"\n"
        );
        Site::parse(&text).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let storage = Ram::at(directory.path().join("identity"));
    let board = Board::at(directory.path().join("status.json"));
    let consoles = Recorded::default();
    let facts = HostFacts::default();
    let work = async |site: &Site| {
        let road = Road::new(&site.marketplace).unwrap();
        let means = Means {
            storage: &storage,
            clock: &Kernel,
            floor: Timestamp::UNIX_EPOCH,
            consoles: &consoles,
            board: &board,
            pace: Pace {
                quick: never,
                slow: never,
                approval: DEADLINE,
            },
        };
        let registrar = Marketplace {
            road: &road,
            client: road.anonymous().unwrap(),
            token: site.marketplace.token.as_ref(),
            facts: &facts,
        };
        enrol::identity(&registrar, &means).await.unwrap()
    };
    let another = async |site_in_use: &Site| {
        let token = site_in_use.marketplace.token.as_ref().unwrap();
        if token.expose_secret() == "fresh" {
            return std::future::pending().await;
        }
        while consoles.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        site("fresh")
    };
    let entered = with_the_newest(site("spent"), work, another);
    let (_, identity) = tokio::time::timeout(DEADLINE, entered).await.unwrap();
    assert_eq!(identity.host, marketplace.shared.host);
    let lines = consoles.lines();
    assert!(lines[0].contains("the token was used"), "{lines:#?}");
    let asked = marketplace.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].key, asked[1].key);
    let shown: Vec<_> = asked.iter().map(|it| it.authorization.as_deref()).collect();
    // "host:spent", "host:fresh"
    assert_eq!(
        shown,
        [
            Some("Basic aG9zdDpzcGVudA=="),
            Some("Basic aG9zdDpmcmVzaA==")
        ]
    );
}

#[tokio::test]
async fn a_host_that_is_in_takes_no_other_site_file() {
    let work = async |file: &u8| *file;
    let (file, done) = with_the_newest(1, work, async |_: &u8| 2).await;
    assert_eq!((file, done), (1, 1));
}
