//! Opening a connection: TCP or a proxy's CONNECT, then TLS, all within one
//! deadline.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::builder::BuildError;
use super::dial::{Dial, Interfaces};

type Tcp = TokioIo<TcpStream>;
type BoxError = Box<dyn StdError + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A proxy's address and credentials.
#[derive(Debug)]
pub(super) struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Parses `http://[user:password@]host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, BuildError> {
        // The password is kept out of the message.
        let invalid = || {
            let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
            BuildError::Proxy {
                url: shown.to_owned(),
            }
        };
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(invalid)?
            .trim_end_matches('/');
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, rest),
        };
        let uri: Uri = format!("http://{host}").parse().map_err(|_| invalid())?;
        let authorization = credentials
            .map(|credentials| {
                HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(credentials)))
            })
            .transpose()
            .map_err(|_| invalid())?;
        Ok(Self { uri, authorization })
    }
}

/// The way to a server, before TLS.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Direct(Dial),
    Proxy(Tunnel<Dial>),
}

impl Service<Uri> for Route {
    type Response = Tcp;
    type Error = BoxError;
    type Future = Connecting<Tcp>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(direct) => direct.poll_ready(context),
            Self::Proxy(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        match self {
            Self::Direct(direct) => direct.call(to),
            Self::Proxy(tunnel) => {
                let connecting = tunnel.call(to);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

/// Connects, TLS included, within a deadline.
#[derive(Clone)]
pub(super) struct Connector {
    https: HttpsConnector<Route>,
    timeout: Duration,
}

pub(super) fn connector(
    tls: rustls::ClientConfig,
    proxy: Option<Proxy>,
    interfaces: Option<Interfaces>,
    timeout: Duration,
) -> Connector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    tcp.set_connect_timeout(Some(timeout));
    let dial = Dial::new(tcp, interfaces);
    let route = match proxy {
        None => Route::Direct(dial),
        Some(Proxy { uri, authorization }) => {
            let tunnel = Tunnel::new(uri, dial);
            Route::Proxy(match authorization {
                Some(authorization) => tunnel.with_auth(authorization),
                None => tunnel,
            })
        }
    };
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .wrap_connector(route);
    Connector { https, timeout }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Tcp>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.https.call(to);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => {
                    let message = format!("no connection within {} s", timeout.as_secs_f32());
                    Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
                }
            }
        })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}
