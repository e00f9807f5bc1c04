//! The accept loop: TLS, HTTP/1.1 and HTTP/2 on one port.
//!
//! Each request reaches the router with its [`Peer`]. A connection costs a
//! permit; handshakes, request heads and dead HTTP/2 peers have deadlines, so
//! that silence gives the permit back.

mod identity;
mod leftover;
mod verifier;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use surplus_pki::Certificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

pub use identity::{IdentityError, ServerIdentity};

use crate::clock::Clock;
use crate::peer::{Peer, PeerCertificate, TlsVersion};

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an HTTP/1 connection may take until a request's head is there;
/// idle time between requests counts.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a silent HTTP/2 peer is pinged, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after the system refused a connection (descriptors used up).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router over TLS.
pub struct Server {
    tls: TlsAcceptor,
    clock: Clock,
    max_connections: usize,
    drain_timeout: Duration,
}

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot use the CA's certificate for judging clients")]
    Authority(#[source] rustls::Error),
    #[error("cannot judge clients by the CA's certificate")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl Server {
    /// A server that shows `identity` and takes client certificates that one
    /// of `authorities` issued (more than one after a CA roll-over).
    pub fn new(
        identity: &ServerIdentity,
        authorities: &[Certificate],
        clock: Clock,
    ) -> Result<Self, SetupError> {
        let provider = crate::provider();
        let verifier = verifier::ClientVerifier::new(authorities, &provider)?;
        let time = Arc::new(clock.clone());
        let mut config = rustls::ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(SetupError::Tls)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(identity.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would skip the verifier.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            clock,
            max_connections: 16_384,
            drain_timeout: Duration::from_secs(10),
        })
    }

    /// At most this many connections at once; further ones wait in the
    /// listener's queue. 16,384 unless set.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How long running requests may go on after the end was asked for. 10 s
    /// unless set.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Serves `router` until `shutdown` resolves; then lets running requests
    /// finish and returns.
    pub async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let permits = Arc::new(Semaphore::new(self.max_connections));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // Cancel safe: `next_connection` gives up a permit or a pause at
            // most (`TcpListener::accept` is cancel safe); `join_next` is too.
            tokio::select! {
                () = &mut shutdown => break,
                (stream, address, permit) = next_connection(&listener, &permits) => {
                    let connection = Connection {
                        tls: self.tls.clone(),
                        clock: self.clock.clone(),
                        address,
                        router: router.clone(),
                        watcher: graceful.watcher(),
                    };
                    connections.spawn(async move {
                        connection.run(stream).await;
                        drop(permit);
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        if tokio::time::timeout(self.drain_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("connections still open after the drain timeout are cut");
        }
        connections.shutdown().await;
    }
}

/// The next connection with its permit; goes on after failures.
async fn next_connection(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, permit),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One accepted connection.
struct Connection {
    tls: TlsAcceptor,
    clock: Clock,
    address: SocketAddr,
    router: Router,
    watcher: Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Small answers shall not wait for each other.
        let _ = stream.set_nodelay(true);
        let address = self.address;
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await;
        match accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => self.serve(stream).await,
            Err(error) => tracing::debug!(%address, %error, "TLS handshake failed"),
        }
    }

    async fn serve(self, stream: TlsStream<TcpStream>) {
        let Self {
            clock,
            address,
            router,
            watcher,
            ..
        } = self;
        let (_, session) = stream.get_ref();
        let tls_version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        };
        // The verifier has parsed it before: it cannot fail now.
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let certificate = leaf.and_then(|der| Certificate::from_der(der).ok());
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (head, body) = request.into_parts();
            let (body, leftover) = leftover::returning(body);
            let mut request = http::Request::from_parts(head, axum::body::Body::new(body));
            let certificate = judge(certificate.as_ref(), &clock);
            request.extensions_mut().insert(Peer {
                address,
                certificate,
                tls_version,
            });
            let router = router.clone();
            async move {
                let answer = router.oneshot(request).await;
                leftover.drain().await;
                answer
            }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(64);
        let connection = http
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%address, %error, "connection ended badly");
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

fn judge(certificate: Option<&Certificate>, clock: &Clock) -> PeerCertificate {
    match certificate {
        None => PeerCertificate::None,
        Some(certificate) if clock.now() <= certificate.not_after() => {
            PeerCertificate::Valid(certificate.clone())
        }
        Some(certificate) => PeerCertificate::Expired(certificate.clone()),
    }
}
