//! Where the root image lies: on a medium, on a server, or as a file in the
//! initramfs.
//!
//! A host whose kernel command line says `surplus.root=` takes it from the
//! network alone. Any other looks for its medium; when that does not turn up it
//! tries the network as well, since firmware may have fetched this program over
//! it, and goes on looking meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use surplus_medium::iso9660::Extent;
use surplus_stage::Stage;

use crate::conf::RootConf;
use crate::failure::{self, Context as _, Failure, KERNEL};
use crate::loopdev;
use crate::medium::Search;
use crate::modules::Modules;
use crate::net::process::{Ended, Process, Report};
use crate::net::{self, url::Named};
use crate::uevent;

/// Events are hints: look again after this time without one.
const LOOK: Duration = Duration::from_millis(500);
/// A medium that is there is found well before this; then the network is tried
/// as well.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two starts of a network process that ended without a root.
const RESTART: Duration = Duration::from_secs(5);

/// A device that carries the root image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    name: String,
    number: (u32, u32),
    image: Extent,
    /// The medium's site area; `None` where the root came without a medium.
    area: Option<Extent>,
    origin: Origin,
}

/// What brought the image.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Medium,
    Initramfs,
    Network(Report),
}

/// Finds the root; waits for it as long as it takes.
pub(crate) fn find(
    conf: &RootConf,
    command_line: &str,
    modules: &mut Modules,
    uevents: &OwnedFd,
) -> Result<Source, Failure> {
    if let Ok(metadata) = fs::metadata(net::IMAGE) {
        let source = attach(modules, None)?;
        Stage::new("medium")
            .with("device", "initramfs")
            .with("bytes", metadata.len())
            .announce();
        return Ok(source);
    }
    let network_alone = Named::on_command_line(command_line).is_some();
    let mut search = Search::new(conf);
    let mut network = Network::new(network_alone);
    loop {
        uevent::drain(uevents);
        if network.is_wanted(&search) {
            modules.want_network();
        }
        modules.load_for_devices(Path::new("/sys"))?;
        if !network_alone && let Some(source) = search.look() {
            network.stop();
            Stage::new("medium")
                .with("device", source.device())
                .with("volume", conf.volume_id())
                .announce();
            return Ok(source);
        }
        if let Some(report) = network.look() {
            return attach(modules, Some(report));
        }
        if !network_alone {
            search.say_what_is_missing();
        }
        wait(uevents, network.process.as_ref().map(AsFd::as_fd));
    }
}

/// Until an event or the network's process has news, or it is time to look.
fn wait(uevents: &OwnedFd, process: Option<BorrowedFd<'_>>) {
    let mut sources: Vec<_> = [Some(uevents.as_fd()), process]
        .into_iter()
        .flatten()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    // An error here could only mean fewer hints.
    let _ = poll(
        &mut sources,
        PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO),
    );
}

/// Puts a loop device over the image that lies in memory.
fn attach(modules: &mut Modules, report: Option<Report>) -> Result<Source, Failure> {
    let using = "using the root image in memory";
    modules.load_by_name("loop")?;
    let size = fs::metadata(net::IMAGE)
        .failed("medium", using, KERNEL)?
        .len();
    let name = loopdev::attach(Path::new(net::IMAGE)).failed("medium", using, KERNEL)?;
    let number = device_number(&name).failed("medium", &format!("looking at {name}"), KERNEL)?;
    Ok(Source::in_memory(name, number, size, report))
}

/// The network as a place to have the root from.
#[derive(Debug)]
struct Network {
    /// Whether there is no medium to look for.
    alone: bool,
    began: Instant,
    process: Option<Process>,
    /// When to start the process again; `None` where that cannot help.
    start_at: Option<Instant>,
    /// Whether it was said that the network is tried.
    said: bool,
}

impl Network {
    fn new(alone: bool) -> Self {
        let began = Instant::now();
        let start_at = if alone { began } else { began + PATIENCE };
        Self {
            alone,
            began,
            process: None,
            start_at: Some(start_at),
            said: alone,
        }
    }

    /// Whether drivers of network cards are to be loaded by now; says so when
    /// that begins without having been asked for.
    fn is_wanted(&mut self, search: &Search) -> bool {
        let wanted = self.alone || self.began.elapsed() >= PATIENCE;
        if wanted && !self.said {
            self.said = true;
            Stage::new("medium")
                .with("source", "network")
                .with(
                    "why",
                    format!("no medium {} yet, trying both", search.volume_id()),
                )
                .announce();
        }
        wanted
    }

