//! A host in the register at work: guests, survey, syncing, renewal, beside
//! each other.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::inventory::{KvmProbe, SelfCheck};
use surplus_site::Site;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::join::Joined;
use super::registration::Registration;
use super::{DaemonError, World, shutdown};
use crate::capacity::Reserve;
use crate::clock::{MarketplaceTime, since_boot};
use crate::guests::disk::QemuImg;
use crate::guests::forwards::PacketFilter;
use crate::guests::{Guests, GuestsConfig, probe};
use crate::hub::in_one_line;
use crate::inventory;
use crate::network::look::KernelLinks;
use crate::network::{own, units as network_units, way};
use crate::self_test;
use crate::storage::{self, Volume};
use crate::survey::{Surveyor, Trials};
use crate::sync::fence::FenceBook;
use crate::sync::session::Session;
use crate::sync::tickets::Verifier;
use crate::sync::{Marketplace, Offer, Syncing};
use crate::sysroot::SysRoot;
use crate::system::bus::Bus;
use crate::system::smt;
use crate::system::transient::TransientServices;
use crate::system::units::{self, Ensured};
use crate::uplink;

/// The daemon that runs guests.
const LIBVIRT: &str = "libvirtd.service";

/// Ends guests at their deadline when this process does not.
const GUARD: &str = "surplus-guard.service";

/// Between looks whether they run.
const UNIT_LOOK: Duration = Duration::from_secs(30);

/// Between looks whether libvirt hangs.
const HUNG_LOOK: Duration = Duration::from_secs(5);

/// Calls past their deadline that have libvirt restarted.
const HUNG_FOR_GOOD: usize = 2;

/// Between restarts at least: a host that is merely slow gets through.
const RESTART_GAP: Duration = Duration::from_secs(300);

