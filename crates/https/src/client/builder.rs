//! What a client is made of.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rand::seq::SliceRandom as _;
use rustls::pki_types::PrivateKeyDer;
use surplus_pki::{Certificate, KeyPair};

use super::connect::{self, Proxy};
use super::dial::Interfaces;
use super::trust::{Trust, Verifier};
use super::{Client, Shared};
use crate::clock::Clock;

/// Collects what a [`Client`] is made of.
#[derive(Clone)]
pub struct Builder {
    urls: Vec<String>,
    pub(super) trust: Option<Trust>,
    identity: Option<(KeyPair, Certificate)>,
    proxy: Option<String>,
    interfaces: Option<Interfaces>,
    connect_timeout: Duration,
    timeout: Duration,
    clock: Clock,
    headers: HeaderMap,
}

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("no base URL was given")]
    NoUrl,
    #[error("{url:?} is not a base URL: expected https://host[:port]")]
    Url { url: String },
    #[error("{url:?} is not a proxy: expected http://[user:password@]host:port")]
    Proxy { url: String },
    #[error("neither a CA certificate nor its fingerprint was given")]
    NoTrust,
    #[error("a header has characters that HTTP does not allow")]
    Header,
    #[error("the client's certificate is for another key")]
    Mismatch,
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            trust: None,
            identity: None,
            proxy: None,
            interfaces: None,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            clock: Clock::system(),
            headers: HeaderMap::new(),
        }
    }
}

impl Builder {
    /// Adds a base URL, `https://host[:port][/prefix]`. With several, one is
    /// taken at random and the others when it cannot be reached.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// What the server has to prove.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// The certificate to show, and its key.
    #[must_use]
    pub fn identity(mut self, key: KeyPair, certificate: Certificate) -> Self {
        self.identity = Some((key, certificate));
        self
    }

    /// Goes through this proxy by CONNECT: `http://[user:password@]host:port`.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Network cards to try beside the kernel's routes when these do not lead
    /// to the server; `names` is asked at each connection.
    #[must_use]
    pub fn interfaces(mut self, names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.interfaces = Some(Interfaces::new(names));
        self
    }

    /// Limit on TCP, proxy and TLS together. 10 s unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Limit on silence during a request (see [`Client::with_timeout`]). 30 s
    /// unless set.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The clock to judge certificates by. The system's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sends `Authorization: Bearer <token>` with each request.
    pub fn bearer(self, token: &str) -> Result<Self, BuildError> {
        self.header(http::header::AUTHORIZATION, &format!("Bearer {token}"))
    }

    /// Sends this header with each request; kept out of debug output.
    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self, BuildError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| BuildError::Header)?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Makes the client. Nothing is connected yet.
    pub fn build(self) -> Result<Client, BuildError> {
        let trust = self.trust.clone().ok_or(BuildError::NoTrust)?;
        let verifier = Arc::new(Verifier::new(trust));
        self.build_with(verifier)
    }

    pub(super) fn build_with(self, verifier: Arc<Verifier>) -> Result<Client, BuildError> {
        let mut bases = self
            .urls
            .iter()
            .map(|url| base(url))
            .collect::<Result<Vec<_>, _>>()?;
        if bases.is_empty() {
            return Err(BuildError::NoUrl);
        }
        bases.shuffle(&mut rand::rng());
        let proxy = self.proxy.as_deref().map(Proxy::parse).transpose()?;
        let tls = tls(verifier, self.identity.as_ref(), &self.clock)?;
        let connector = connect::connector(tls, proxy, self.interfaces, self.connect_timeout);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .build(connector);
        let shared = Shared {
            http,
            bases,
            current: AtomicUsize::new(0),
            headers: self.headers,
        };
        Ok(Client {
            shared: Arc::new(shared),
            timeout: self.timeout,
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proxy's URL may hold a password.
        f.debug_struct("Builder")
            .field("urls", &self.urls)
            .field("trust", &self.trust)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// `url` without a slash at its end.
fn base(url: &str) -> Result<String, BuildError> {
    let invalid = || BuildError::Url {
        url: url.to_owned(),
    };
    let text = url.trim_end_matches('/');
    let uri: Uri = text.parse().map_err(|_| invalid())?;
    let plain = uri.query().is_none() && uri.authority().is_some_and(|a| !a.as_str().contains('@'));
    if uri.scheme_str() != Some("https") || !plain {
        return Err(invalid());
    }
    Ok(text.to_owned())
}

fn tls(
    verifier: Arc<Verifier>,
    identity: Option<&(KeyPair, Certificate)>,
    clock: &Clock,
) -> Result<rustls::ClientConfig, BuildError> {
    let config =
        rustls::ClientConfig::builder_with_details(crate::provider(), Arc::new(clock.clone()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(BuildError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((key, certificate)) => {
            if key.fingerprint() != certificate.key_fingerprint() {
                return Err(BuildError::Mismatch);
            }
            let key = PrivateKeyDer::from(key.to_pkcs8_der());
            config
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .map_err(BuildError::Tls)?
        }
    };
    // A resumed session would keep the identity that it was opened with.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
