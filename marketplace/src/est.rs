//! Enrolment over secure transport (RFC 7030) under `/.well-known/est`.
//!
//! Owns the wire: what a request looks like, which certificate may renew, how
//! often an address may guess at tokens. Who may join is the [`Registrar`]'s.
//! What always holds: the registrar sees a request only after its signature was
//! verified, and a renewal only where subject, alternative names and
//! certificate say the same host.
//!
//! | path | answer |
//! |---|---|
//! | `GET cacerts` | 200, the CAs' certificates |
//! | `GET csrattrs` | 204: nothing particular is asked for |
//! | `POST simpleenroll` | 200 with the certificate; 202 with `Retry-After` while pending; 401 where the token is no good |
//! | `POST simplereenroll` | the same, with the old certificate shown in TLS |
//!
//! The join token is the HTTP Basic password; the user name is free. What the
//! register wants to know beside travels in
//! [`FACTS_HEADER`](surplus_protocol::enrol::FACTS_HEADER). A first request may
//! name anything but a host: the marketplace chooses the name.

mod authorization;
mod limit;
pub mod problems;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use secrecy::SecretString;
use surplus_https::{Peer, PeerCertificate, ProblemResponse};
use surplus_pki::{Certificate, CertificateRequest, HOST_DOMAIN, Role, est};
use surplus_protocol::Problem;
use surplus_protocol::enrol::{FACTS_HEADER, HostFacts};
use surplus_protocol::ids::HostId;

use limit::Limiter;

/// Longest request that is read, in bytes.
const MAX_REQUEST: usize = 64 << 10;

const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// Decides who joins, and issues the certificates.
///
/// The same request may come again because its answer was lost: the same key
/// must then get a certificate for the same host and spend nothing.
pub trait Registrar: Send + Sync + 'static {
    /// The CAs that hosts shall trust, the present one first.
    fn authorities(&self) -> Vec<Certificate>;

    /// A first enrolment.
    fn enrol(&self, applicant: Applicant) -> impl Future<Output = Outcome> + Send;

    /// A renewal. Must refuse where the key of [`Renewal::certificate`] is not
    /// one that the register holds for the host.
    fn renew(&self, renewal: Renewal) -> impl Future<Output = Outcome> + Send;
}

/// Asks to join.
#[derive(Debug)]
pub struct Applicant {
    pub request: CertificateRequest,
    /// The join token's secret, where one was given.
    pub token: Option<SecretString>,
    pub from: std::net::IpAddr,
    /// Empty where the client is not a surplus-agent.
    pub facts: HostFacts,
}

/// Asks for a new certificate for what the old one says.
#[derive(Debug)]
pub struct Renewal {
    /// Names exactly what `certificate` names. Its key may be a new one, unless
    /// `certificate` has expired.
    pub request: CertificateRequest,
    pub host: HostId,
    /// Issued by our CA, its key proved in this connection; may have expired.
    pub certificate: Certificate,
    pub from: std::net::IpAddr,
    pub facts: Option<HostFacts>,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    Issued(Certificate),
    /// An operator or a rule has to approve it; ask again then.
    Pending {
        retry_after: Duration,
        detail: String,
    },
    /// Status 401 counts as a guess at a token (see [`problems`]).
    Refused(Problem),
}

struct Est<R> {
    registrar: Arc<R>,
    guesses: Arc<Mutex<Limiter>>,
    knocks: Arc<Mutex<Limiter>>,
}

impl<R> Clone for Est<R> {
    fn clone(&self) -> Self {
        Self {
            registrar: self.registrar.clone(),
            guesses: self.guesses.clone(),
            knocks: self.knocks.clone(),
        }
    }
}

/// The routes. They need the [`Peer`] that `surplus_https::Server` provides.
pub fn router<R: Registrar>(registrar: Arc<R>) -> Router {
    let est = Est {
        registrar,
        guesses: Arc::new(Mutex::new(Limiter::default())),
        knocks: Arc::new(Mutex::new(Limiter::without_token())),
    };
    Router::new()
        .route("/.well-known/est/cacerts", get(ca_certificates::<R>))
        .route(
            "/.well-known/est/csrattrs",
            get(async || StatusCode::NO_CONTENT),
        )
        .route("/.well-known/est/simpleenroll", post(enrol::<R>))
        .route("/.well-known/est/simplereenroll", post(renew::<R>))
        .with_state(est)
}

async fn ca_certificates<R: Registrar>(State(est): State<Est<R>>) -> Response {
    certificates(est::CA_CERTIFICATES_TYPE, &est.registrar.authorities())
}

async fn enrol<R: Registrar>(
    State(est): State<Est<R>>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let from = peer.address.ip().to_canonical();
    let applicant = match applicant(from, &headers, body).await {
        Ok(applicant) => applicant,
        Err(problem) => return refuse(*problem),
    };
    if applicant.token.is_none() {
        let taken = est.knock(from);
        if let Err(wait) = taken {
            return try_later(wait);
        }
        return answer(est.registrar.enrol(applicant).await);
    }
    // Taken before the answer is known: parallel guesses count as well.
    if let Err(wait) = est.guesses().take(from, Instant::now()) {
        return try_later(wait);
    }
    let outcome = est.registrar.enrol(applicant).await;
    if !matches!(&outcome, Outcome::Refused(problem) if problem.status == 401) {
        est.guesses().give_back(from);
    }
    answer(outcome)
}

