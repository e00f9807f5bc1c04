//! The root from the network: a process of its own beside process 1, which goes
//! on loading drivers and, where nobody said that the root comes from the
//! network, looking for the medium.
//!
//! ```text
//! process 1 ──starts──▶ uplink (addresses) + fetch ──/root.img──▶ ends
//! ```
//!
//! What always holds: `/root.img` appears when all of it is there and verified,
//! and not before; afterwards links are up and addresses are gone.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use surplus_medium::pieces::Pieces;
use surplus_stage::Stage;

use self::fetch::error::FetchError;
use self::fetch::http::Http;
use self::fetch::{Around, Fetched};
use self::uplink::Uplink;
use self::url::{Named, RootUrl};
use crate::conf;
use crate::failure::{Context as _, Failure, KERNEL, MEDIUM};

pub(crate) mod address;
mod choice;
mod dhcp;
mod dns;
mod fetch;
mod ipv6;
mod link;
mod memory;
pub(crate) mod process;
mod roots;
mod uplink;
pub(crate) mod url;

/// What this process is called, in `argv[0]`.
pub(crate) const NAME: &str = "surplus-network";
/// The fetched image, where network boot may also have put it.
pub(crate) const IMAGE: &str = "/root.img";
/// What it is judged by.
const PIECES: &str = "/root.pieces";
/// The image while it is fetched.
const PART: &str = "/root.img.part";

/// The process's whole life: one fetch.
pub(crate) fn run() -> ExitCode {
    match bring_root() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(Ended::Hopeless(failure)) => {
            Stage::new(failure.stage)
                .with("source", "network")
                .failed(&failure.error, &failure.next)
                .announce();
            ExitCode::from(process::HOPELESS)
        }
        Err(Ended::Failed(failure)) => {
            failure.announce();
            ExitCode::FAILURE
        }
    }
}

/// Why there is no root.
enum Ended {
    /// Trying again cannot help.
    Hopeless(Failure),
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn bring_root() -> Result<process::Report, Ended> {
    let pieces = read_pieces(Path::new(PIECES))?;
    let named = Named::on_command_line(&conf::command_line()?).unwrap_or_default();
    for why in &named.refused {
        Stage::new("network")
            .failed(
                format!("surplus.root: {why}"),
                "correct surplus.root=http://SERVER/root.img; the host goes on without it",
            )
            .announce();
    }
    let image = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(PART)
        .failed("medium", &format!("making {PART}"), KERNEL)?;
    let uplink = Uplink::start(named.urls).failed("network", "starting a thread", KERNEL)?;
    let http = Http::new(Arc::new(uplink.name_servers()));
    let fetched = fetch_with(&pieces, &image, &http, &uplink)?;
    let (interface, mac) = match uplink.used() {
        Some((interface, mac, _)) => (interface, link::mac_text(mac)),
        None => Default::default(),
    };
    Stage::new("medium")
        .with("source", "network")
        .with("url", &fetched.url)
        .with("bytes", fetched.bytes)
        .with("seconds", format!("{:.2}", fetched.time.as_secs_f64()))
        .announce();
    uplink.stop();
    // What is left over stands in nobody's way: the booted host sets its own.
    let _ = address::flush();
    fs::rename(PART, IMAGE).failed("medium", "naming the fetched root", KERNEL)?;
    Ok(process::Report {
        url: fetched.url,
        interface,
        mac,
    })
}

fn read_pieces(path: &Path) -> Result<Pieces, Failure> {
    let list = fs::read(path).failed("medium", "reading the list of the root's pieces", MEDIUM)?;
    Pieces::parse(&list).ok_or_else(|| {
        let error = format!("{} does not describe a root", path.display());
        Failure::new("medium", error, MEDIUM)
    })
}

fn fetch_with(
    pieces: &Pieces,
    image: &File,
    http: &Http,
    uplink: &Uplink,
) -> Result<Fetched, Ended> {
    // Where the root is must be known before a lack of memory means anything.
    let _ = uplink.urls();
    memory::check(pieces.size()).map_err(Ended::Hopeless)?;
    fetch::fetch(pieces, image, http, uplink).map_err(|error| {
        let failure = Failure::new("medium", &error, error.advice());
        match error {
            FetchError::Keep(_) => Ended::Hopeless(failure),
            _ => Ended::Failed(failure),
        }
    })
}

impl Around for Uplink {
    fn urls(&self) -> Vec<RootUrl> {
        self.urls()
    }

    fn other_way(&self) {
        self.next_lease();
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn say(&self, stage: Stage) {
        stage.announce();
    }

    fn user_agent(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match self.used() {
            Some((_, mac, _)) => format!("surplus-init/{version} (MAC {})", link::mac_text(mac)),
            None => format!("surplus-init/{version}"),
        }
    }
}
