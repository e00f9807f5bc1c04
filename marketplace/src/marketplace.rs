//! The marketplace, opened from its data directory and served on one port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use http::{Method, StatusCode, Uri};
use surplus_https::server::SetupError;
use surplus_https::{Clock, Server};
use surplus_market::presence::Presence;
use surplus_market::records::KeyRecord;
use surplus_market::store::{Store as _, StoreError, Tx as _};
use surplus_protocol::api::{PriceBook, Role};
use surplus_protocol::ids::KeyId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Parts};
use crate::certificates::{Certificates, CertificatesError};
use crate::consoles::Consoles;
use crate::data::{DataDir, DataError};
use crate::images::Images;
use crate::limits::Limits;
use crate::metrics::{self, Metrics};
use crate::refusal::Refusal;
use crate::store::{OpenError, SqliteStore};
use crate::wakers::Wakers;
use crate::{agent, api, background, est, names, secret};

/// What a marketplace is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    /// Where it will listen, for the names in its certificate.
    pub listen: SocketAddr,
    /// Where agents reach it; none: at the address it listens on.
    pub urls: Vec<String>,
    pub prices: PriceBook,
    pub max_image_bytes: u64,
    pub limits: Limits,
    pub clock: Clock,
}

/// Why a marketplace could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory")]
    Data(#[from] DataError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot use the store")]
    Store(#[from] StoreError),
    #[error("cannot tidy the image store")]
    Images {
        #[source]
        source: std::io::Error,
    },
    #[error("{url:?} is not an address that agents can call: expected https://host[:port]")]
    Url { url: String },
    #[error(
        "price book {version} is in the store with other prices; bills were made with it: \
         give the new prices the version {}", version + 1
    )]
    PricesChanged { version: u32 },
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    #[error("cannot set up the TLS port")]
    Tls(#[from] SetupError),
}

/// A marketplace that is ready to serve.
#[derive(Debug)]
pub struct Marketplace {
    app: App,
    server: Server,
    /// This was the first start: the operator wants to know what to do next.
    pub first_start: bool,
}

impl Marketplace {
    /// Opens what is in the data directory, and makes what is missing.
    ///
    /// # Errors
    ///
    /// [`StartError`] where something there cannot be used.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let now = config.clock.now();
        let urls = match config.urls.is_empty() {
            true => vec![format!("https://{}", config.listen)],
            false => config.urls,
        };
        let names = names::server_names(&urls, config.listen)?;
        let data = DataDir::open(&config.data)?;
        let (authority, first_start) = data.authority(now)?;
        let certificates = Certificates::open(data.clone(), names, &authority, now)?;
        let authorities = [authority.certificate().clone()];
        let server = Server::new(certificates.identity(), &authorities, config.clock.clone())?;
        let store = SqliteStore::open(&data.join("store.db")).await?;
        keep_prices(&store, &config.prices).await?;
        keep_admin_key(&store, &data, now).await?;
        let images = Images::open(
            data.directory("images")?,
            config.max_image_bytes,
            config.limits,
        )
        .map_err(|source| StartError::Images { source })?;
        let consoles = Consoles::new(data.directory("consoles")?);
        let app = App::new(Parts {
            store,
            authority,
            certificates,
            clock: config.clock,
            prices: config.prices,
            urls,
            limits: config.limits,
            images,
            consoles,
            metrics: Metrics::default(),
            presence: Mutex::new(Presence::new(now)),
            hosts: Wakers::default(),
            console_readers: Wakers::default(),
            syncs: app::storm_brake(),
            closing: CancellationToken::new(),
        });
        Ok(Self {
            app,
            server,
            first_start,
        })
    }

    /// Where agents reach it.
    pub fn urls(&self) -> &[String] {
        &self.app.urls
    }

    /// Serves until `shutdown` resolves; then lets running requests finish.
    ///
    /// # Errors
    ///
    /// [`ServeError`] where the sweeps ended before that: without them no
    /// lease would.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let Self { app, server, .. } = self;
        let broken = CancellationToken::new();
        let sweeping = tokio::spawn(background::run(app.clone()));
        let sweeping = tokio::spawn(watch(sweeping, app.closing.clone(), broken.clone()));
        let closing = app.closing.clone();
        let shutdown = async move {
            // Cancel safe: both end the process.
            tokio::select! {
                () = shutdown => {}
                () = broken.cancelled() => {}
            }
            // Before the drain begins, so that long polls answer within it.
            closing.cancel();
        };
        server.serve(listener, router(&app), shutdown).await;
        let swept = sweeping.await;
        app.store.close().await;
        swept.unwrap_or(Err(ServeError { source: None }))
    }
}

