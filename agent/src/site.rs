//! Finding the site file.
//!
//! Sources are asked in a fixed order; the first that has a valid file wins.
//! A file that is not valid gets its line, and the sources behind it are asked
//! all the same: a stick can mend a bad CD. Without any the host looks again,
//! for ever: a stick may be plugged in.

mod label;
pub mod medium;

use std::fs;
use std::io;
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

/// Asks the sources until one has a valid site file.
pub async fn find(mut sources: Vec<Box<dyn Source>>, consoles: &dyn Announce) -> Found {
    let mut repeating = Vec::<Repeating>::new();
    loop {
        let asked = tokio::task::spawn_blocking(move || {
            let look = look(&mut sources);
            (sources, look)
        });
        let (kept, look) = answered(asked, consoles).await;
        sources = kept;
        let mut complaints = look.complaints;
        if look.found.is_none() && complaints.is_empty() {
            complaints.push(Stage::new("site").failed(
                "no site file: this medium was not told where the marketplace is",
                "run `surplus-image customize` on the ISO, or plug in a stick labelled SURPLUS with site.toml on it; the host goes on looking",
            ));
        }
        repeating.resize_with(complaints.len(), Repeating::default);
        let now = Instant::now().into_std();
        for (stage, repeating) in complaints.into_iter().zip(&mut repeating) {
            repeating.say(consoles, stage, now);
        }
        if let Some(found) = look.found {
            consoles.say(stage_of(&found));
            return found;
        }
        tokio::time::sleep(AGAIN).await;
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
    let stage = Stage::new("site")
        .with("source", &found.source)
        .with("marketplace", found.site.marketplace.urls.join(","));
    match &found.site.place.name {
        Some(name) => stage.with("site", name),
        None => stage,
    }
}

#[cfg(test)]
mod tests;
