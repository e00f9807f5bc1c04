use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use surplus_https::{Server, ServerIdentity};
use surplus_pki::{Authority, KeyPair};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::SetError;
use crate::stages::Recorded;
use crate::sysroot::fixture::Tree;

const DEADLINE: Duration = Duration::from_secs(20);

const FILE: &str = concat!(
    "version = 1\n[marketplace]\nurl = \"https://[fd77::1]:8443\"\n",
    "ca_sha256 = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\n",
);

/// Answers that wait to be given, in order.
type Answers = Arc<Mutex<VecDeque<(StatusCode, String)>>>;

/// A server of a site file: the real TLS port with a CA of its own.
struct SiteServer {
    authority: Authority,
    /// Answers in order; after them, the file.
    answers: Answers,
}

impl SiteServer {
    fn new(answers: &[(StatusCode, &str)]) -> Self {
        let answers = answers
            .iter()
            .map(|(status, text)| (*status, (*text).to_owned()));
        Self {
            authority: Authority::create(Timestamp::now()).unwrap(),
            answers: Arc::new(Mutex::new(answers.collect())),
        }
    }

    fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let (key, authority) = (KeyPair::generate().unwrap(), self.authority.certificate());
        let names = ["127.0.0.1".to_owned(), "::1".to_owned()];
        let now = Timestamp::now();
        let certificate = self.authority.issue_server(&names, &key, now).unwrap();
        let identity = ServerIdentity::new(&key, &certificate, authority).unwrap();
        let server =
            Server::new(&identity, std::slice::from_ref(authority), Clock::system()).unwrap();
        let router = Router::new()
            .route("/site.toml", get(answer))
            .with_state(Arc::clone(&self.answers));
        tokio::spawn(server.serve(listener, router, std::future::pending()))
    }

    async fn start(&self, at: &str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        (listener.local_addr().unwrap(), self.serve(listener))
    }

    fn pin(&self) -> [u8; 32] {
        self.authority.certificate().fingerprint()
    }
}

async fn answer(State(answers): State<Answers>) -> Response {
    let next = answers.lock().unwrap().pop_front();
    match next {
        Some(answer) => answer.into_response(),
        None => FILE.into_response(),
    }
}

#[derive(Debug)]
struct FakeClock(Mutex<Timestamp>);

impl SystemClock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn set(&self, to: Timestamp) -> Result<(), SetError> {
        *self.0.lock().unwrap() = to;
        Ok(())
    }
}

struct Host {
    tree: Tree,
    clock: Arc<FakeClock>,
    consoles: Recorded,
    pointer: Pointer,
}

impl Host {
    fn told(servers: &[SocketAddr], ca: [u8; 32]) -> Self {
        let urls = servers.iter().map(|at| format!("https://{at}/site.toml"));
        Self {
            tree: Tree::new(),
            clock: Arc::new(FakeClock(Mutex::new(Timestamp::now()))),
            consoles: Recorded::default(),
            pointer: Pointer {
                urls: urls.map(|url| SiteUrl::parse(&url).unwrap()).collect(),
                ca,
            },
        }
    }

