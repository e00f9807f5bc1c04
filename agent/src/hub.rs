//! The way to the marketplace: who it is, and how a client of it is made.
//!
//! What always holds: a client trusts the site file's CA or pin and nothing
//! else; a client with an identity is built anew when the identity changes,
//! since pooled connections keep what they were opened with.

use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use surplus_https::client::{BuildError, TimeError, server_time};
use surplus_https::{Body, Client, ClientError, Clock, Trust};
use surplus_pki::{Certificate, CertificateRequest, est};
use surplus_protocol::Problem;
use surplus_protocol::enrol::{EST_PATH, FACTS_HEADER, HostFacts};

use crate::identity::Identity;
use crate::network::look;
use crate::sysroot::SysRoot;

/// Longest answer of EST, in bytes: a few certificates.
const EST_LIMIT: usize = 256 * 1024;

/// How much of a text answer is shown, in characters.
const LONGEST_DETAIL: usize = 200;

/// Where the marketplace is, and how it proves itself.
#[derive(Clone, Debug)]
pub struct Road {
    urls: Vec<String>,
    trust: Trust,
    proxy: Option<String>,
    clock: Clock,
    /// The machine whose cards are tried where the kernel's routes lead
    /// elsewhere.
    machine: Option<SysRoot>,
}

/// Why a site file leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum RoadError {
    #[error("the site file's CA certificate cannot be used")]
    Ca(#[from] surplus_pki::certificate::CertificateError),
    #[error("the site file's marketplace cannot be used")]
    Client(#[from] BuildError),
}

impl Road {
    pub fn new(marketplace: &surplus_site::Marketplace) -> Result<Self, RoadError> {
        let trust = match &marketplace.trust {
            surplus_site::Trust::Ca(pem) => Trust::Authority(Certificate::from_pem(pem)?),
            surplus_site::Trust::CaSha256(pin) => Trust::Pin(*pin),
        };
        let road = Self {
            urls: marketplace.urls.clone(),
            trust,
            proxy: marketplace.proxy.clone(),
            clock: Clock::system(),
            machine: None,
        };
        road.anonymous()?;
        Ok(road)
    }

    /// The same road with certificates judged by another clock.
    #[must_use]
    pub fn judged_by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The same road by any of this machine's network cards.
    #[must_use]
    pub fn by_any_card(self, machine: SysRoot) -> Self {
        let machine = Some(machine);
        Self { machine, ..self }
    }

    /// The addresses, for people.
    pub fn shown(&self) -> String {
        self.urls.join(",")
    }

    fn builder(&self) -> surplus_https::client::Builder {
        let mut builder = Client::builder()
            .trust(self.trust.clone())
            .clock(self.clock.clone());
        for url in &self.urls {
            builder = builder.url(url);
        }
        if let Some(machine) = self.machine.clone() {
            builder = builder.interfaces(move || look::ways(&machine));
        }
        match &self.proxy {
            Some(proxy) => builder.proxy(proxy),
            None => builder,
        }
    }

    /// A client that shows no certificate.
    pub fn anonymous(&self) -> Result<Client, BuildError> {
        self.builder().build()
    }

    /// A client that shows the host's certificate.
    pub fn client_of(&self, identity: &Identity) -> Result<Client, BuildError> {
        self.builder()
            .identity(identity.key.clone(), identity.certificate().clone())
            .build()
    }

    /// The marketplace's time, judged without our own.
    pub async fn time(&self) -> Result<Timestamp, TimeError> {
        server_time(self.builder(), "/healthz").await
    }

    /// The CA's certificate: from the site file, or asked for and compared with
    /// its pin.
    pub async fn authority(&self, client: &Client) -> Result<Certificate, AuthorityError> {
        let pin = match &self.trust {
            Trust::Authority(certificate) => return Ok(certificate.clone()),
            Trust::Pin(pin) => *pin,
        };
        let path = format!("{EST_PATH}/cacerts");
        let answer = client
            .request(Method::GET, &path, HeaderMap::new(), Body::empty())
            .await?;
        est::decode_certificates(&answer.bytes(EST_LIMIT).await?)?
            .into_iter()
            .find(|certificate| certificate.fingerprint() == pin)
            .ok_or(AuthorityError::Missing)
    }
}

/// Why the CA's certificate is not known.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the marketplace's CA certificates cannot be read")]
    Decode(#[from] est::DecodeError),
    #[error("the CA that the site file pins is not among the marketplace's CA certificates")]
    Missing,
}

/// What the marketplace says to a request for a certificate.
#[derive(Clone, Debug)]
pub enum Enrolment {
    Issued(Vec<Certificate>),
    /// Somebody has to approve the host; the same request again, later.
    Pending {
        detail: Option<String>,
        /// What lets it in, where the marketplace says that itself.
        next: Option<String>,
        retry_after: Option<Duration>,
    },
}

/// Why there is no answer to a request for a certificate.
#[derive(Debug, thiserror::Error)]
pub enum EstError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the marketplace's answer holds no certificates")]
    Decode(#[from] est::DecodeError),
}

/// `simpleenroll` (RFC 7030, 4.2.1), with the token as HTTP Basic password.
pub async fn enrol(
    client: &Client,
    request: &CertificateRequest,
    token: Option<&SecretString>,
    facts: &HostFacts,
) -> Result<Enrolment, EstError> {
    let mut headers = facts_header(facts);
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, basic(token));
    }
    send(client, "simpleenroll", headers, request).await
}

