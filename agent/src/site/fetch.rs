//! The site file that the kernel command line points at: fetched over TLS from
//! a server whose CA is pinned.
//!
//! What always holds: no server is believed but one that the pinned CA vouches
//! for; asking never ends, for a server may come up late, and a file with an
//! error may be mended on it; a clock that stands at 1970 is set by the pinned
//! server's word before its certificate is judged.

mod again;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use jiff::Timestamp;
use surplus_https::client::{BuildError, Builder, TimeError, server_time};
use surplus_https::{Body, Client, ClientError, Clock, Trust};
use surplus_site::{Pointer, Site, SiteError, SiteUrl};
use surplus_stage::Stage;
use tokio::time::Instant;

use super::{Fetched, Found, LARGEST};
use crate::backoff::Backoff;
use crate::clock::{self, SystemClock};
use crate::hub::{RoadError, about_time, in_one_line};
use crate::network::look;
use crate::stages::{Announce, Repeating};
use crate::sysroot::SysRoot;

/// The source's name on the console.
pub(super) const NAME: &str = "network";

/// Between rounds at first, and at most (with as much again by chance): a rack
/// that waits for its boot server comes up soon after it, and not in step.
const ROUNDS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// Fetches a site file.
#[derive(Debug)]
pub struct Fetch<'a> {
    pub pointer: Pointer,
    pub root: SysRoot,
    pub clock: Arc<dyn SystemClock>,
    /// When the image was built: no time before it is believed.
    pub floor: Timestamp,
    pub consoles: &'a dyn Announce,
}

/// Why one server gave no site file.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    Road(#[from] RoadError),
}

impl Fetch<'_> {
    /// Asks the servers in their order, for ever, until one gives a site file
    /// that is right.
    pub async fn run(&self) -> Found {
        let [first, longest] = ROUNDS;
        let mut backoff = Backoff::new(first, longest);
        let mut said: Vec<_> = self
            .pointer
            .urls
            .iter()
            .map(|_| Repeating::default())
            .collect();
        loop {
            for (url, said) in self.pointer.urls.iter().zip(&mut said) {
                match self.from(url).await {
                    Ok(found) => return found,
                    Err(error) => {
                        let (what, next) = explain(&error);
                        let stage = Stage::new("site").with("source", NAME).with("url", url);
                        let now = Instant::now().into_std();
                        said.say(self.consoles, stage.failed(what, next), now);
                    }
                }
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    async fn from(&self, url: &SiteUrl) -> Result<Found, FetchError> {
        if self.clock.now() < self.floor {
            self.set_clock(url).await;
        }
        match self.download(url).await {
            Err(FetchError::Client(error)) if about_time(&error) && self.set_clock(url).await => {
                self.download(url).await
            }
            answer => answer,
        }
    }

    async fn download(&self, url: &SiteUrl) -> Result<Found, FetchError> {
        let client: Client = self.builder(url).build()?;
        let answer = client
            .request(Method::GET, url.path(), HeaderMap::new(), Body::empty())
            .await?;
        let limit = usize::try_from(LARGEST).unwrap_or(usize::MAX);
        let bytes = answer.bytes(limit).await?;
        Ok(Found {
            site: Site::parse_bytes(&bytes)?,
            source: NAME.to_owned(),
            fetched: Some(Fetched {
                url: url.to_string(),
                bytes: bytes.to_vec(),
            }),
        })
    }

    fn builder(&self, url: &SiteUrl) -> Builder {
        let (clock, root) = (Arc::clone(&self.clock), self.root.clone());
        Client::builder()
            .url(url.base())
            .trust(Trust::Pin(self.pointer.ca))
            .clock(Clock::new(move || clock.now()))
            .interfaces(move || look::ways(&root))
    }

    /// Takes the server's time where ours is behind; says whether it was.
    async fn set_clock(&self, url: &SiteUrl) -> bool {
        let told = server_time(self.builder(url), url.path()).await;
        match told {
            Ok(offered) => clock::adopt(&*self.clock, offered, self.floor, self.consoles),
            Err(error) => {
                log_no_time(&error);
                false
            }
        }
    }
}

fn log_no_time(error: &TimeError) {
    tracing::info!(
        error = in_one_line(error),
        "the site file's server gives no time"
    );
}

/// What happened and what to do about it.
fn explain(error: &FetchError) -> (String, String) {
    let (what, next) = match error {
        FetchError::Site(error) => {
            let next = format!("mend the file on its server: {}", error.next());
            return (error.problem(), format!("{next}; the host goes on asking"));
        }
        FetchError::Road(error) => (
            in_one_line(error),
            "compare the site file with what `surplus site-file` prints",
        ),
        FetchError::Build(error) => (in_one_line(error), "mend surplus.site="),
        FetchError::Client(error) => (in_one_line(error), what_next(error)),
    };
    (what, format!("{next}; the host goes on asking"))
}

fn what_next(error: &ClientError) -> &'static str {
    use ClientError as E;
    match error {
        E::Connect { .. } => {
            "check that the server of the site file (surplus-netboot) runs there and that this network lets the host reach it"
        }
        E::Untrusted { .. } if error.retryable() => {
            "check the clocks of this host and of the site file's server"
        }
        E::Untrusted { .. } => {
            "compare surplus.ca= and surplus.site= on the kernel command line with what the site file's server prints at its start"
        }
        E::TooLong { .. } => "check that surplus.site= names a site file, which has 64 KiB at most",
        E::Problem { .. } | E::Status { .. } | E::Decode { .. } | E::Url { .. } => {
            "check that surplus.site= names the site file on its server"
        }
        E::Transport { .. } | E::Timeout { .. } | E::Encode { .. } => {
            "check the network between this host and the site file's server"
        }
    }
}

#[cfg(test)]
mod tests;
