//! A marketplace for tests: the real TLS port and CA, with answers that a test
//! scripts.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid as _;
use surplus_https::{Clock, Peer, PeerCertificate, ProblemResponse, Server, ServerIdentity};
use surplus_pki::{Authority, Certificate, KeyPair, est};
use surplus_protocol::Problem;
use surplus_protocol::agent::ConsoleAck;
use surplus_protocol::enrol::FACTS_HEADER;
use surplus_protocol::ids::HostId;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the marketplace says to a request for a certificate that it does not
/// grant.
pub(crate) enum Answer {
    Pending,
    Refuse(Problem),
}

/// One request for a certificate, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) operation: &'static str,
    pub(crate) authorization: Option<String>,
    pub(crate) facts: Option<String>,
    pub(crate) key: [u8; 32],
    pub(crate) shown: PeerCertificate,
}

pub(crate) struct Shared {
    pub(crate) authority: Authority,
    pub(crate) host: HostId,
    /// Answers in order; after them, certificates.
    pub(crate) answers: Mutex<VecDeque<Answer>>,
    pub(crate) asked: Mutex<Vec<Asked>>,
    /// The one image.
    pub(crate) image: Vec<u8>,
    /// Whether it is served in parts.
    pub(crate) ranges: AtomicBool,
    /// The one console.
    pub(crate) console: Mutex<Vec<u8>>,
}

pub(crate) struct FakeMarketplace {
    pub(crate) shared: Arc<Shared>,
    key: KeyPair,
    certificate: Certificate,
}

impl FakeMarketplace {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let now = Timestamp::now();
        let authority = Authority::create(now).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = authority
            .issue_server(&["127.0.0.1".to_owned()], &key, now)
            .unwrap();
        let shared = Shared {
            authority,
            host: HostId::from_untyped_uuid(uuid::Uuid::new_v4()),
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
            image: (0..200_000_u32).flat_map(u32::to_le_bytes).collect(),
            ranges: AtomicBool::new(true),
            console: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            key,
            certificate,
        }
    }

    /// Serves on `listener` until the handle is aborted.
    pub(crate) fn serve(&self, listener: TcpListener) -> JoinHandle<()> {
        let authority = self.shared.authority.certificate();
        let identity = ServerIdentity::new(&self.key, &self.certificate, authority).unwrap();
        let server =
            Server::new(&identity, std::slice::from_ref(authority), Clock::system()).unwrap();
        let router = Router::new()
            .route("/healthz", get(|| async { date() }))
            .route("/.well-known/est/cacerts", get(ca_certificates))
            .route("/.well-known/est/simpleenroll", post(enrol))
            .route("/.well-known/est/simplereenroll", post(renew))
            .route("/agent/v1/images/{digest}", get(image))
            .route("/agent/v1/leases/{lease}/{epoch}/console", post(console))
            .with_state(Arc::clone(&self.shared));
        tokio::spawn(server.serve(listener, router, std::future::pending()))
    }

    pub(crate) async fn start(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), self.serve(listener))
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

fn date() -> HeaderMap {
    let now = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&Timestamp::now())
        .unwrap();
    HeaderMap::from_iter([(header::DATE, now.parse().unwrap())])
}

async fn ca_certificates(State(shared): State<Arc<Shared>>) -> String {
    est::encode_certificates(&[shared.authority.certificate().clone()]).unwrap()
}

async fn image(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let range = headers
        .get(header::RANGE)
        .filter(|_| shared.ranges.load(Ordering::Relaxed));
    let Some(range) = range else {
        return shared.image.clone().into_response();
    };
    let from = range
        .to_str()
        .unwrap()
        .strip_prefix("bytes=")
        .unwrap()
        .strip_suffix('-')
        .unwrap();
    let (from, whole) = (from.parse::<usize>().unwrap(), shared.image.len());
    let content = format!("bytes {from}-{}/{whole}", whole - 1);
    let part = shared.image[from..].to_vec();
    (
        StatusCode::PARTIAL_CONTENT,
        [(header::CONTENT_RANGE, content)],
        part,
    )
        .into_response()
}

async fn console(
    State(shared): State<Arc<Shared>>,
    Path((_lease, _epoch)): Path<(String, u64)>,
    Query(at): Query<HashMap<String, usize>>,
    body: bytes::Bytes,
) -> axum::Json<ConsoleAck> {
    let mut console = shared.console.lock().unwrap();
    assert_eq!(at["offset"], console.len());
    console.extend_from_slice(&body);
    axum::Json(ConsoleAck {
        next_offset: console.len() as u64,
    })
}

async fn enrol(
    state: State<Arc<Shared>>,
    peer: Peer,
    headers: HeaderMap,
    body: bytes::Bytes,
) -> Response {
    answer(&state, "simpleenroll", peer, &headers, &body)
}

async fn renew(
    state: State<Arc<Shared>>,
    peer: Peer,
    headers: HeaderMap,
    body: bytes::Bytes,
) -> Response {
    answer(&state, "simplereenroll", peer, &headers, &body)
}

fn answer(
    shared: &Shared,
    operation: &'static str,
    peer: Peer,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let request = est::decode_request(body).unwrap();
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    shared.asked.lock().unwrap().push(Asked {
        operation,
        authorization: text("authorization"),
        facts: text(FACTS_HEADER),
        key: request.key_fingerprint(),
        shown: peer.certificate,
    });
    match shared.answers.lock().unwrap().pop_front() {
        Some(Answer::Refuse(problem)) => ProblemResponse(problem).into_response(),
        Some(Answer::Pending) => {
            (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "0")]).into_response()
        }
        None => {
            let (host, day) = (shared.host.to_string(), SignedDuration::from_hours(24));
            let issued = shared
                .authority
                .issue_host(&request, &host, Timestamp::now(), day)
                .unwrap();
            est::encode_certificates(&[issued]).unwrap().into_response()
        }
    }
}
