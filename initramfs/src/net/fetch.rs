//! Fetches the root image from the first of several addresses that has it,
//! the rest of it from others if need be.
//!
//! ```text
//! pieces from where we are ── all? ──▶ done
//!        ▲        │ wrong piece, dead server, cut off
//!        └────────┘ next address
//! ```
//!
//! What always holds: what was verified once is never fetched again, and only a
//! lack of memory ends the trying.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use surplus_medium::pieces::Pieces;
use surplus_stage::Stage;

use self::error::FetchError;
use self::http::{Body, Http};
use self::pace::{Pace, Paced};
use crate::net::url::RootUrl;

pub(crate) mod error;
pub(crate) mod http;
mod pace;
mod stream;
#[cfg(test)]
mod tests;

const PROGRESS: Duration = Duration::from_secs(5);
/// After all addresses failed one after the other; longer each time.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 15];

/// Slower than this, another address is tried if there is one.
const PACE: Pace = Pace {
    bytes: 64 * 1024,
    time: Duration::from_secs(10),
};

/// The world around a fetch.
pub(crate) trait Around {
    /// The addresses that can be tried now; waits until there is one.
    fn urls(&self) -> Vec<RootUrl>;
    /// Nothing was reached: use another way, if there is one.
    fn other_way(&self);
    fn pause(&self, time: Duration);
    fn say(&self, stage: Stage);
    /// What to call ourselves.
    fn user_agent(&self) -> String;
}

/// A fetched root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// Where its last part came from.
    pub(crate) url: String,
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// Fetches the image into the empty file `image`, however long it takes.
///
/// # Errors
///
/// [`FetchError::Keep`] alone.
pub(crate) fn fetch(
    pieces: &Pieces,
    image: &File,
    http: &Http,
    around: &impl Around,
) -> Result<Fetched, FetchError> {
    fetch_at(pieces, image, http, around, PACE)
}

fn fetch_at(
    pieces: &Pieces,
    image: &File,
    http: &Http,
    around: &impl Around,
    least: Pace,
) -> Result<Fetched, FetchError> {
    let began = Instant::now();
    let mut fetch = Fetch {
        pieces,
        image,
        http,
        around,
        pace: None,
        position: 0,
        said: began,
    };
    let mut failures = 0;
    let mut turn = 0;
    loop {
        let urls = around.urls();
        let url = &urls[turn % urls.len()];
        let before = fetch.position;
        // A slow server is better than none: once all failed, it has its time.
        fetch.pace = (failures + 1 < urls.len()).then_some(least);
        let error = match fetch.attempt(url) {
            Ok(()) => {
                return Ok(Fetched {
                    url: url.to_string(),
                    bytes: pieces.size(),
                    time: began.elapsed(),
                });
            }
            Err(error @ FetchError::Keep(_)) => return Err(error),
            Err(error) => error,
        };
        turn += 1;
        failures = if fetch.position > before {
            1
        } else {
            failures + 1
        };
        let pause = pause_after(failures, urls.len());
        let next = match pause {
            None => format!("the host goes on with {}", urls[turn % urls.len()]),
            Some(pause) => format!(
                "{}; the host goes on trying in {} s",
                error.advice(),
                pause.as_secs()
            ),
        };
        around.say(stage().with("url", url).failed(&error, next));
        if let Some(pause) = pause {
            around.other_way();
            around.pause(pause);
        }
    }
}

/// A pause after each round in which no address brought anything.
fn pause_after(failures: usize, urls: usize) -> Option<Duration> {
    let rounds = failures / urls;
    (failures.is_multiple_of(urls) && rounds > 0)
        .then(|| Duration::from_secs(PAUSES[(rounds - 1).min(PAUSES.len() - 1)]))
}

fn stage() -> Stage {
    Stage::new("medium").with("source", "network")
}

/// A fetch under way.
struct Fetch<'a, A> {
    pieces: &'a Pieces,
    image: &'a File,
    http: &'a Http,
    around: &'a A,
    /// The least at which this attempt goes on.
    pace: Option<Pace>,
    /// The first byte that is still missing.
    position: u64,
    /// When the last word about progress was said.
    said: Instant,
}

impl<A: Around> Fetch<'_, A> {
    /// Goes as far as this address leads.
    fn attempt(&mut self, url: &RootUrl) -> Result<(), FetchError> {
        let from = self.position;
        let mut body = self.open(url, from)?;
        let (began, pieces, image, around) = (Instant::now(), self.pieces, self.image, self.around);
        let said = &mut self.said;
        let came = stream::transfer(&mut body, from, pieces, image, |at| {
            if said.elapsed() >= PROGRESS {
                *said = Instant::now();
                let moved = at - from;
                around.say(progress(url, at, pieces.size(), moved, began.elapsed()));
            }
        });
        self.position = came.to;
        came.end
    }

    /// The file's bytes from `from` on, whether or not the server has ranges.
    fn open(&self, url: &RootUrl, from: u64) -> Result<Box<dyn Read>, FetchError> {
        let size = self.pieces.size();
        let user_agent = self.around.user_agent();
        let Body { start, mut reader } = self.http.get(url, from, size, &user_agent)?;
        if start < from {
            self.around.say(
                stage()
                    .with("url", url)
                    .with("ranges", "no")
                    .with("skipping", from),
            );
            let skipped = io::copy(&mut (&mut reader).take(from), &mut io::sink())
                .map_err(|error| stream::ended(0, size, &error))?;
            if skipped < from {
                let end = ErrorKind::UnexpectedEof.into();
                return Err(stream::ended(skipped, size, &end));
            }
        }
        Ok(match self.pace {
            Some(pace) => Box::new(Paced::new(reader, pace)),
            None => reader,
        })
    }
}

fn progress(url: &RootUrl, at: u64, of: u64, moved: u64, time: Duration) -> Stage {
    let speed = u128::from(moved) / time.as_millis().max(1);
    stage()
        .with("url", url)
        .with("bytes", at)
        .with("of", of)
        .with("kb_per_s", speed)
}
