//! The child: a process that is an agent, as far as its guests go.
//!
//! What always holds: whatever outlives the process is announced at a point
//! before and after it is done.

mod hypervisor;
mod ledger;
mod uplink;
mod workshop;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use jiff::Timestamp;
use newtype_uuid::GenericUuid as _;
use surplus_agent::guests::clock::Clock;
use surplus_agent::guests::deadlines::DeadlineFiles;
use surplus_agent::guests::disk::QemuImg;
use surplus_agent::guests::engine::Engine;
use surplus_agent::guests::prepare::LocalWorkshop;
use surplus_agent::guests::store::Store;
use surplus_agent::guests::{Desired, GuestsConfig};
use surplus_journal::medium::Directory;
use surplus_protocol::ids::{BootId, HostId};
use uuid::Uuid;

use crate::wire::{Answer, Ask, Line, Orders};
use crate::world::{BEGINNING, BOOTED_BEFORE};
use hypervisor::Asking;
use ledger::Announcing;
use workshop::Counting;

pub use uplink::Fetching;

/// How often guests are looked at, and how often a usage record is made.
pub const SAMPLE: Duration = Duration::from_secs(20);
pub const RECORD: Duration = Duration::from_secs(60);

/// The line to the world. Whoever asks waits for the answer: nothing goes on
/// beside it, so that the points of a life come in one order.
#[derive(Debug)]
pub struct World(Mutex<Line>);

impl World {
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("could not connect to the world")?;
        Ok(Self(Mutex::new(Line::new(stream))))
    }

    /// Asks, and ends the process when nobody answers: the world is gone.
    fn ask(&self, ask: &Ask) -> Answer {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match line.send(ask).and_then(|()| line.receive()) {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => std::process::exit(3),
        }
    }

    /// Announces something; whether it may be.
    pub fn point(&self, what: String) -> bool {
        matches!(self.ask(&Ask::Point(what)), Answer::Go)
    }

    /// Says that something is done.
    pub fn done(&self, what: String) {
        self.ask(&Ask::Done(what));
    }
}

/// The time, as it was last told.
#[derive(Debug, Default)]
struct ToldClock(AtomicU64);

impl Clock for ToldClock {
    fn now(&self) -> Timestamp {
        let millis = i64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(BEGINNING * 1000 + millis).unwrap_or(Timestamp::MAX)
    }

    fn boot_millis(&self) -> u64 {
        BOOTED_BEFORE + self.0.load(Ordering::Relaxed)
    }
}

/// Lives until the story is over, or death.
///
/// # Errors
///
/// When the agent cannot start: its ledger or its directories.
pub fn live(socket: &Path, state: &Utf8Path) -> Result<()> {
    // To where the world looks for the steps that were done.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let world = Arc::new(World::connect(socket)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not make a runtime")?;
    runtime.block_on(turns(&world, state))
}

async fn turns(world: &Arc<World>, state: &Utf8Path) -> Result<()> {
    let Answer::Orders(mut orders) = world.ask(&Ask::Hello) else {
        bail!("the world has no orders");
    };
    let clock = Arc::new(ToldClock::default());
    clock.0.store(orders.now_millis, Ordering::Relaxed);
    let mut engine = open(world, state, &clock)?;
    loop {
        // An event is heard when it happens: before the time that passes until
        // the next turn.
        for name in std::mem::take(&mut orders.stopped) {
            engine.domain_stopped(name);
        }
        clock.0.store(orders.now_millis, Ordering::Relaxed);
        take(&mut engine, *orders);
        engine.turn().await;
        while engine.is_making() {
            engine.job_done().await;
            engine.turn().await;
        }
        orders = match world.ask(&Ask::Report(engine.report().into())) {
            Answer::Orders(orders) => orders,
            Answer::End => return Ok(()),
            other => bail!("the world answers a report by {other:?}"),
        };
    }
}

fn open(world: &Arc<World>, state: &Utf8Path, clock: &Arc<ToldClock>) -> Result<Engine> {
    let config = GuestsConfig {
        qemu_img: QemuImg::stand_in(state.with_file_name("qemu-img").as_str()),
        sample_interval: SAMPLE,
        record_interval: RECORD,
        qemu_log_dir: state.with_file_name("qemu-logs"),
        ..GuestsConfig::new(host(), boot(), state)
    };
    let disk = Directory::open(state.join("ledger").as_std_path())?;
    let disk = Announcing::new(disk, Arc::clone(world));
    let store = Store::open_on(Box::new(disk), [7; 16])?;
    let uplink = Arc::new(Fetching(Arc::clone(world)));
    let inner = LocalWorkshop::open(&config, uplink)?;
    let workshop = Counting::new(inner, Arc::clone(world), state);
    let hypervisor = Arc::new(Asking::new(Arc::clone(world)));
    Ok(Engine::open(
        config,
        store,
        Arc::new(workshop),
        hypervisor,
        Arc::new(DeadlineFiles::new(state.with_file_name("deadlines"))),
        Arc::clone(clock) as Arc<dyn Clock>,
    ))
}

fn take(engine: &mut Engine, orders: Orders) {
    engine.set_sellable(orders.sellable);
    engine.set_desired(Desired {
        tickets: orders.tickets,
        tombstones: orders.tombstones,
        ..Desired::default()
    });
    if !(orders.usage.is_empty() && orders.receipts.is_empty()) {
        engine.acknowledge(&orders.usage, &orders.receipts);
    }
}

/// The one host of the story, and its boot.
pub fn host() -> HostId {
    HostId::from_untyped_uuid(Uuid::from_u128(1))
}

pub fn boot() -> BootId {
    BootId::from_untyped_uuid(Uuid::from_u128(1))
}
