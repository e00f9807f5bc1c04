//! Runs the guests of this host.
//!
//! Owns every lease's life on the host, from verified ticket to receipt:
//! images, disks, seeds, domains, consoles, counters. What always holds:
//!
//! - A guest runs only under a ticket for this host and this boot, of the
//!   highest epoch that was ever seen here, and starts before its `not_after`.
//! - It ends at the lease's end, whether the marketplace can be reached or not,
//!   and whether or not the agent still can: the guard knows its deadline first.
//! - What is missing from an answer changes nothing; a stop needs a tombstone.
//! - The agent may die at any instruction. Its successor adopts what runs and
//!   finishes or removes what is half made.
//!
//! [`plan`] decides, [`engine`] acts, [`record`] and [`store`] remember. What
//! touches the world stands behind [`hypervisor::Hypervisor`],
//! [`workshop::Workshop`], [`uplink::Uplink`] and [`clock::Clock`].

pub mod base;
pub mod changes;
pub mod clock;
pub mod config;
pub mod confinement;
pub mod console;
mod consoles;
pub mod deadlines;
pub mod directories;
pub mod disk;
mod disk_limit;
pub mod domain_xml;
pub mod engine;
pub mod forwards;
pub mod hypervisor;
pub mod image;
pub mod keys;
pub mod meter;
pub mod nodes;
pub mod overhead;
pub mod placement;
pub mod plan;
pub mod prepare;
pub mod probe;
pub mod record;
pub mod seed;
pub mod store;
pub mod uplink;
pub mod workshop;

use std::sync::Arc;
use std::time::Duration;

use surplus_libvirt::Libvirt;
use surplus_protocol::agent::{ReceiptAck, UsageAck};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{EndReceipt, LeaseStatus, SignedTicket, UsageRecord};
use tokio::sync::{broadcast, mpsc, watch};

pub use config::GuestsConfig;
pub use overhead::{GUEST_OVERHEAD, guest_overhead};
pub use placement::Placement;
pub use plan::Desired;
pub use uplink::{ByteStream, Uplink, UplinkError};

use clock::Clock;
use deadlines::DeadlineFiles;
use engine::Engine;
use hypervisor::{Hint, Hypervisor, LibvirtHypervisor};
use prepare::LocalWorkshop;
use store::{Store, StoreError};

/// The libvirt that runs guests.
const LIBVIRT: &str = "qemu:///system";

/// What the guests have to say to the marketplace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestsReport {
    /// Every lease that is here and has not ended.
    pub leases: Vec<LeaseStatus>,
    /// Records not yet acknowledged, oldest first within a lease.
    pub usage: Vec<UsageRecord>,
    /// Receipts not yet acknowledged, to be signed and sent.
    pub receipts: Vec<EndReceipt>,
    /// The tickets of what is here, for a marketplace that has forgotten them.
    pub tickets: Vec<SignedTicket>,
    /// What a person should know, one sentence each.
    pub problems: Vec<String>,
}