/// The sweeps ended before the process did.
#[derive(Debug, thiserror::Error)]
#[error("the background work ended by itself: no lease would end in time any more")]
pub struct ServeError {
    #[source]
    source: Option<tokio::task::JoinError>,
}

/// Waits for the background work, and tells by `broken` that it ended before
/// `closing`.
async fn watch(
    work: tokio::task::JoinHandle<()>,
    closing: CancellationToken,
    broken: CancellationToken,
) -> Result<(), ServeError> {
    let source = match work.await {
        Ok(()) if closing.is_cancelled() => return Ok(()),
        ended => ended.err(),
    };
    broken.cancel();
    Err(ServeError { source })
}

/// Every route of the one port.
fn router(app: &App) -> Router {
    Router::new()
        .merge(api::router())
        .merge(agent::router())
        .route("/healthz", get(metrics::health))
        .route("/metrics", get(metrics::show))
        .with_state(app.clone())
        .merge(est::router(Arc::new(app.clone())))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no-such-path",
        "There is no such path",
        format!("{method} {} is not part of this interface", uri.path()),
        "see /api/v1/openapi.json for what is",
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong-method",
        "The path does not take this method",
        format!("{} does not take {method}", uri.path()),
        "see /api/v1/openapi.json for the methods",
    )
}

/// Stores the price book under its version, once and for all.
async fn keep_prices(store: &SqliteStore, prices: &PriceBook) -> Result<(), StartError> {
    let mut tx = store.begin().await?;
    match tx.price_book(prices.version).await? {
        Some(kept) if kept == *prices => Ok(()),
        Some(_) => Err(StartError::PricesChanged {
            version: prices.version,
        }),
        None => {
            tx.add_price_book(prices).await?;
            Ok(tx.commit().await?)
        }
    }
}

/// Makes the first operator's key, and registers it while there is no other.
async fn keep_admin_key(
    store: &SqliteStore,
    data: &DataDir,
    now: jiff::Timestamp,
) -> Result<(), StartError> {
    let mut tx = store.begin().await?;
    if !tx.keys().await?.is_empty() {
        return Ok(());
    }
    // The file comes first: a crash between the two is made good here.
    let secret = match data.admin_key()? {
        Some(secret) => secret,
        None => data.make_admin_key()?,
    };
    tx.put_key(&KeyRecord {
        id: KeyId::new_v4(),
        name: "admin".to_owned(),
        role: Role::Operator,
        hash: secret::hash(&secret),
        created_at: now,
    })
    .await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_work_that_ends_early_or_panics_ends_the_process_with_an_error() {
        for panics in [true, false] {
            let (closing, broken) = (CancellationToken::new(), CancellationToken::new());
            let work = tokio::spawn(async move { assert!(!panics, "for the test") });
            let watched = watch(work, closing.clone(), broken.clone()).await;
            assert!(watched.is_err() && broken.is_cancelled());
        }
        let (closing, broken) = (CancellationToken::new(), CancellationToken::new());
        closing.cancel();
        let watched = watch(tokio::spawn(async {}), closing, broken.clone()).await;
        assert!(watched.is_ok() && !broken.is_cancelled());
    }
}