    fn fetch(&self) -> Fetch<'_> {
        Fetch {
            pointer: self.pointer.clone(),
            root: self.tree.root(),
            clock: Arc::clone(&self.clock) as Arc<dyn SystemClock>,
            floor: "2020-01-01T00:00:00Z".parse().unwrap(),
            consoles: &self.consoles,
        }
    }

    async fn fetches(&self) -> Found {
        let fetch = self.fetch();
        let fetched = tokio::time::timeout(DEADLINE, fetch.run()).await;
        fetched.unwrap_or_else(|_| panic!("nothing fetched: {:#?}", self.consoles.lines()))
    }

    /// Waits for a line with `text` while the host goes on asking.
    async fn says(&self, text: &str) -> String {
        let seen = async {
            loop {
                let lines = self.consoles.lines();
                if let Some(line) = lines.into_iter().find(|line| line.contains(text)) {
                    return line;
                }
                tokio::task::yield_now().await;
            }
        };
        let fetch = self.fetch();
        tokio::select! {
            _ = fetch.run() => panic!("fetched before saying {text:?}: {:#?}", self.consoles.lines()),
            line = tokio::time::timeout(DEADLINE, seen) => line.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_site_file_is_fetched_from_the_server_that_the_pin_vouches_for() {
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[at], server.pin());
    let found = host.fetches().await;
    assert_eq!(found.source, "network");
    assert_eq!(found.site.marketplace.urls, ["https://[fd77::1]:8443"]);
    let fetched = found.fetched.unwrap();
    assert_eq!(fetched.url, format!("https://{at}/site.toml"));
    assert_eq!(fetched.bytes, FILE.as_bytes());
    assert!(host.consoles.lines().is_empty());
}

#[tokio::test]
async fn an_ipv6_address_in_the_url_leads_to_its_server() {
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("[::1]:0").await;
    let host = Host::told(&[at], server.pin());
    assert!(
        host.pointer.urls[0]
            .to_string()
            .starts_with("https://[::1]:")
    );
    host.fetches().await;
}

#[tokio::test]
async fn a_wrong_pin_is_named_with_what_was_seen_and_nothing_is_taken() {
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[at], [0xab; 32]);
    let line = host.says("is not trusted").await;
    let seen: String = server
        .pin()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for expected in [
        "stage=site",
        "source=network",
        &format!("sha256:{}", "ab".repeat(32)),
        &format!("but sha256:{seen}"),
        "next=\"compare surplus.ca=",
        "goes on asking",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_again_until_it_is_there() {
    let server = SiteServer::new(&[]);
    let (at, served) = server.start("127.0.0.1:0").await;
    served.abort();
    let _ = served.await;
    let host = Host::told(&[at], server.pin());
    let line = host.says("cannot connect").await;
    assert!(
        line.contains("next=") && line.contains(&at.to_string()),
        "{line}"
    );
    server.serve(TcpListener::bind(at).await.unwrap());
    host.fetches().await;
}

#[tokio::test]
async fn of_two_servers_the_one_that_is_alive_is_found() {
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let host = Host::told(&[dead, at], server.pin());
    let found = host.fetches().await;
    assert_eq!(
        found.fetched.unwrap().url,
        format!("https://{at}/site.toml")
    );
    let lines = host.consoles.lines();
    assert!(
        lines.len() == 1 && lines[0].contains("127.0.0.1:1"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn a_file_with_an_error_names_its_key_and_is_taken_when_it_is_mended() {
    let bad = FILE.replace("\nurl", "\nurll");
    let server = SiteServer::new(&[(StatusCode::NOT_FOUND, "gone"), (StatusCode::OK, &bad)]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[at], server.pin());
    host.fetches().await;
    let lines = host.consoles.lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(
        lines[0].contains("404") && lines[0].contains("surplus.site="),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].contains("urll") && lines[1].contains("did you mean"),
        "{}",
        lines[1]
    );
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let endless = "# x\n".repeat(20_000);
    let server = SiteServer::new(&[(StatusCode::OK, &endless)]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[at], server.pin());
    let line = host.says("is longer than 65536 bytes").await;
    assert!(line.contains("64 KiB"), "{line}");
}

#[tokio::test]
async fn a_clock_at_1970_is_set_by_the_pinned_server_and_by_no_other() {
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let wrong = Host::told(&[at], [0; 32]);
    *wrong.clock.0.lock().unwrap() = Timestamp::UNIX_EPOCH;
    wrong.says("is not trusted").await;
    assert_eq!(wrong.clock.now(), Timestamp::UNIX_EPOCH);

    let host = Host::told(&[at], server.pin());
    for behind in ["1970-01-01T00:00:00Z", "2021-01-01T00:00:00Z"] {
        *host.clock.0.lock().unwrap() = behind.parse().unwrap();
        host.fetches().await;
        let off = Timestamp::now().duration_since(host.clock.now());
        assert!(off.as_secs().abs() < 60, "{off:?}");
    }
    let lines = host.consoles.lines();
    assert!(
        lines.len() == 2 && lines[0].contains("stage=clock"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn of_the_files_that_come_later_only_one_that_is_new_and_right_is_taken() {
    let bad = FILE.replace("\nurl", "\nurll");
    let no_ca = FILE.replace(
        "ca_sha256 = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
        "ca = \"-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\"",
    );
    let new = format!("{FILE}token = \"fresh\"\n");
    let ok = |text| (StatusCode::OK, text);
    let server = SiteServer::new(&[
        ok(FILE),
        ok(&bad),
        ok(&bad),
        (StatusCode::NOT_FOUND, "gone"),
        ok(&bad),
        ok(&no_ca),
        ok(FILE),
        ok(&new),
    ]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[at], server.pin());
    let fetch = host.fetch();
    let another = fetch.another(FILE.as_bytes(), Backoff::of_a_test());
    let (found, _road) = tokio::time::timeout(DEADLINE, another).await.unwrap();
    assert_eq!(found.fetched.unwrap().bytes, new.as_bytes());
    assert!(found.site.marketplace.token.is_some());
    let lines = host.consoles.lines();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, expected) in lines.iter().zip(["urll", "CA certificate", "changed=true"]) {
        assert!(line.contains(expected), "{expected} in {line}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_hides_no_other_servers_new_file() {
    let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let server = SiteServer::new(&[]);
    let (at, _served) = server.start("127.0.0.1:0").await;
    let host = Host::told(&[dead, at], server.pin());
    let fetch = host.fetch();
    let known = format!("# old\n{FILE}");
    let another = fetch.another(known.as_bytes(), Backoff::of_a_test());
    let (found, _road) = tokio::time::timeout(DEADLINE, another).await.unwrap();
    assert_eq!(found.fetched.unwrap().bytes, FILE.as_bytes());
    let lines = host.consoles.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
}
