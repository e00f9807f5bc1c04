//! Fetches the root image from the first of several addresses that has it,
//! piece by piece from others if need be.
//!
//! ```text
//! hash tree (one range) ── right? ──▶ data blocks from where we are ── all? ──▶ done
//!        ▲                                    │ wrong block, dead server, cut off
//!        └──────────── next address ◀─────────┘
//! ```
//!
//! What always holds: what was verified once is never fetched again, and only a
//! lack of memory ends the trying.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use surplus_stage::Stage;

use self::error::FetchError;
use self::http::{Body, Http};
use self::pace::{Pace, Paced};
use self::tree::Tree;
use crate::conf::{BLOCK, RootConf};
use crate::net::url::RootUrl;

pub(crate) mod error;
pub(crate) mod http;
mod pace;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

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

/// Bytes of the whole image.
pub(crate) fn size(conf: &RootConf) -> u64 {
    conf.hash_offset + Tree::size(conf)
}

/// Fetches the image into the empty file `image`, however long it takes.
///
/// # Errors
///
/// [`FetchError::Keep`] alone.
pub(crate) fn fetch(
    conf: &RootConf,
    image: &File,
    http: &Http,
    around: &impl Around,
) -> Result<Fetched, FetchError> {
    fetch_at(conf, image, http, around, PACE)
}

fn fetch_at(
    conf: &RootConf,
    image: &File,
    http: &Http,
    around: &impl Around,
    least: Pace,
) -> Result<Fetched, FetchError> {
    let began = Instant::now();
    let mut fetch = Fetch {
        conf,
        image,
        http,
        around,
        pace: None,
        tree: None,
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
                    bytes: size(conf),
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
    conf: &'a RootConf,
    image: &'a File,
    http: &'a Http,
    around: &'a A,
    /// The least at which this attempt goes on.
    pace: Option<Pace>,
    tree: Option<Tree>,
    /// The first data byte that is still missing.
    position: u64,
    /// When the last word about progress was said.
    said: Instant,
}

impl<A: Around> Fetch<'_, A> {
    /// Goes as far as this address leads.
    fn attempt(&mut self, url: &RootUrl) -> Result<(), FetchError> {
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => self.fetch_tree(url)?,
        };
        let outcome = self.fetch_data(url, &tree);
        self.tree = Some(tree);
        outcome
    }

    fn fetch_tree(&mut self, url: &RootUrl) -> Result<Tree, FetchError> {
        let (from, to) = (self.conf.hash_offset, size(self.conf));
        let length = usize::try_from(to - from).map_err(|_| FetchError::Tree)?;
        let mut bytes = vec![0; length];
        if length > 0 {
            let mut body = self.open(url, from, to)?;
            body.read_exact(&mut bytes)
                .map_err(|error| ended(from, to, &error))?;
        }
        let tree = Tree::check(&bytes, self.conf).ok_or(FetchError::Tree)?;
        self.image
            .write_all_at(&bytes, from)
            .map_err(FetchError::Keep)?;
        Ok(tree)
    }

    fn fetch_data(&mut self, url: &RootUrl, tree: &Tree) -> Result<(), FetchError> {
        let to = self.conf.data_blocks * BLOCK;
        if self.position >= to {
            return Ok(());
        }
        let from = self.position;
        let mut body = self.open(url, from, to)?;
        let (began, image, around) = (Instant::now(), self.image, self.around);
        let said = &mut self.said;
        let came = stream::transfer(&mut body, from, to, tree, image, |at| {
            if said.elapsed() >= PROGRESS {
                *said = Instant::now();
                around.say(progress(url, at, to, at - from, began.elapsed()));
            }
        });
        self.position = came.to;
        came.end
    }

    /// The file's bytes from `from` on, whether or not the server has ranges.
    fn open(&self, url: &RootUrl, from: u64, to: u64) -> Result<Box<dyn Read>, FetchError> {
        let user_agent = self.around.user_agent();
        let Body { start, mut reader } =
            self.http.get(url, from..to, size(self.conf), &user_agent)?;
        if start < from {
            self.around.say(
                stage()
                    .with("url", url)
                    .with("ranges", "no")
                    .with("skipping", from),
            );
            let skipped = io::copy(&mut (&mut reader).take(from), &mut io::sink())
                .map_err(|error| ended(0, to, &error))?;
            if skipped < from {
                return Err(FetchError::Ended {
                    at: skipped,
                    of: to,
                    why: "the server sent no more".into(),
                });
            }
        }
        Ok(match self.pace {
            Some(pace) => Box::new(Paced::new(reader, pace)),
            None => reader,
        })
    }
}

fn ended(at: u64, of: u64, error: &io::Error) -> FetchError {
    FetchError::Ended {
        at,
        of,
        why: error.to_string(),
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
