//! The same clients against the whole marketplace.

use surplus_https::{Client, Clock, Trust};
use surplus_market::pricing;
use surplus_marketplace::{ADMIN_KEY, CA_CERTIFICATE, Config, Marketplace};
use surplus_pki::Certificate;
use surplus_protocol::Problem;
use surplus_protocol::agent::SYNC_PATH;
use surplus_protocol::api::{CreateToken, CreatedToken, Host, HostState};
use tokio::net::TcpListener;

use crate::tools::Target;
use crate::{curl, strongswan};

struct Whole {
    target: Target,
    admin: Client,
    /// Kept for as long as the marketplace needs it.
    _dir: tempfile::TempDir,
}

async fn whole(uses: u32) -> Whole {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = listener.local_addr().unwrap();
    let data = dir.path().join("data");
    let marketplace = Marketplace::open(Config {
        data: data.clone(),
        listen,
        urls: vec![format!("https://localhost:{}", listen.port())],
        prices: pricing::default_book(),
        max_image_bytes: 1,
        limits: surplus_marketplace::Limits::default(),
        clock: Clock::system(),
    });
    tokio::spawn(
        marketplace
            .await
            .unwrap()
            .serve(listener, std::future::pending()),
    );
    let read = |name| std::fs::read_to_string(data.join(name)).unwrap();
    let ca = Certificate::from_pem(&read(CA_CERTIFICATE)).unwrap();
    let admin = Client::builder()
        .url(format!("https://localhost:{}", listen.port()))
        .trust(Trust::Authority(ca.clone()))
        .bearer(read(ADMIN_KEY).trim())
        .unwrap()
        .build()
        .unwrap();
    let order = CreateToken {
        name: "rack".to_owned(),
        uses: Some(uses),
        expires_at: None,
        networks: Vec::new(),
    };
    let token: CreatedToken = admin.post_json("/api/v1/tokens", &order).await.unwrap();
    let target = Target {
        ca,
        port: listen.port(),
        token: token.secret,
    };
    Whole {
        target,
        admin,
        _dir: dir,
    }
}

impl Whole {
    async fn enrolled(&self) -> usize {
        let hosts: Vec<Host> = self.admin.get_json("/api/v1/hosts").await.unwrap();
        assert!(hosts.iter().all(|host| host.state == HostState::Enrolled));
        hosts.len()
    }
}

#[tokio::test]
async fn the_whole_marketplace_takes_curl_and_is_open_to_agents_by_tls_1_3_alone() {
    let whole = whole(2).await;
    for (version, refused) in curl::VERSIONS.into_iter().zip([true, false]) {
        let (workshop, _) = curl::enrol_and_renew(&whole.target, version).await;
        let shown = "--cert second.pem --key second.key --cacert ca.pem";
        let media = "Content-Type:%application/json";
        let url = format!("{}{SYNC_PATH}", whole.target.base());
        // An empty sync: nonsense, but that is looked at later.
        let line = format!("curl -sS {version} {shown} -H {media} --data {{}} {url}");
        let body = workshop.must(&line).await;
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            problem.name() == "tls-version",
            refused,
            "{version}: {problem}"
        );
        assert_eq!(problem.status == 403, refused, "{version}: {problem}");
    }
    assert_eq!(whole.enrolled().await, 2);
}

#[tokio::test]
async fn the_whole_marketplace_takes_strongswan() {
    let whole = whole(1).await;
    strongswan::enrol_and_renew(&whole.target).await;
    assert_eq!(whole.enrolled().await, 1);
}
