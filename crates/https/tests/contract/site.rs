//! A server with a CA of its own and a clock that tests can turn.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use surplus_https::client::Builder;
use surplus_https::{
    Client, Clock, Peer, PeerCertificate, ProblemResponse, Server, ServerIdentity, TlsVersion,
    Trust,
};
use surplus_pki::{Authority, Certificate, CertificateRequest, KeyPair};
use surplus_protocol::Problem;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const HOST: &str = "3b0c5a52-0f50-4a8a-9d0e-0d1f0e0f7a11";

/// What `/who` answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) certificate: String,
    pub(crate) name: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) tls: String,
    pub(crate) http: String,
}

pub(crate) struct Site {
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    pub(crate) identity: ServerIdentity,
    pub(crate) time: Time,
    pub(crate) end: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<()>,
}

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub(crate) struct Time(Arc<Mutex<Timestamp>>);

impl Time {
    pub(crate) fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    pub(crate) fn forward(&self, by: SignedDuration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.now())
    }
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|server| server).await
    }

    pub(crate) async fn start_with(set: impl FnOnce(Server) -> Server) -> Self {
        let time = Time(Arc::new(Mutex::new(Timestamp::now())));
        let authority = Authority::create(time.now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = authority.issue_server(&names, &key, time.now()).unwrap();
        let identity = ServerIdentity::new(&key, &certificate, authority.certificate()).unwrap();
        let trusted = [authority.certificate().clone()];
        let server = set(Server::new(&identity, &trusted, time.clock()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let shutdown = async {
            let _ = ended.await;
        };
        let served = tokio::spawn(server.serve(listener, router(), shutdown));
        Self {
            authority,
            address,
            identity,
            time,
            end: Some(end),
            served,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Authority(self.authority.certificate().clone())
    }

    /// A client that trusts this site, with nothing else set.
    pub(crate) fn builder(&self) -> Builder {
        Client::builder()
            .url(self.url())
            .trust(self.trust())
            .clock(self.time.clock())
    }

    pub(crate) fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    pub(crate) fn host(&self, key: &KeyPair, lifetime: SignedDuration) -> Certificate {
        let request = CertificateRequest::create(key, "new", &[]).unwrap();
        self.authority
            .issue_host(&request, HOST, self.time.now(), lifetime)
            .unwrap()
    }
}

pub(crate) async fn who(client: &Client) -> Who {
    client.get_json("/who").await.unwrap()
}

fn router() -> Router {
    Router::new()
        .route("/who", get(answer_who))
        .route("/healthz", get(async || "ok"))
        .route("/echo", post(async |body: axum::body::Body| body))
        .route("/length", post(length))
        .route("/blob", get(blob))
        .route("/refuse", get(refuse))
        .route(
            "/nothing",
            get(async || (StatusCode::BAD_GATEWAY, "a proxy speaking")),
        )
        .route("/never", get(std::future::pending::<StatusCode>))
        .route("/soon", get(soon))
}

async fn answer_who(peer: Peer, request: axum::extract::Request) -> Json<Who> {
    let (certificate, shown) = match peer.certificate {
        PeerCertificate::None => ("none", None),
        PeerCertificate::Valid(shown) => ("valid", Some(shown)),
        PeerCertificate::Expired(shown) => ("expired", Some(shown)),
    };
    let tls = if peer.tls_version == TlsVersion::V1_3 {
        "1.3"
    } else {
        "1.2"
    };
    Json(Who {
        certificate: certificate.to_owned(),
        name: shown
            .as_ref()
            .and_then(|shown| shown.common_name().map(str::to_owned)),
        serial: shown.as_ref().map(|shown| shown.serial_hex().to_owned()),
        tls: tls.to_owned(),
        http: format!("{:?}", request.version()),
    })
}

async fn length(headers: HeaderMap, body: axum::body::Body) -> String {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .map(|v| v.to_str().unwrap().to_owned());
    let mut stream = body.into_data_stream();
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        length += chunk.unwrap().len();
    }
    format!("{length} of {}", declared.unwrap_or_default())
}

pub(crate) const BLOB: &[u8] = b"0123456789";

async fn blob(headers: HeaderMap) -> axum::response::Response {
    use axum::response::IntoResponse as _;
    let Some(range) = headers.get(header::RANGE) else {
        return BLOB.into_response();
    };
    let start: usize = range
        .to_str()
        .unwrap()
        .strip_prefix("bytes=")
        .unwrap()
        .trim_end_matches('-')
        .parse()
        .unwrap();
    let range = [(header::CONTENT_RANGE, format!("bytes {start}-9/10"))];
    (StatusCode::PARTIAL_CONTENT, range, &BLOB[start..]).into_response()
}

async fn refuse() -> impl axum::response::IntoResponse {
    let problem = Problem::new(503, "storm", "Too many at once", "all come back", "wait");
    ([(header::RETRY_AFTER, "7")], ProblemResponse(problem))
}

async fn soon() -> &'static str {
    // Long enough for the test to ask for the server's end meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    "finished"
}
