//! The accept loop: HTTP/1.1 with keep-alive, as firmware speaks it.
//!
//! A connection costs a permit. Silence gives it back: a head has a deadline,
//! and a peer that no longer acknowledges loses its connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::artefacts::Artefacts;
use crate::transfer::Observer;

/// At most this many connections at once; further ones wait with the system,
/// unaccepted, and cost no descriptor.
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
    serve_at_once(CONNECTIONS, listener, artefacts, observer, shutdown).await;
}

async fn serve_at_once(
    connections: usize,
    listener: TcpListener,
    artefacts: Artefacts,
    observer: Arc<dyn Observer>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let artefacts = Arc::new(artefacts);
    let permits = Arc::new(Semaphore::new(connections));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // Cancel safe: a permit comes back, and no connection is lost.
        tokio::select! {
            () = &mut shutdown => break,
            (permit, accepted) = accept(&listener, &permits) => match accepted {
                Ok((stream, peer)) => {
                    let (artefacts, observer) = (artefacts.clone(), observer.clone());
                    connections.spawn(async move {
                        connection(stream, peer, &artefacts, &observer).await;
                        drop(permit);
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

/// The next connection, once there is a permit for it.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (
    Option<OwnedSemaphorePermit>,
    io::Result<(TcpStream, SocketAddr)>,
) {
    // The semaphore is never closed: there is always a permit in the end.
    let permit = permits.clone().acquire_owned().await.ok();
    (permit, listener.accept().await)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET /script HTTP/1.1\r\nHost: x\r\n\r\n";

    /// How many connections to `port` are accepted.
    fn accepted(port: u16) -> usize {
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        let own = format!(":{port:04X}");
        let established = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            // An unaccepted connection has no inode yet.
            fields[1].ends_with(&own) && fields[3] == "01" && fields[9] != "0"
        };
        table.lines().skip(1).filter(established).count()
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_not_accepted_before_another_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let artefacts = Artefacts::default().with("script", "here");
        let forever = std::future::pending();
        tokio::spawn(serve_at_once(1, listener, artefacts, Arc::new(()), forever));
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 4096];
        assert!(first.read(&mut answer).await.unwrap() > 0);
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        // The server has had its turn, more than once, when this comes back.
        first.write_all(REQUEST).await.unwrap();
        assert!(first.read(&mut answer).await.unwrap() > 0);
        assert_eq!(accepted(address.port()), 1);
        drop(first);
        assert!(second.read(&mut answer).await.unwrap() > 0);
    }
}
