//! The site file over TLS: to hosts of the networks that may have it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use ipnet::IpNet;
use surplus_https::Peer;
use surplus_site::{Site, SiteError};

use crate::interface::Interface;
use crate::watch::Watch;

/// Why a site file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read the site file {}; `surplus site-file` writes one", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("hosts could not use the site file {}", path.display())]
    Invalid {
        path: PathBuf,
        #[source]
        source: SiteError,
    },
}

/// Whose hosts are served: with the site file, and by TFTP.
#[derive(Clone, Debug)]
pub struct Audience {
    pub near: Interface,
    /// Other networks, where the operator named some.
    pub far: Vec<IpNet>,
}

impl Audience {
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.near.is_near(address) || self.far.iter().any(|network| network.contains(&address))
    }
}

/// Reads a site file as hosts will.
///
/// # Errors
///
/// Where it cannot be read, or hosts would refuse it.
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let bytes = std::fs::read(path).map_err(|source| ReadError::Read {
        path: path.to_owned(),
        source,
    })?;
    Site::parse_bytes(&bytes).map_err(|source| ReadError::Invalid {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}

struct Office {
    path: PathBuf,
    audience: Audience,
    watch: Arc<Watch>,
}

/// `/site.toml`, read anew for each host: a new token needs no restart.
pub fn router(path: PathBuf, audience: Audience, watch: Arc<Watch>) -> Router {
    let office = Office {
        path,
        audience,
        watch,
    };
    Router::new()
        .route("/site.toml", get(give))
        .with_state(Arc::new(office))
}

async fn give(State(office): State<Arc<Office>>, peer: Peer) -> Response {
    let address = peer.address.ip();
    if !office.audience.has(address) {
        tracing::warn!(
            %address,
            "refused the site file: the address is on no network that may have it; \
             --site-network adds one"
        );
        let text = "this network may not have the site file\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let path = office.path.clone();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read {
        Ok(Ok(bytes)) => {
            let mac = office.watch.site_given(address);
            let mac = mac.map_or_else(|| "unknown".to_owned(), |mac| mac.to_string());
            tracing::info!(%address, mac, "sent the site file");
            let kind = [(header::CONTENT_TYPE, "application/toml")];
            (kind, bytes).into_response()
        }
        failed => {
            let error = match failed {
                Ok(Err(error)) => chain(&error),
                other => format!("{other:?}"),
            };
            tracing::error!(%address, error, "cannot send the site file; mend it, hosts ask again");
            let text = "the site file cannot be read now\n";
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_interfaces_own_network_and_named_ones_have_the_site_file() {
        let near = Interface {
            name: "eth0".into(),
            address: "10.77.0.1".parse().unwrap(),
            network: "10.77.0.0/24".parse().unwrap(),
        };
        let far = vec!["198.51.100.0/24".parse().unwrap()];
        let audience = Audience { near, far };
        for (address, expected) in [
            ("10.77.0.50", true),
            ("::ffff:10.77.0.50", true),
            ("198.51.100.7", true),
            ("10.78.0.50", false),
            ("fd77::50", false),
        ] {
            let has = audience.has(address.parse().unwrap());
            assert_eq!(has, expected, "{address}");
        }
    }
}
