//! A marketplace in this process, on a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest as _;
use surplus_https::client::Builder;
use surplus_https::{Body, Client, ClientError, Clock, Trust};
use surplus_market::pricing;
use surplus_marketplace::{ADMIN_KEY, CA_CERTIFICATE, Config, Limits, Marketplace};
use surplus_pki::Certificate;
use surplus_protocol::api::{CreateKey, CreateToken, CreatedKey, CreatedToken, Image, Role};
use surplus_protocol::{Digest, Problem};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A clock that the test can put forward.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hands(Arc<Mutex<SignedDuration>>);

impl Hands {
    pub(crate) fn forward(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now() + *self.0.lock().unwrap()
    }

    fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::new(move || hands.now())
    }
}

/// A running marketplace and its operator.
#[derive(Debug)]
pub(crate) struct Market {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) hands: Hands,
    pub(crate) admin: Client,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<Result<(), surplus_marketplace::ServeError>>>,
}

impl Market {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, Hands::default(), limits, "127.0.0.1:0").await
    }

    /// One that listens for IPv4 and IPv6 at once: it sees IPv4 addresses
    /// mapped into IPv6.
    pub(crate) async fn start_for_both() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, Hands::default(), Limits::default(), "[::]:0").await
    }

    async fn start_in(dir: tempfile::TempDir, hands: Hands, limits: Limits, at: &str) -> Self {
        // What the marketplace logs stands below a test that fails.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let listener = TcpListener::bind(at).await.unwrap();
        let listen = listener.local_addr().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listen.port()));
        let opened = Marketplace::open(Config {
            data: dir.path().join("data"),
            listen,
            urls: Vec::new(),
            prices: pricing::default_book(),
            max_image_bytes: 4 << 20,
            limits,
            clock: hands.clock(),
        });
        let marketplace = opened.await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(marketplace.serve(listener, async {
            let _ = stopped.await;
        }));
        let secret = std::fs::read_to_string(dir.path().join("data").join(ADMIN_KEY)).unwrap();
        let builder = builder(dir.path(), address, &hands);
        let admin = builder.bearer(secret.trim()).unwrap().build().unwrap();
        Self {
            dir,
            address,
            hands,
            admin,
            stop: Some(stop),
            serving: Some(serving),
        }
    }

    /// The same data served by another process, as it were.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// The same; between the two something is done to the data directory.
    pub(crate) async fn restart_after(mut self, act: impl FnOnce(&std::path::Path)) -> Self {
        let _ = self.stop.take().unwrap().send(());
        let stopped = tokio::time::timeout(Duration::from_secs(20), self.serving.take().unwrap());
        stopped.await.unwrap().unwrap().unwrap();
        act(&self.dir.path().join("data"));
        Self::start_in(self.dir, self.hands, Limits::default(), "127.0.0.1:0").await
    }

    pub(crate) fn builder(&self) -> Builder {
        builder(self.dir.path(), self.address, &self.hands)
    }

    pub(crate) fn ca(&self) -> Certificate {
        ca(self.dir.path())
    }

    /// A client without any credentials.
    pub(crate) fn stranger(&self) -> Client {
        self.builder().build().unwrap()
    }

    pub(crate) async fn buyer(&self, name: &str) -> Client {
        let order = CreateKey {
            name: name.to_owned(),
            role: Role::Buyer,
        };
        let key: CreatedKey = self.post("/api/v1/keys", &order).await.unwrap();
        self.builder().bearer(&key.secret).unwrap().build().unwrap()
    }

    pub(crate) async fn token(&self, uses: Option<u32>) -> String {
        let name = format!("token {}", uuid::Uuid::new_v4());
        let order = CreateToken {
            name,
            uses,
            expires_at: None,
            networks: Vec::new(),
        };
        self.token_as(&order).await
    }

    pub(crate) async fn token_as(&self, order: &CreateToken) -> String {
        let token: CreatedToken = self.post("/api/v1/tokens", order).await.unwrap();
        token.secret
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.admin.get_json(path).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.admin.post_json(path, body).await
    }
}

fn ca(dir: &Path) -> Certificate {
    let pem = std::fs::read_to_string(dir.join("data").join(CA_CERTIFICATE)).unwrap();
    Certificate::from_pem(&pem).unwrap()
}

fn builder(dir: &Path, address: SocketAddr, hands: &Hands) -> Builder {
    Client::builder()
        .url(format!("https://{address}"))
        .trust(Trust::Authority(ca(dir)))
        .request_timeout(Duration::from_secs(70))
        .clock(hands.clock())
}

/// The digest of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_sha256(sha2::Sha256::digest(bytes).into())
}

/// Uploads bytes as an image of that name.
pub(crate) async fn upload(
    client: &Client,
    name: &str,
    digest: Digest,
    bytes: impl Into<Body>,
) -> Result<Image, ClientError> {
    let path = format!("/api/v1/images/{digest}?name={name}");
    let headers = http::HeaderMap::new();
    client
        .request(http::Method::PUT, &path, headers, bytes.into())
        .await?
        .json()
        .await
}

/// The problem that a request was refused with.
pub(crate) fn problem<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    let error = answer.unwrap_err();
    let problem = error
        .problem()
        .unwrap_or_else(|| panic!("no problem document: {error:?}"));
    assert!(
        !problem.detail.is_empty() && !problem.next.is_empty(),
        "{problem:?}"
    );
    problem.clone()
}
