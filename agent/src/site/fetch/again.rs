//! Whether the servers have another site file by now: its operator may have
//! mended what kept the host out, a spent token among others.
//!
//! What always holds: only a file that can be used takes the place of the one
//! that is in use; one with an error gets its line once.

use surplus_site::SiteUrl;
use surplus_stage::Stage;

use super::{Fetch, FetchError, NAME, explain};
use crate::backoff::Backoff;
use crate::hub::{Road, in_one_line};
use crate::site::{Found, stage_of};

impl Fetch<'_> {
    /// Asks at this pace, for ever, until a server has a site file that is not
    /// `known`. The first server that has one that is right decides.
    pub async fn another(&self, known: &[u8], mut pace: Backoff) -> (Found, Road) {
        let mut said = vec![None; self.pointer.urls.len()];
        loop {
            tokio::time::sleep(pace.wait()).await;
            for (url, said) in self.pointer.urls.iter().zip(&mut said) {
                match self.other_than(known, url).await {
                    Ok(None) => {
                        *said = None;
                        break;
                    }
                    Ok(Some((found, road))) => {
                        self.consoles.say(stage_of(&found).with("changed", "true"));
                        return (found, road);
                    }
                    Err(error @ (FetchError::Site(_) | FetchError::Road(_))) => {
                        let (what, next) = explain(&error);
                        let stage = Stage::new("site").with("source", NAME).with("url", url);
                        let stage = stage.failed(what, next);
                        if said.as_ref() != Some(&stage) {
                            self.consoles.say(stage.clone());
                            *said = Some(stage);
                        }
                    }
                    Err(error) => tracing::info!(
                        error = in_one_line(&error),
                        %url,
                        "cannot see whether the site file changed"
                    ),
                }
            }
        }
    }

    async fn other_than(
        &self,
        known: &[u8],
        url: &SiteUrl,
    ) -> Result<Option<(Found, Road)>, FetchError> {
        let found = self.from(url).await?;
        if found.fetched.as_ref().is_some_and(|it| it.bytes == known) {
            return Ok(None);
        }
        let road = Road::new(&found.site.marketplace)?;
        Ok(Some((found, road)))
    }
}