/// Why guests cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the host's leases cannot be taken up")]
    Store(#[from] StoreError),
    #[error("the directories for guests cannot be made")]
    Directories(#[from] directories::DirectoryError),
    #[error("the thread for libvirt cannot be started")]
    Libvirt(#[source] std::io::Error),
}

/// A handle on the guests; they are cared for until the last one is dropped.
/// The guests themselves run on.
#[derive(Clone, Debug)]
pub struct Guests {
    orders: mpsc::UnboundedSender<Order>,
    report: watch::Receiver<GuestsReport>,
    hypervisor: Arc<dyn Hypervisor>,
}

#[derive(Debug)]
enum Order {
    Desired(Desired),
    Sellable(Resources),
    Acknowledge(Vec<UsageAck>, Vec<ReceiptAck>),
    Recall,
}

impl Guests {
    /// Takes up what an earlier agent left, and cares for it from now on.
    /// libvirt need not be there yet. `known` is what is desired until
    /// [`Guests::set_desired`] says more. Call within a tokio runtime.
    pub fn start(
        config: GuestsConfig,
        known: Desired,
        uplink: Arc<dyn Uplink>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let hypervisor = LibvirtHypervisor::new(LIBVIRT).map_err(StartError::Libvirt)?;
        tokio::spawn(warm_up(hypervisor.libvirt().clone(), config.emulation));
        Self::start_with(config, known, Arc::new(hypervisor), uplink, clock)
    }

    /// The same on another hypervisor or clock.
    pub fn start_with(
        config: GuestsConfig,
        known: Desired,
        hypervisor: Arc<dyn Hypervisor>,
        uplink: Arc<dyn Uplink>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let interval = config.look_interval;
        let hints = hypervisor.hints();
        let store = Store::open(&config.state_dir)?;
        let workshop = Arc::new(LocalWorkshop::open(&config, uplink)?);
        let deadlines = Arc::new(DeadlineFiles::new(&config.deadlines_dir));
        let mut engine = Engine::open(
            config,
            store,
            workshop,
            Arc::clone(&hypervisor),
            deadlines,
            Arc::clone(&clock),
        );
        engine.set_desired(known);
        let (orders, inbox) = mpsc::unbounded_channel();
        let (publish, report) = watch::channel(engine.report());
        tokio::spawn(care(engine, clock, interval, hints, inbox, publish));
        Ok(Self {
            orders,
            report,
            hypervisor,
        })
    }

    /// Says what shall run and what shall stop. Level-triggered: each call
    /// holds everything, and what is missing from it changes nothing. Tickets
    /// must have been verified.
    pub fn set_desired(&self, desired: Desired) {
        self.order(Order::Desired(desired));
    }

    /// Says how much all guests together may take, their overhead included. A
    /// ticket that does not fit is answered with a receipt that says so.
    pub fn set_sellable(&self, sellable: Resources) {
        self.order(Order::Sellable(sellable));
    }

    /// Says what the marketplace has stored for good.
    pub fn acknowledge(&self, usage: Vec<UsageAck>, receipts: Vec<ReceiptAck>) {
        self.order(Order::Acknowledge(usage, receipts));
    }

    /// Says receipts again that were acknowledged.
    pub fn recall(&self) {
        self.order(Order::Recall);
    }

    /// What there is to report; changes when it does.
    pub fn report(&self) -> watch::Receiver<GuestsReport> {
        self.report.clone()
    }

    /// How many calls the hypervisor has not answered in time, nor since.
    pub fn hung(&self) -> usize {
        self.hypervisor.hung()
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("nobody cares for the guests any more");
        }
    }
}

/// Lets libvirt find out what QEMU can do before the first guest waits for it:
/// seconds on a slow host, and kept by libvirt afterwards.
async fn warm_up(libvirt: Libvirt, emulation: bool) {
    let kind = if emulation { "qemu" } else { "kvm" };
    libvirt.wait_until_there().await;
    if let Err(error) = libvirt.domain_capabilities("x86_64", "q35", kind).await {
        tracing::warn!(
            error = engine::chain(&error),
            "libvirt cannot run guests of this kind"
        );
    }
}

/// Turns the engine whenever something happened, and every `interval`.
async fn care(
    mut engine: Engine,
    clock: Arc<dyn Clock>,
    interval: Duration,
    mut hints: broadcast::Receiver<Hint>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    publish: watch::Sender<GuestsReport>,
) {
    loop {
        let wake_at = engine.turn().await;
        let report = engine.report();
        publish.send_if_modified(|last| {
            let changed = *last != report;
            *last = report;
            changed
        });
        let until_wake = wake_at.map_or(interval, |at| {
            let wait = at.duration_since(clock.now());
            Duration::try_from(wait).unwrap_or(Duration::ZERO)
        });
        // Cancel safe: channels keep what was not received, sleep takes nothing.
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => take(&mut engine, order),
                None => return,
            },
            hint = hints.recv() => match hint {
                Ok(Hint { name, stopped: true }) => engine.domain_stopped(name),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The periodic look goes on without hints.
                Err(broadcast::error::RecvError::Closed) => tokio::time::sleep(interval).await,
            },
            () = engine.job_done() => {}
            () = tokio::time::sleep(until_wake.min(interval)) => {}
        }
        // What came at the same time is done in the same turn.
        while let Ok(order) = orders.try_recv() {
            take(&mut engine, order);
        }
    }
}

fn take(engine: &mut Engine, order: Order) {
    match order {
        Order::Desired(desired) => engine.set_desired(desired),
        Order::Sellable(sellable) => engine.set_sellable(sellable),
        Order::Acknowledge(usage, receipts) => engine.acknowledge(&usage, &receipts),
        Order::Recall => engine.recall(),
    }
}

/// A ticket for the tests' host (id 1) and boot (id 1): issued at 1000 s, to be
/// started until 2000 s, ending at 5000 s.
#[cfg(test)]
fn test_ticket(lease: u128, epoch: u64) -> surplus_protocol::lease::Ticket {
    use jiff::Timestamp;
    use newtype_uuid::GenericUuid as _;
    use surplus_protocol::Digest;
    use surplus_protocol::ids::{BootId, HostId, LeaseId};
    use surplus_protocol::lease::{Firmware, GuestSpec, ImageFormat, OnLostLink, Ticket};
    use uuid::Uuid;

    let at = |second| Timestamp::from_second(second).expect("a small number");
    Ticket {
        lease: LeaseId::from_untyped_uuid(Uuid::from_u128(lease)),
        epoch,
        host: HostId::from_untyped_uuid(Uuid::from_u128(1)),
        boot: BootId::from_untyped_uuid(Uuid::from_u128(1)),
        issued_at: at(1000),
        not_after: at(2000),
        ends_at: at(5000),
        terms: None,
        claim: None,
        proof: None,
        guest: GuestSpec {
            name: format!("guest-{lease}"),
            resources: Resources {
                vcpus: 2,
                memory_bytes: 1 << 30,
                disk_bytes: 2 << 30,
                addresses: 0,
            },
            image: Digest::from_sha256([0; 32]),
            image_format: ImageFormat::Raw,
            image_bytes: 0,
            firmware: Firmware::Bios,
            ssh_keys: vec!["ssh-ed25519 AAAA alice".into()],
            user_data: None,
            on_lost_link: OnLostLink::Keep,
            ports: Vec::new(),
        },
    }
}
