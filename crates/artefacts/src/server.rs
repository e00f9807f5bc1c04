//! The accept loop: HTTP/1.1 with keep-alive, as firmware speaks it.
//!
//! A connection costs a permit. Silence gives it back: a head has a deadline,
//! and a peer that no longer acknowledges loses its connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::artefacts::Artefacts;
use crate::transfer::Observer;

/// At most this many connections at once; further ones wait.
const CONNECTIONS: usize = 4096;

/// How long a connection may be without a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long sent bytes may stay unacknowledged: a cable that is put back
/// within it loses nothing.
const SILENCE: Duration = Duration::from_secs(120);

/// Pause after the system refused a connection (descriptors used up).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves; then cuts what is running, for clients
/// resume or ask again.
pub async fn serve(
    listener: TcpListener,
    artefacts: Artefacts,
    observer: Arc<dyn Observer>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let artefacts = Arc::new(artefacts);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // Cancel safe: `accept` is, and so is `join_next`.
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (artefacts, observer) = (artefacts.clone(), observer.clone());
                    let permits = permits.clone();
                    connections.spawn(async move {
                        let _permit = permits.acquire().await;
                        connection(stream, peer, &artefacts, &observer).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    artefacts: &Arc<Artefacts>,
    observer: &Arc<dyn Observer>,
) {
    // What the socket cannot do it goes without.
    let _ = stream.set_nodelay(true);
    let silence = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &silence);
    let service = service_fn(|request| {
        let (artefacts, observer) = (artefacts.clone(), observer.clone());
        async move { Ok::<_, Infallible>(artefacts.answer(&request, peer, &observer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