    /// Keeps the process going; gives what it reports when the root is there.
    fn look(&mut self) -> Option<Report> {
        let now = Instant::now();
        if let Some(process) = &mut self.process {
            match process.ended() {
                None => return None,
                Some(Ended::Fetched(report)) => {
                    self.process = None;
                    return Some(report);
                }
                Some(Ended::Hopeless) if self.alone => failure::power_off(),
                Some(Ended::Hopeless) => self.start_at = None,
                Some(Ended::Failed(why)) => {
                    Failure::new(
                        "network",
                        format!("fetching the root ended ({why})"),
                        "report this line; the host goes on trying",
                    )
                    .announce();
                    self.start_at = Some(now + RESTART);
                }
            }
            self.process = None;
        }
        if self.start_at.is_some_and(|at| now >= at) {
            self.started(Process::start(), now);
        }
        None
    }

    /// A process that could not be started is started later: a medium may still
    /// come, and memory may be free by then.
    fn started(&mut self, started: io::Result<Process>, now: Instant) {
        match started {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                Failure::new(
                    "network",
                    format!("starting the process that fetches the root: {error}"),
                    "check that this host has memory enough; the host goes on trying",
                )
                .announce();
                self.start_at = Some(now + RESTART);
            }
        }
    }

    /// The medium was found: the network is not needed.
    fn stop(self) {
        if let Some(process) = self.process {
            process.stop();
        }
    }
}

/// Major and minor number of a block device, by its kernel name.
pub(crate) fn device_number(name: &str) -> io::Result<(u32, u32)> {
    let text = fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev"))?;
    parse_number(&text).ok_or_else(|| io::Error::other("unreadable device number"))
}

fn parse_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Source {
    pub(crate) fn on_medium(
        name: String,
        number: (u32, u32),
        image: Extent,
        area: Option<Extent>,
    ) -> Self {
        Self {
            name,
            number,
            image,
            area,
            origin: Origin::Medium,
        }
    }

    /// An image in memory, from the network if there is a report.
    pub(crate) fn in_memory(
        name: String,
        number: (u32, u32),
        size: u64,
        report: Option<Report>,
    ) -> Self {
        Self {
            name,
            number,
            image: Extent { offset: 0, size },
            area: None,
            origin: report.map_or(Origin::Initramfs, Origin::Network),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(number: (u32, u32), offset: u64, size: u64) -> Self {
        Self::on_medium("sdb".into(), number, Extent { offset, size }, None)
    }

    /// Kernel name of the device.
    pub(crate) fn device(&self) -> &str {
        &self.name
    }

    pub(crate) fn device_number(&self) -> (u32, u32) {
        self.number
    }

    pub(crate) fn image_offset(&self) -> u64 {
        self.image.offset
    }

    pub(crate) fn image_size(&self) -> u64 {
        self.image.size
    }

    pub(crate) fn area(&self) -> Option<Extent> {
        self.area
    }

    /// Whether the root stays on something that can be pulled out.
    pub(crate) fn is_medium(&self) -> bool {
        self.origin == Origin::Medium
    }

    /// `medium`, `network` or `initramfs`.
    pub(crate) fn kind(&self) -> &'static str {
        match self.origin {
            Origin::Medium => "medium",
            Origin::Initramfs => "initramfs",
            Origin::Network(_) => "network",
        }
    }

    /// How the network brought the root, if it did.
    pub(crate) fn report(&self) -> Option<&Report> {
        match &self.origin {
            Origin::Network(report) => Some(report),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_could_not_be_started_is_started_again_later() {
        for alone in [false, true] {
            let mut network = Network::new(alone);
            let now = Instant::now();
            network.started(Err(io::ErrorKind::OutOfMemory.into()), now);
            assert!(network.process.is_none());
            assert_eq!(network.start_at, Some(now + RESTART));
        }
    }

    #[test]
    fn device_numbers_are_read_as_sysfs_writes_them() {
        assert_eq!(parse_number("11:0\n"), Some((11, 0)));
        assert_eq!(parse_number(""), None);
    }
}