async fn renew<R: Registrar>(
    State(est): State<Est<R>>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match renewal(&peer, &headers, body).await {
        Ok(renewal) => answer(est.registrar.renew(renewal).await),
        Err(problem) => refuse(*problem),
    }
}

impl<R> Est<R> {
    /// Counts a request without a token, or says how long to wait.
    fn knock(&self, from: std::net::IpAddr) -> Result<(), Duration> {
        let mut knocks = self.knocks.lock().unwrap_or_else(PoisonError::into_inner);
        knocks.take(from, Instant::now())
    }

    fn guesses(&self) -> std::sync::MutexGuard<'_, Limiter> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn applicant(
    from: std::net::IpAddr,
    headers: &HeaderMap,
    body: Body,
) -> Result<Applicant, Box<Problem>> {
    let token = authorization::password(headers)?;
    let facts = facts(headers)?.unwrap_or_default();
    let request = request(body).await?;
    if let Some(name) = named_host(&request) {
        return Err(problems::names_a_host(&name).into());
    }
    Ok(Applicant {
        request,
        token,
        from,
        facts,
    })
}

async fn renewal(peer: &Peer, headers: &HeaderMap, body: Body) -> Result<Renewal, Box<Problem>> {
    let (certificate, expired) = match &peer.certificate {
        PeerCertificate::None => return Err(problems::certificate_required().into()),
        PeerCertificate::Valid(certificate) => (certificate, false),
        PeerCertificate::Expired(certificate) => (certificate, true),
    };
    let host = certificate
        .common_name()
        .and_then(|name| name.parse::<HostId>().ok());
    let host = host.filter(|_| certificate.role() == Some(Role::Host));
    let host = host.ok_or_else(problems::certificate_required)?;
    let facts = facts(headers)?;
    let request = request(body).await?;
    if !request.same_identity(certificate) {
        return Err(problems::another_host(&host.to_string()).into());
    }
    if expired && request.key_fingerprint() != certificate.key_fingerprint() {
        return Err(problems::expired_with_new_key(&host.to_string()).into());
    }
    let from = peer.address.ip().to_canonical();
    Ok(Renewal {
        request,
        host,
        certificate: certificate.clone(),
        from,
        facts,
    })
}

/// The host that a request asks to be, if any.
fn named_host(request: &CertificateRequest) -> Option<String> {
    let id = request
        .common_name()
        .filter(|name| name.parse::<HostId>().is_ok());
    let mut names = request.dns_names().into_iter().chain(request.common_name());
    let under_domain = |name: &&str| name.to_ascii_lowercase().ends_with(HOST_DOMAIN);
    id.or_else(|| names.find(under_domain)).map(str::to_owned)
}

async fn request(body: Body) -> Result<CertificateRequest, Box<Problem>> {
    let body = axum::body::to_bytes(body, MAX_REQUEST).await.map_err(|_| {
        problems::unreadable(&format!(
            "the body is broken off or longer than {MAX_REQUEST} bytes"
        ))
    })?;
    Ok(est::decode_request(&body).map_err(|error| problems::unreadable(&error.to_string()))?)
}

fn facts(headers: &HeaderMap) -> Result<Option<HostFacts>, Box<Problem>> {
    let Some(value) = headers.get(FACTS_HEADER) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|error| problems::unreadable(&error.to_string()))?;
    let facts = HostFacts::from_header(text)
        .map_err(|error| problems::unreadable(&format!("header {FACTS_HEADER}: {error}")))?;
    Ok(Some(facts))
}

fn answer(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Issued(certificate) => certificates(est::ENROLLED_TYPE, &[certificate]),
        Outcome::Pending {
            retry_after,
            detail,
        } => {
            let text = [(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            )];
            (
                StatusCode::ACCEPTED,
                text,
                [retry_header(retry_after)],
                detail + "\n",
            )
                .into_response()
        }
        Outcome::Refused(problem) => refuse(problem),
    }
}

fn refuse(problem: Problem) -> Response {
    let challenge = (problem.status == 401).then_some([(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(authorization::CHALLENGE),
    )]);
    match challenge {
        Some(challenge) => (challenge, ProblemResponse(problem)).into_response(),
        None => ProblemResponse(problem).into_response(),
    }
}

fn try_later(wait: Duration) -> Response {
    (
        [retry_header(wait)],
        ProblemResponse(problems::too_many_guesses(wait)),
    )
        .into_response()
}

/// Whole seconds, at least one.
fn retry_header(wait: Duration) -> (HeaderName, HeaderValue) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

fn certificates(media_type: &'static str, certificates: &[Certificate]) -> Response {
    match est::encode_certificates(certificates) {
        Ok(body) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
                (TRANSFER_ENCODING, HeaderValue::from_static("base64")),
            ];
            (headers, body).into_response()
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot answer an enrolment"
            );
            refuse(problems::internal())
        }
    }
}
