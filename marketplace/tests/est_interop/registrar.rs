//! A register in memory behind the real EST routes and the real server.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use surplus_https::client::Builder;
use surplus_https::{Body, Client, ClientError, Clock, Response, Server, ServerIdentity, Trust};
use surplus_market::token::TokenRefusal;
use surplus_marketplace::est::{self, Applicant, Outcome, Registrar, Renewal, problems};
use surplus_pki::authority::HOST_LIFETIME;
use surplus_pki::{Authority, Certificate, CertificateRequest, KeyPair};
use surplus_protocol::ids::HostId;
use tokio::net::TcpListener;

use crate::tools::Target;

/// The one token, good for `uses` hosts.
pub(crate) const TOKEN: &str = "let-me-in";

/// When a pending host shall ask again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Register {
    pub(crate) authority: Authority,
    pub(crate) time: Time,
    pub(crate) state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) uses: u32,
    /// Key fingerprint of each host.
    pub(crate) hosts: HashMap<HostId, [u8; 32]>,
    /// Keys that asked without a token, and whether they were approved.
    pub(crate) pending: HashMap<[u8; 32], bool>,
    pub(crate) sites: Vec<String>,
}

impl Register {
    fn issue(&self, request: &CertificateRequest, host: HostId) -> Outcome {
        let now = self.time.now();
        let issued = self
            .authority
            .issue_host(request, &host.to_string(), now, HOST_LIFETIME);
        Outcome::Issued(issued.unwrap())
    }

    fn admit(&self, state: &mut State, request: &CertificateRequest) -> Outcome {
        let key = request.key_fingerprint();
        let known = state
            .hosts
            .iter()
            .find(|(_, held)| **held == key)
            .map(|(host, _)| *host);
        let host = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string().parse().unwrap());
        state.hosts.insert(host, key);
        self.issue(request, host)
    }
}

impl Registrar for Register {
    fn authorities(&self) -> Vec<Certificate> {
        vec![self.authority.certificate().clone()]
    }

    async fn enrol(&self, applicant: Applicant) -> Outcome {
        let mut state = self.state.lock().unwrap();
        let key = applicant.request.key_fingerprint();
        state.sites.push(applicant.facts.site);
        let Some(token) = applicant.token else {
            if *state.pending.entry(key).or_default() {
                return self.admit(&mut state, &applicant.request);
            }
            let detail = "waits for an operator".to_owned();
            return Outcome::Pending {
                retry_after: RETRY,
                detail,
            };
        };
        if token.expose_secret() != TOKEN {
            return Outcome::Refused(problems::token(&TokenRefusal::Unknown));
        }
        if state.hosts.values().all(|held| *held != key) {
            if state.uses == 0 {
                let spent = TokenRefusal::Spent {
                    name: "rack".to_owned(),
                    used: 1,
                    uses: 1,
                };
                return Outcome::Refused(problems::token(&spent));
            }
            state.uses -= 1;
        }
        self.admit(&mut state, &applicant.request)
    }

    async fn renew(&self, renewal: Renewal) -> Outcome {
        let mut state = self.state.lock().unwrap();
        if state.hosts.get(&renewal.host) != Some(&renewal.certificate.key_fingerprint()) {
            return Outcome::Refused(problems::not_registered(&renewal.host.to_string()));
        }
        state
            .hosts
            .insert(renewal.host, renewal.request.key_fingerprint());
        self.issue(&renewal.request, renewal.host)
    }
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

    fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.now())
    }
}

/// The marketplace as far as EST goes.
pub(crate) struct Marketplace {
    pub(crate) register: Arc<Register>,
    pub(crate) address: SocketAddr,
}

impl Marketplace {
    /// One token with this many uses.
    pub(crate) async fn start(uses: u32) -> Self {
        let time = Time(Arc::new(Mutex::new(Timestamp::now())));
        let authority = Authority::create(time.now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = authority.issue_server(&names, &key, time.now()).unwrap();
        let trusted = [authority.certificate().clone()];
        let identity = ServerIdentity::new(&key, &certificate, &trusted[0]).unwrap();
        let server = Server::new(&identity, &trusted, time.clock()).unwrap();
        let (hosts, pending, sites) = (HashMap::new(), HashMap::new(), Vec::new());
        let state = Mutex::new(State {
            uses,
            hosts,
            pending,
            sites,
        });
        let register = Arc::new(Register {
            authority,
            time,
            state,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = est::router(register.clone());
        tokio::spawn(server.serve(listener, router, std::future::pending()));
        Self { register, address }
    }

    pub(crate) fn target(&self) -> Target {
        let (ca, token) = (self.ca().clone(), TOKEN.to_owned());
        Target {
            ca,
            port: self.address.port(),
            token,
        }
    }

    pub(crate) fn ca(&self) -> &Certificate {
        self.register.authority.certificate()
    }

    pub(crate) fn builder(&self) -> Builder {
        Client::builder()
            .url(format!("https://{}", self.address))
            .trust(Trust::Authority(self.ca().clone()))
    }

    /// A client with this identity, whatever the marketplace's time is.
    pub(crate) fn known(&self, key: &KeyPair, certificate: &Certificate) -> Client {
        self.builder()
            .identity(key.clone(), certificate.clone())
            .build()
            .unwrap()
    }

    /// Enrols a host that our own client speaks for.
    pub(crate) async fn enrolled(&self) -> (KeyPair, Certificate) {
        let key = KeyPair::generate().unwrap();
        let request = CertificateRequest::create(&key, "new", &[]).unwrap();
        let body = surplus_pki::est::encode_request(&request);
        let client = self.builder().build().unwrap();
        let answer = post(&client, "simpleenroll", Some(TOKEN), body)
            .await
            .unwrap();
        (key, certificate(answer).await)
    }
}

/// Posts to one of EST's operations.
pub(crate) async fn post(
    client: &Client,
    operation: &str,
    token: Option<&str>,
    body: impl Into<Body>,
) -> Result<Response, ClientError> {
    use base64::Engine as _;
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("host:{token}"));
        headers.insert(
            header::AUTHORIZATION,
            format!("Basic {credentials}").parse().unwrap(),
        );
    }
    let pkcs10 = HeaderValue::from_static(surplus_pki::est::REQUEST_TYPE);
    headers.insert(header::CONTENT_TYPE, pkcs10);
    let path = format!("/.well-known/est/{operation}");
    client
        .request(Method::POST, &path, headers, body.into())
        .await
}

/// The one certificate of an answer.
pub(crate) async fn certificate(answer: Response) -> Certificate {
    let body = answer.bytes(1 << 20).await.unwrap();
    let mut certificates = surplus_pki::est::decode_certificates(&body).unwrap();
    assert_eq!(certificates.len(), 1);
    certificates.remove(0)
}