/// `simplereenroll` (RFC 7030, 4.2.2); `client` shows the old certificate.
pub async fn renew(
    client: &Client,
    request: &CertificateRequest,
    facts: &HostFacts,
) -> Result<Enrolment, EstError> {
    send(client, "simplereenroll", facts_header(facts), request).await
}

fn facts_header(facts: &HostFacts) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&facts.to_header()) {
        headers.insert(FACTS_HEADER, value);
    }
    headers
}

fn basic(token: &SecretString) -> HeaderValue {
    use base64::Engine as _;
    let pair = SecretString::from(format!("host:{}", token.expose_secret()));
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair.expose_secret());
    // Base64 is always a header's value.
    let mut value =
        HeaderValue::from_str(&format!("Basic {encoded}")).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

async fn send(
    client: &Client,
    operation: &str,
    mut headers: HeaderMap,
    request: &CertificateRequest,
) -> Result<Enrolment, EstError> {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(est::REQUEST_TYPE),
    );
    headers.insert(
        "content-transfer-encoding",
        HeaderValue::from_static("base64"),
    );
    let path = format!("{EST_PATH}/{operation}");
    let body = Body::from(est::encode_request(request));
    let answer = client.request(Method::POST, &path, headers, body).await?;
    if answer.status() == StatusCode::ACCEPTED {
        let retry_after = answer.retry_after();
        let body = answer.bytes(EST_LIMIT).await?;
        let (detail, next) = pending_detail(&body);
        return Ok(Enrolment::Pending {
            detail,
            next,
            retry_after,
        });
    }
    Ok(Enrolment::Issued(est::decode_certificates(
        &answer.bytes(EST_LIMIT).await?,
    )?))
}

/// Why a request waits, and what to do: a problem document, or text.
fn pending_detail(body: &[u8]) -> (Option<String>, Option<String>) {
    let said = |text: &str| {
        let line: String = text.trim().chars().take(LONGEST_DETAIL).collect();
        (!line.is_empty()).then_some(line)
    };
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => (said(&problem.detail), said(&problem.next)),
        Err(_) => (said(&String::from_utf8_lossy(body)), None),
    }
}

/// What happened, in one line: an error and its causes.
pub fn in_one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

/// Whether the failure is one that a wrong clock explains.
pub fn about_time(error: &ClientError) -> bool {
    matches!(error, ClientError::Untrusted { .. }) && error.retryable()
}

/// What happened and what to do about it, as a stage line wants them.
pub fn explain(error: &ClientError) -> (String, String) {
    use ClientError as E;
    let next = match error {
        E::Problem { problem, .. } => {
            let next = if problem.next.is_empty() {
                "ask the marketplace's operator"
            } else {
                &problem.next
            };
            return (problem.detail.clone(), next.to_owned());
        }
        E::Connect { .. } => {
            "check that the marketplace runs there and that this network lets the host reach it (address, firewall, proxy, name server)"
        }
        E::Untrusted { .. } if error.retryable() => {
            "check the clocks of this host and of the marketplace"
        }
        E::Untrusted { .. } => {
            "compare the site file's CA and address with the marketplace's (surplus site-file prints both)"
        }
        E::Status { .. } | E::Decode { .. } | E::TooLong { .. } | E::Url { .. } => {
            "check that the address in the site file is the marketplace's, not a proxy's or another server's"
        }
        E::Transport { .. } | E::Timeout { .. } | E::Encode { .. } => {
            "check the network between this host and the marketplace"
        }
    };
    (
        in_one_line(error),
        format!("{next}; the host goes on trying"),
    )
}