pub(super) async fn serve(
    world: &World,
    joined: Joined,
    mut stop: watch::Receiver<bool>,
) -> Result<(), DaemonError> {
    let Joined {
        site,
        road,
        facts,
        storage: key_storage,
        floor,
        credentials,
        authority,
    } = joined;
    let boot = boot_id(&world.settings.root).ok_or(DaemonError::BootId)?;
    let host = credentials.identity.host;
    let (credentials, shown) = watch::channel(credentials);
    let mut beside = Beside::default();

    beside.run(keep_running(Arc::clone(&world.bus), LIBVIRT));
    beside.run(keep_running(Arc::clone(&world.bus), GUARD));
    // Cancel-safe: the probe's guest is killed when it is dropped; the next agent
    // waits for disks that are being made ready.
    let ready = tokio::select! {
        ready = ready_for_guests(world, &site) => ready,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let (say_hung, hangs) = watch::channel(false);
    let no_way_out = watch_the_way(world, &site, &mut beside);
    let mut surveyor = surveyor(world, &site, &ready)
        .minding(hangs.clone())
        .minding_the_way(no_way_out.clone())
        .counting_addresses(watch_own_addresses(world, &site, &mut beside));
    let (publish, offer) = watch::channel(surveyor.look());

    let mut config = guests_config(world, &site, (host, boot), &ready);
    // An image is never larger than the disk that it unfolds to.
    config.image_cache_bytes = Some(surveyor.disk_bytes());
    let time = MarketplaceTime::open(world.settings.run_directory.join("marketplace-time"));
    let road_up = Arc::new(uplink::Marketplace(shown.clone()));
    let fences = FenceBook::open(world.settings.run_directory.join("fences.json"));
    let guests = Guests::start(config, fences.known(), road_up, Arc::new(time.clone()))?;
    let report = guests.report();
    beside.run(mend_libvirt(
        Arc::clone(&world.bus),
        guests.clone(),
        say_hung,
    ));
    let trials = OnThisHost {
        root: world.settings.root.clone(),
        bus: Arc::clone(&world.bus),
        runtime: runtime_directory(world),
        emulation_allowed: site.testing.allow_emulation,
    };
    beside.run(surveyor.run(publish, trials));
    beside.run(tell_guests_what_is_sellable(
        guests.clone(),
        offer.clone(),
        hangs,
        no_way_out,
    ));
    beside.run(shutdown::delay(Arc::clone(&world.bus), report.clone()));
    let consoles = world.settings.consoles.clone();
    beside.run(shutdown::end_guests(
        Arc::clone(&world.bus),
        guests.clone(),
        consoles,
    ));
    let stranger = Arc::new(Notify::new());
    let newcomer = Arc::new(Notify::new());
    let registration = Registration {
        anonymous: road.anonymous()?,
        site,
        road,
        facts,
        storage: key_storage,
        floor,
        credentials,
        consoles: world.settings.consoles.clone(),
        board: world.board.clone(),
        stranger: Arc::clone(&stranger),
        newcomer: Arc::clone(&newcomer),
    };
    beside.run(registration.keep());
    beside.run(
        fences
            .clone()
            .watch(guests.clone(), world.settings.consoles.clone()),
    );
    let syncing = Syncing {
        fences,
        hub: Marketplace(shown.clone()),
        time,
        workload: guests,
        credentials: shown,
        verifier: Verifier::new(authority, host, boot),
        stranger,
        offer,
        report,
        consoles: world.settings.consoles.clone(),
        board: world.board.clone(),
    };
    // Cancel-safe: the next agent takes up what is kept on disk; guests run on.
    tokio::select! {
        () = syncing.run(Session::new(boot, earlier_syncs()), stop) => Ok(()),
        () = newcomer.notified() => Err(DaemonError::OtherHost),
    }
}

fn guests_config(
    world: &World,
    site: &Site,
    (host, boot): (HostId, BootId),
    ready: &Ready,
) -> GuestsConfig {
    let mut config = GuestsConfig {
        deadlines_dir: runtime_directory(world).join("deadlines"),
        pulse: world.pulse.clone(),
        group: guests_group(),
        numa_nodes: inventory::guests_nodes(&world.settings.root),
        huge_pages: inventory::huge_pages(&world.settings.root).for_guests > 0,
        emulation: ready.kvm == KvmProbe::Emulated,
        disk_rate: site.guests.disk_rate,
        own_addresses: site.guests.addresses,
        forwards: Arc::new(PacketFilter::default()),
        qemu_img: QemuImg::confined_by(Arc::new(TransientServices::new(Arc::clone(&world.bus)))),
        ..GuestsConfig::new(host, boot, &world.settings.state_directory)
    };
    if let Some(volume) = &ready.volume {
        config.keep_on(volume);
    }
    config
}

/// The group that may open `/dev/kvm`, on a host that runs guests under users of
/// their own.
fn guests_group() -> Option<u32> {
    let group = nix::unistd::Group::from_name("kvm").ok().flatten()?;
    nix::unistd::geteuid()
        .is_root()
        .then_some(group.gid.as_raw())
}

/// Tasks that end with the daemon.
#[derive(Default)]
struct Beside(JoinSet<()>);

impl Beside {
    fn run(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.spawn(task)
    }
}

/// More syncs than earlier agents of this boot can have made: one takes 200 ms
/// at least.
fn earlier_syncs() -> u64 {
    u64::try_from(since_boot().as_millis() / 200).unwrap_or(u64::MAX)
}

/// `/proc/sys/kernel/random/boot_id`.
fn boot_id(root: &SysRoot) -> Option<BootId> {
    root.text("/proc/sys/kernel/random/boot_id")?.parse().ok()
}

fn runtime_directory(world: &World) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(world.settings.run_directory.clone())
        .unwrap_or_else(|_| super::RUN_DIRECTORY.into())
}

struct OnThisHost {
    root: SysRoot,
    bus: Arc<Bus>,
    runtime: Utf8PathBuf,
    emulation_allowed: bool,
}

impl Trials for OnThisHost {
    async fn kvm(&self) -> KvmProbe {
        probe::probe(&self.runtime, self.emulation_allowed).await
    }

    async fn isolation(&self) -> Vec<SelfCheck> {
        self_test::outcome(&self.root, &self.bus).await
    }
}

/// Where the site file allows emulation, guests need to know before they are
/// taken up whether it is used; elsewhere nobody waits for the probe.
async fn probe_before_guests(world: &World, site: &Site) -> KvmProbe {
    if site.testing.allow_emulation {
        probe::probe(&runtime_directory(world), true).await
    } else {
        KvmProbe::Pending
    }
}

fn reserve(site: &Site) -> Reserve {
    Reserve {
        vcpus: site.reserve.vcpus.unwrap_or(0),
        memory_bytes: site.reserve.memory.unwrap_or(0),
    }
}

/// What guests need before they are taken up.
struct Ready {
    kvm: KvmProbe,
    volume: Option<Volume>,
    /// What each is held to, where it is.
    mbits: Option<u32>,
}

/// Looked for at the same time.
async fn ready_for_guests(world: &World, site: &Site) -> Ready {
    // Where that fails, nothing is offered, and the offer says why.
    if let Err(error) = smt::set(&world.settings.root, site.guests.share_cores) {
        tracing::error!(%error, "the threads of a core could not be switched");
    }
    let (kvm, volume, mbits) = tokio::join!(
        probe_before_guests(world, site),
        disks(world, site),
        limit(site.guests.mbits),
    );
    Ready { kvm, volume, mbits }
}

