//! Opening TCP connections by whichever network card leads to the server.
//!
//! The kernel's routes are asked first. On a machine with several cards up the
//! default route may lead away from the server, so the cards that the caller
//! names follow, each a moment after the last. The first connection wins, and
//! its way is the first to be tried next time.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

type BoxError = Box<dyn StdError + Send + Sync>;

/// How long a way is alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_secs(2);

/// Names the cards to try beside the kernel's routes; asked at each connection.
#[derive(Clone)]
pub(super) struct Interfaces(Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl Interfaces {
    pub(super) fn new(names: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(names))
    }
}

impl fmt::Debug for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interfaces")
    }
}

/// A card by name, or what the kernel's routes say.
type Way = Option<String>;

/// Opens TCP connections.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    tcp: HttpConnector,
    interfaces: Option<Interfaces>,
    /// The way that led there last.
    last: Arc<Mutex<Way>>,
}

impl Dial {
    pub(super) fn new(tcp: HttpConnector, interfaces: Option<Interfaces>) -> Self {
        Self {
            tcp,
            interfaces,
            last: Arc::default(),
        }
    }

    /// All ways, in the order to try them.
    fn ways(&self) -> Vec<Way> {
        let names = self.interfaces.as_ref().map(|Interfaces(names)| names());
        let mut ways = vec![None];
        ways.extend(names.unwrap_or_default().into_iter().map(Some));
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = ways.iter().position(|way| *way == *last) {
            ways[..=at].rotate_right(1);
        }
        ways
    }

    async fn by(mut self, way: Way, to: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        if let Some(name) = way {
            self.tcp.set_interface(name);
        }
        Ok(self.tcp.call(to).await?)
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let attempt = |way| dial.clone().by(way, to.clone());
            let (connected, way) = race(dial.ways(), attempt).await?;
            *dial.last.lock().unwrap_or_else(PoisonError::into_inner) = way;
            Ok(connected)
        })
    }
}

/// Tries `ways` in their order, the next one as soon as one fails or has had
/// its head start; the first success wins. Fails with the first failure.
async fn race<T, F>(ways: Vec<Way>, mut attempt: impl FnMut(Way) -> F) -> Result<(T, Way), BoxError>
where
    F: Future<Output = Result<T, BoxError>>,
{
    let mut ways = ways.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    loop {
        if let Some(way) = ways.next() {
            let trying = attempt(way.clone());
            running.push(async move { (trying.await, way) });
        }
        // Cancel-safe: attempts live in `running`, the rest only waits.
        tokio::select! {
            done = running.next() => match done {
                Some((Ok(connected), way)) => return Ok((connected, way)),
                Some((Err(error), _)) => drop(failure.get_or_insert(error)),
                None => return Err(failure.unwrap_or_else(|| "there is no way to try".into())),
            },
            () = tokio::time::sleep(HEAD_START), if ways.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn ways(names: &[&str]) -> Vec<Way> {
        let named = names.iter().map(|name| Some((*name).to_owned()));
        std::iter::once(None).chain(named).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_leads_nowhere_is_overtaken_by_the_card_that_leads_there() {
        let began = Instant::now();
        let (connected, way) = race(ways(&["eno1", "eno2"]), async |way: Way| {
            match way.as_deref() {
                Some("eno2") => Ok("there"),
                _ => std::future::pending().await,
            }
        })
        .await
        .unwrap();
        assert_eq!((connected, way.as_deref()), ("there", Some("eno2")));
        assert_eq!(began.elapsed(), 2 * HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_makes_the_next_way_due_at_once_and_the_first_is_told() {
        let began = Instant::now();
        let failed = race::<(), _>(ways(&["eno1"]), async |way: Way| {
            Err(format!("refused by {way:?}").into())
        })
        .await;
        assert_eq!(failed.unwrap_err().to_string(), "refused by None");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_way_that_led_there_is_tried_first_next_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to: Uri = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let names = || vec!["gone0".to_owned(), "lo".to_owned()];
        let mut dial = Dial::new(tcp, Some(Interfaces::new(names)));
        *dial.last.lock().unwrap() = Some("gone0".to_owned());
        assert_eq!(dial.ways()[0].as_deref(), Some("gone0"));
        assert_eq!(dial.ways().len(), 3);
        // A card that is no more fails, and the routes lead there.
        dial.call(to).await.unwrap();
        assert_eq!(*dial.last.lock().unwrap(), None);
        assert_eq!(dial.ways()[0], None);
    }
}
