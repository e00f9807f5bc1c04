//! The agent's life: a boot's steps in their order, then everything at once.
//!
//! ```text
//! site file ──► network ──► enrolled ──┬─► sync ◄── guests
//!                                      ├─► survey (inventory, KVM probe)
//!                                      ├─► renewal
//!                                      └─► libvirt kept running, shutdown delayed
//! ```
//!
//! What always holds: no step is skipped or given up; SIGTERM ends the agent at
//! any step, and guests run on.

mod find;
mod join;
mod registration;
mod serve;
mod shutdown;

use std::path::PathBuf;
use std::sync::Arc;

use camino::Utf8PathBuf;
use surplus_stage::Stage;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::enrol::EnrolError;
use crate::guests::StartError;
use crate::hub::in_one_line;
use crate::stages::Announcer;
use crate::status::Board;
use crate::sysroot::SysRoot;
use crate::system::bus::Bus;
use crate::system::notify::{self, Pulse};

/// Where the daemon's own volatile files are.
pub const RUN_DIRECTORY: &str = "/run/surplus";

/// Where guests and the record of leases are.
pub const STATE_DIRECTORY: &str = "/var/lib/surplus";

/// Name of the status file in the run directory.
pub const STATUS_FILE: &str = "status.json";

/// What the daemon was started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub root: SysRoot,
    pub run_directory: PathBuf,
    pub state_directory: Utf8PathBuf,
    /// A site file named on the command line: asked before all others.
    pub site_file: Option<PathBuf>,
    /// Where systemd put our credentials.
    pub credentials: Option<PathBuf>,
    pub consoles: Announcer,
}

/// Why the daemon cannot do its work. systemd starts it again.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("the kernel gives no boot id")]
    BootId,
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    #[error("cannot use the host's certificate")]
    Client(#[from] surplus_https::client::BuildError),
    #[error("the marketplace knows this host by another id from now on")]
    OtherHost,
    #[error("cannot run guests")]
    Guests(#[from] StartError),
}

/// What every step uses.
struct World {
    settings: Settings,
    bus: Arc<Bus>,
    board: Board,
    /// Beats while guests are cared for.
    pulse: Pulse,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<(), DaemonError> {
    let stop = stop_on_signals()?;
    let board = Board::at(settings.run_directory.join(STATUS_FILE));
    let world = World {
        settings,
        bus: Arc::new(Bus::default()),
        board,
        pulse: Pulse::default(),
    };
    notify::ready();
    let watchdog = tokio::spawn(notify::watchdog(world.pulse.clone()));
    let done = work(&world, stop).await;
    if let Err(error) = &done {
        let stage =
            Stage::new("agent").failed(in_one_line(error), "systemd starts the agent again");
        world.settings.consoles.say(stage);
    }
    notify::stopping();
    watchdog.abort();
    done
}

async fn work(world: &World, mut stop: watch::Receiver<bool>) -> Result<(), DaemonError> {
    // Cancel-safe: keys are kept before they are used, all else is done again.
    let joined = tokio::select! {
        joined = join::join(world) => joined?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    serve::serve(world, joined, stop).await
}

fn stop_on_signals() -> Result<watch::Receiver<bool>, DaemonError> {
    let mut term = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        // Cancel-safe: a signal that comes is kept until it is received.
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = sender.send(true);
    });
    Ok(stop)
}