/// Why guests do not get out by the network of their own, from now on; nobody looks
/// where they have none.
fn watch_the_way(
    world: &World,
    site: &Site,
    beside: &mut Beside,
) -> watch::Receiver<Option<String>> {
    let root = &world.settings.root;
    let (say, no_way_out) = watch::channel(None);
    if let Some(wanted) = network_units::guests_wanted(site, &inventory::cards(root)) {
        let way = way::Watch {
            links: KernelLinks::by_clock(root.clone(), Arc::clone(&world.bus)),
            wanted,
            consoles: world.settings.consoles.clone(),
            say,
        };
        way.look();
        beside.run(way.run());
    }
    no_way_out
}

/// How many addresses there are for guests alone, from now on.
fn watch_own_addresses(world: &World, site: &Site, beside: &mut Beside) -> watch::Receiver<u32> {
    let (say, there) = watch::channel(0);
    if site.guests.addresses > 0 {
        let consoles = world.settings.consoles.clone();
        beside.run(own::watch(site.guests.addresses, consoles, say));
    }
    there
}

fn surveyor(world: &World, site: &Site, ready: &Ready) -> Surveyor {
    let volume_bytes = ready.volume.as_ref().map(|volume| volume.bytes);
    Surveyor::new(
        world.settings.root.clone(),
        reserve(site),
        world.board.clone(),
    )
    .with_probe(ready.kvm.clone())
    .sharing_cores(site.guests.share_cores)
    .limiting(ready.mbits)
    .limiting_disks(site.guests.disk_rate)
    .on_volume(volume_bytes)
}

/// Holds guests to their rate, or says why not.
async fn limit(mbits: u32) -> Option<u32> {
    match PacketFilter::default().limit(mbits).await {
        Ok(()) => Some(mbits),
        Err(error) => {
            let error = in_one_line(&error);
            tracing::error!(error, "what guests send is not limited");
            None
        }
    }
}

/// The volume of the disks that the site file gives.
async fn disks(world: &World, site: &Site) -> Option<Volume> {
    let settings = &world.settings;
    let (root, state) = (&settings.root, &settings.state_directory);
    storage::ready(root, &world.bus, &site.storage, state, &*settings.consoles).await
}

async fn keep_running(bus: Arc<Bus>, unit: &'static str) {
    let mut said = String::new();
    loop {
        let now = match units::ensure_active(&bus, unit).await {
            Ok(Ensured::Unchanged) => String::new(),
            Ok(Ensured::Started) => "it did not run, and was started".to_owned(),
            Err(error) => in_one_line(&error),
        };
        if now != said && !now.is_empty() {
            tracing::info!("{unit}: {now}");
        }
        said = now;
        tokio::time::sleep(UNIT_LOOK).await;
    }
}

/// Says whether libvirt hangs, and restarts it while it does: guests run on.
async fn mend_libvirt(bus: Arc<Bus>, guests: Guests, say_hung: watch::Sender<bool>) {
    let mut restarted: Option<Instant> = None;
    loop {
        let hung = guests.hung();
        say_hung.send_if_modified(|last| std::mem::replace(last, hung > 0) != (hung > 0));
        let lately = restarted.is_some_and(|at| at.elapsed() < RESTART_GAP);
        if hung >= HUNG_FOR_GOOD && !lately {
            restarted = Some(Instant::now());
            match units::restart(&bus, LIBVIRT).await {
                Ok(()) => tracing::warn!(unit = LIBVIRT, "it hung, and is restarted"),
                Err(error) => {
                    tracing::error!(unit = LIBVIRT, error = in_one_line(&error), "it hangs")
                }
            }
        }
        tokio::time::sleep(HUNG_LOOK).await;
    }
}

async fn tell_guests_what_is_sellable(
    guests: Guests,
    mut offer: watch::Receiver<Offer>,
    hangs: watch::Receiver<bool>,
    no_way_out: watch::Receiver<Option<String>>,
) {
    loop {
        let (pending, sellable) = {
            let offer = offer.borrow_and_update();
            (
                offer.inventory.kvm == KvmProbe::Pending,
                offer.capacity.sellable,
            )
        };
        // Before the probe is done nothing is known: guests that an earlier
        // agent started must not be judged by a capacity of zero.
        // Nor is it a reason to reject what was sold before that libvirt hangs, or that
        // guests do not get out just now.
        let passing = *hangs.borrow() || no_way_out.borrow().is_some();
        if !pending && !passing {
            guests.set_sellable(sellable);
        }
        if offer.changed().await.is_err() {
            return;
        }
    }
}
