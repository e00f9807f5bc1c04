//! Finding the site file.
//!
//! Sources are asked in a fixed order; the first that has a valid file wins.
//! A file that is not valid gets its line, and the sources behind it are asked
//! all the same: a stick can mend a bad CD. Without any the host looks again,
//! for ever: a stick may be plugged in. Last comes the network, where the kernel
//! command line points at a site file there: it is asked beside all further
//! looks, from the second on.

pub mod fetch;
mod label;
pub mod medium;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use surplus_site::Site;
use surplus_stage::Stage;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::stages::{Announce, Repeating};
use crate::sysroot::SysRoot;

/// Between looks while no site file is found.
const AGAIN: Duration = Duration::from_secs(3);

/// How long a look may take before that is worth a line.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the initramfs found in the boot medium's reserved area.
const AREA: &str = "/run/surplus/site/area.toml";

/// What an earlier agent of this boot fetched.
const KEPT: &str = "/run/surplus/site/fetched.toml";

/// The source's name for that file.
pub const KEPT_NAME: &str = "network-kept";

/// A site file may not be larger: nobody writes one, and it is read into memory.
pub const LARGEST: u64 = 64 * 1024;

/// A place where a site file may lie.
pub trait Source: Send {
    /// The source's name on the console.
    fn name(&self) -> String;

    /// The file's bytes; `None` where there is none.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// A file at a fixed place.
#[derive(Clone, Debug)]
pub struct FileSource {
    name: &'static str,
    path: PathBuf,
}

impl FileSource {
    /// The reserved area of the boot medium, as the initramfs left it.
    pub fn area(root: &SysRoot) -> Self {
        Self {
            name: "area",
            path: root.path(AREA),
        }
    }

    /// The credential `surplus.site` in the directory that systemd names
    /// (systemd.exec(5)); it comes by SMBIOS among others.
    pub fn credential(directory: impl Into<PathBuf>) -> Self {
        Self {
            name: "credential",
            path: directory.into().join("surplus.site"),
        }
    }

    /// What an earlier agent of this boot fetched: an agent that is started
    /// again depends on no server.
    pub fn kept(root: &SysRoot) -> Self {
        Self {
            name: KEPT_NAME,
            path: root.path(KEPT),
        }
    }

    /// A file that was named on the command line.
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self {
            name: "file",
            path: path.into(),
        }
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > LARGEST => Err(io::Error::other(format!(
                "it is larger than {LARGEST} bytes"
            ))),
            Ok(_) => fs::read(&self.path).map(|bytes| (!bytes.is_empty()).then_some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A site file, and where it was found.
#[derive(Clone, Debug)]
pub struct Found {
    pub site: Site,
    pub source: String,
    /// Where the source is the network.
    pub fetched: Option<Fetched>,
}

/// A site file as it came over the network.
#[derive(Clone)]
pub struct Fetched {
    pub url: String,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The bytes may hold the join token.
        f.debug_struct("Fetched")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Fetched {
    /// Keeps the file for the next agent of this boot, readable by root alone.
    pub fn keep(&self, root: &SysRoot) -> io::Result<()> {
        let path = root.path(KEPT);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let next = path.with_extension("new");
        let _ = fs::remove_file(&next);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&self.bytes)?;
        fs::rename(next, path)
    }
}

/// The outcome of asking every source once.
#[derive(Debug)]
struct Look {
    found: Option<Found>,
    /// Lines about sources whose file could not be used.
    complaints: Vec<Stage>,
}

fn look(sources: &mut [Box<dyn Source>]) -> Look {
    let mut complaints = Vec::new();
    for source in sources {
        let stage = || Stage::new("site").with("source", source.name());
        let stage = stage();
        let bytes = match source.read() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                complaints.push(stage.failed(
                    format!("the site file cannot be read: {error}"),
                    "write it anew (surplus-image customize); the host goes on looking",
                ));
                continue;
            }
        };
        match Site::parse_bytes(&bytes) {
            Ok(site) => {
                let found = Found {
                    site,
                    source: source.name(),
                    fetched: None,
                };
                return Look {
                    found: Some(found),
                    complaints,
                };
            }
            Err(error) => complaints.push(stage.failed(error.problem(), error.next())),
        }
    }
    Look {
        found: None,
        complaints,
    }
}

/// Where a host looks for its site file, besides the network.
pub struct Search {
    /// Asked again and again, in this order.
    pub sources: Vec<Box<dyn Source>>,
    /// Lines that stay due while nothing is found.
    pub complaints: Vec<Stage>,
    /// What to do where nothing is found and there is nothing to complain of;
    /// `None` where the network is asked as well.
    pub advice: Option<&'static str>,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Search");
        debug
            .field("complaints", &self.complaints)
            .finish_non_exhaustive()
    }
}

impl Search {
    /// Looks until there is a valid site file. `network` is asked from when the
    /// first look was in vain.
    pub async fn run(
        mut self,
        network: impl Future<Output = Found>,
        consoles: &dyn Announce,
    ) -> Found {
        let mut said = Vec::<Repeating>::new();
        let found = match self.look(&mut said, consoles).await {
            Some(found) => found,
            // Cancel-safe: neither side keeps anything but what it found.
            None => tokio::select! {
                found = self.look_again(&mut said, consoles) => found,
                found = network => found,
            },
        };
        consoles.say(stage_of(&found));
        found
    }

    async fn look_again(&mut self, said: &mut Vec<Repeating>, consoles: &dyn Announce) -> Found {
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Some(found) = self.look(said, consoles).await {
                return found;
            }
        }
    }

    /// Asks every source once, and says what is wrong with them.
    async fn look(&mut self, said: &mut Vec<Repeating>, consoles: &dyn Announce) -> Option<Found> {
        let mut sources = std::mem::take(&mut self.sources);
        let asked = tokio::task::spawn_blocking(move || {
            let look = look(&mut sources);
            (sources, look)
        });
        let (kept, look) = answered(asked, consoles).await;
        self.sources = kept;
        let mut complaints = look.complaints;
        if look.found.is_none() {
            complaints.extend(self.complaints.iter().cloned());
            if let (true, Some(advice)) = (complaints.is_empty(), self.advice) {
                let what = "no site file: this host was not told where the marketplace is";
                complaints.push(Stage::new("site").failed(what, advice));
            }
        }
        said.resize_with(complaints.len(), Repeating::default);
        let now = Instant::now().into_std();
        for (stage, repeating) in complaints.into_iter().zip(said) {
            repeating.say(consoles, stage, now);
        }
        look.found
    }
}

/// The outcome of a look; says so where a medium does not answer.
async fn answered<T>(mut asked: JoinHandle<T>, consoles: &dyn Announce) -> T {
    loop {
        match tokio::time::timeout(PATIENCE, &mut asked).await {
            Ok(Ok(done)) => return done,
            // The runtime is going down: nothing will be found any more.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => consoles.say(Stage::new("site").failed(
                "a disk or stick does not answer while it is asked for a site file",
                "unplug what is not needed; the host goes on waiting for it",
            )),
        }
    }
}

fn stage_of(found: &Found) -> Stage {
    let stage = Stage::new("site").with("source", &found.source);
    let stage = match &found.fetched {
        Some(fetched) => stage.with("url", &fetched.url),
        None => stage,
    };
    let stage = stage.with("marketplace", found.site.marketplace.urls.join(","));
    match &found.site.place.name {
        Some(name) => stage.with("site", name),
        None => stage,
    }
}

#[cfg(test)]
mod tests;
