//! Keeps the offer true: inventory, what the host tried on itself (whether KVM runs
//! a guest, whether guests are kept apart), and what of it all is for sale.
//!
//! What always holds: nothing is offered before a guest was seen to run and nothing
//! came through that must not; what failed is tried again, since libvirt may have
//! been slow or the owner may have mended the machine; the capacity's generation
//! grows with each change.

use std::future::Future;
use std::time::Duration;

use surplus_protocol::inventory::{DiskRate, Inventory, KvmProbe, SelfCheck};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::capacity::{self, Facts, Offered, Reserve, SelfTest};
use crate::clock::since_boot;
use crate::guests::GUEST_OVERHEAD;
use crate::inventory;
use crate::self_test;
use crate::status::Board;
use crate::sync::Offer;
use crate::sysroot::SysRoot;
use crate::system::smt;

/// Between two looks at the hardware: cables and disks come and go.
const AGAIN: Duration = Duration::from_secs(120);

/// The kernel's list of AppArmor profiles, each with its mode.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What a host tries on itself.
pub trait Trials {
    /// Whether a guest runs.
    fn kvm(&self) -> impl Future<Output = KvmProbe> + Send;

    /// Whether guests are kept apart.
    fn isolation(&self) -> impl Future<Output = Vec<SelfCheck>> + Send;
}

/// Looks at the host, and keeps count of what it offers.
#[derive(Debug)]
pub struct Surveyor {
    root: SysRoot,
    reserve: Reserve,
    offered: Offered,
    kvm: KvmProbe,
    self_test: Vec<SelfCheck>,
    /// The volume on the owner's disks.
    volume_bytes: Option<u64>,
    /// Tenants may share a core.
    share_cores: bool,
    guest_mbits: Option<u32>,
    guest_disk: DiskRate,
    /// Whether libvirt hangs, as last heard.
    hangs: watch::Receiver<bool>,
    /// Why guests do not get out, as last heard.
    no_way_out: watch::Receiver<Option<String>>,
    /// How many addresses there are for guests alone, as last heard.
    own_addresses: watch::Receiver<u32>,
    board: Board,
}

impl Surveyor {
    pub fn new(root: SysRoot, reserve: Reserve, board: Board) -> Self {
        Self {
            root,
            reserve,
            // Changes come seconds apart.
            offered: Offered::after(since_boot().as_secs()),
            kvm: KvmProbe::Pending,
            self_test: Vec::new(),
            volume_bytes: None,
            share_cores: false,
            guest_mbits: None,
            guest_disk: on_the_wire(surplus_site::DiskRate::default()),
            hangs: watch::channel(false).1,
            no_way_out: watch::channel(None).1,
            own_addresses: watch::channel(0).1,
            board,
        }
    }

    /// Withholds the offer while libvirt hangs.
    #[must_use]
    pub fn minding(self, hangs: watch::Receiver<bool>) -> Self {
        Self { hangs, ..self }
    }

    /// Withholds the offer, and tries nothing, while guests do not get out.
    #[must_use]
    pub fn minding_the_way(self, no_way_out: watch::Receiver<Option<String>>) -> Self {
        Self { no_way_out, ..self }
    }

    /// Offers the addresses that are there for guests to have as their own.
    #[must_use]
    pub fn counting_addresses(self, own_addresses: watch::Receiver<u32>) -> Self {
        Self {
            own_addresses,
            ..self
        }
    }

    /// With guests' files on the owner's disks.
    #[must_use]
    pub fn on_volume(self, volume_bytes: Option<u64>) -> Self {
        Self {
            volume_bytes,
            ..self
        }
    }

    /// Whether tenants may share a core.
    #[must_use]
    pub fn sharing_cores(self, share_cores: bool) -> Self {
        Self {
            share_cores,
            ..self
        }
    }

    /// What each guest is held to, in Mbit/s, where it is.
    #[must_use]
    pub fn limiting(self, guest_mbits: Option<u32>) -> Self {
        Self {
            guest_mbits,
            ..self
        }
    }

    /// What each guest is held to on the owner's disks.
    #[must_use]
    pub fn limiting_disks(self, rate: surplus_site::DiskRate) -> Self {
        Self {
            guest_disk: on_the_wire(rate),
            ..self
        }
    }

    /// Takes the result of a probe that was made already.
    #[must_use]
    pub fn with_probe(self, kvm: KvmProbe) -> Self {
        Self { kvm, ..self }
    }

    /// The offer as it is now.
    pub fn look(&mut self) -> Offer {
        let addresses = inventory::addresses_now();
        let inventory = Inventory {
            self_test: self.self_test.clone(),
            ..inventory::read(&self.root, &addresses, self.kvm.clone())
        };
        let facts = self.facts(&inventory, self.kvm.clone());
        self.offered.update(capacity::plan(&facts));
        let capacity = self.offered.current().clone();
        self.board.update(|status| {
            status.kvm = Some(describe(&self.kvm));
            status.self_test = Some(self_test::describe(&self.self_test));
            status.capacity = Some(capacity.clone());
        });
        Offer {
            inventory,
            capacity,
        }
    }

    /// What disks may take once guests run, and so what images beside them may.
    pub fn disk_bytes(&self) -> u64 {
        let inventory =
            inventory::read(&self.root, &inventory::Addresses::new(), KvmProbe::Pending);
        let works = KvmProbe::Works { millis: 0 };
        let facts = Facts {
            confined: true,
            self_test: SelfTest::Passed,
            guest_mbits: Some(1),
            no_way_out: None,
            ..self.facts(&inventory, works)
        };
        capacity::plan(&facts).sellable.disk_bytes
    }

    fn facts(&self, inventory: &Inventory, kvm: KvmProbe) -> Facts {
        Facts {
            threads: inventory.cpu.threads,
            memory_bytes: inventory.memory_bytes,
            huge_pages: inventory::huge_pages(&self.root),
            volume_bytes: self.volume_bytes,
            kvm,
            guest_overhead: GUEST_OVERHEAD,
            reserve: self.reserve,
            no_way_out: self.no_way_out.borrow().clone(),
            own_addresses: *self.own_addresses.borrow(),
            libvirt_hangs: *self.hangs.borrow(),
            shares_cores: !self.share_cores && smt::is_active(&self.root),
            confined: confined(&self.root),
            self_test: self.self_test_passed(),
            guest_mbits: self.guest_mbits,
            guest_disk: self.guest_disk,
        }
    }

    fn self_test_passed(&self) -> SelfTest {
        if self.self_test.is_empty() {
            SelfTest::Pending
        } else if self_test::is_passed(&self.self_test) {
            SelfTest::Passed
        } else {
            SelfTest::Failed(self_test::describe(&self.self_test))
        }
    }

    /// Tries and looks, for ever.
    pub async fn run(mut self, offer: watch::Sender<Offer>, trials: impl Trials) {
        let mut backoff = Backoff::new(Duration::from_secs(20), Duration::from_secs(600));
        while !self.has_passed() {
            self.wait_for_a_way(&offer).await;
            (self.kvm, self.self_test) = tokio::join!(
                async {
                    match &self.kvm {
                        KvmProbe::Works { .. } | KvmProbe::Emulated => self.kvm.clone(),
                        KvmProbe::Pending | KvmProbe::Fails { .. } => trials.kvm().await,
                    }
                },
                trials.isolation(),
            );
            self.publish(&offer);
            if !self.has_passed() {
                tokio::time::sleep(backoff.wait()).await;
            }
        }
        loop {
            // Cancel-safe: all sides only wait. Without anybody to say so libvirt
            // never hangs, guests get out, and no address is theirs.
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                Ok(()) = self.hangs.changed() => {}
                Ok(()) = self.no_way_out.changed() => {}
                Ok(()) = self.own_addresses.changed() => {}
            }
            self.publish(&offer);
        }
    }

    /// What guests are told of name servers is settled when the first interface comes
    /// to their bridge, which is one of the trials'.
    async fn wait_for_a_way(&mut self, offer: &watch::Sender<Offer>) {
        while self.no_way_out.borrow_and_update().is_some() {
            self.publish(offer);
            if self.no_way_out.changed().await.is_err() {
                return;
            }
        }
    }

    fn has_passed(&self) -> bool {
        let runs = matches!(self.kvm, KvmProbe::Works { .. } | KvmProbe::Emulated);
        runs && self.self_test_passed() == SelfTest::Passed
    }

    fn publish(&mut self, offer: &watch::Sender<Offer>) {
        let now = self.look();
        offer.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
    }
}

fn on_the_wire(rate: surplus_site::DiskRate) -> DiskRate {
    DiskRate {
        operations: rate.ops,
        mbytes: rate.mbytes,
    }
}

/// Whether every QEMU that is started now comes under its AppArmor profile.
fn confined(root: &SysRoot) -> bool {
    let profiles = root.text(PROFILES).unwrap_or_default();
    profiles
        .lines()
        .any(|profile| profile == "surplus-guest (enforce)")
}

fn describe(kvm: &KvmProbe) -> String {
    match kvm {
        KvmProbe::Pending => "being probed".to_owned(),
        KvmProbe::Works { millis } => format!("works (a guest ran after {millis} ms)"),
        KvmProbe::Fails { reason } => format!("does not work: {reason}"),
        KvmProbe::Emulated => "not used: guests are emulated, as the site file asks".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::sysroot::fixture::Tree;

    fn passed() -> Vec<SelfCheck> {
        vec![SelfCheck::default()]
    }

    /// Trials whose outcomes are given, one after the other, the last for ever.
    struct Given {
        kvm: Vec<KvmProbe>,
        isolation: Vec<Vec<SelfCheck>>,
        tried: Arc<AtomicUsize>,
    }

    impl Given {
        fn new(kvm: &[KvmProbe], isolation: &[Vec<SelfCheck>]) -> Self {
            Self {
                kvm: kvm.to_vec(),
                isolation: isolation.to_vec(),
                tried: Arc::default(),
            }
        }
    }

    impl Trials for Given {
        async fn kvm(&self) -> KvmProbe {
            let tried = self.tried.load(Ordering::Relaxed);
            self.kvm[tried.min(self.kvm.len() - 1)].clone()
        }

        async fn isolation(&self) -> Vec<SelfCheck> {
            let tried = self.tried.fetch_add(1, Ordering::Relaxed);
            self.isolation[tried.min(self.isolation.len() - 1)].clone()
        }
    }

    fn host(tree: &Tree) {
        tree.file("/proc/meminfo", "MemTotal: 4194304 kB\n")
            .file("/sys/devices/system/cpu/online", "0-3")
            .file(PROFILES, "other (enforce)\nsurplus-guest (enforce)\n");
    }

    #[test]
    fn cores_are_shared_only_where_the_owner_allows_it() {
        let tree = Tree::new();
        host(&tree);
        tree.file("/sys/devices/system/cpu/smt/active", "1\n");
        let offers = |share_cores| {
            let board = Board::at(tree.root().path("/run/status.json"));
            let mut surveyor = Surveyor::new(tree.root(), Reserve::default(), board)
                .with_probe(KvmProbe::Works { millis: 5 })
                .limiting(Some(100))
                .sharing_cores(share_cores);
            surveyor.self_test = passed();
            surveyor.look().capacity.sellable.vcpus > 0
        };
        assert!(offers(true));
        assert!(!offers(false));
    }

    #[test]
    fn a_profile_that_only_complains_confines_nobody() {
        let tree = Tree::new();
        assert!(!confined(&tree.root()));
        tree.file(PROFILES, "surplus-guest (complain)\n");
        assert!(!confined(&tree.root()));
        host(&tree);
        assert!(confined(&tree.root()));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_offered_while_libvirt_hangs() {
        let tree = Tree::new();
        host(&tree);
        let board = Board::at(tree.root().path("/run/status.json"));
        let (hang, hangs) = watch::channel(false);
        let mut surveyor = Surveyor::new(tree.root(), Reserve::default(), board)
            .with_probe(KvmProbe::Works { millis: 5 })
            .limiting(Some(100))
            .minding(hangs);
        surveyor.self_test = passed();
        let first = surveyor.look();
        assert_eq!(first.capacity.withheld, None);
        let (sender, mut offers) = watch::channel(first.clone());
        let trials = Given::new(&[KvmProbe::Pending], &[Vec::new()]);
        let seen = async {
            hang.send(true).unwrap();
            offers.changed().await.unwrap();
            let withheld = offers.borrow_and_update().capacity.clone();
            hang.send(false).unwrap();
            offers.changed().await.unwrap();
            (withheld, offers.borrow_and_update().capacity.clone())
        };
        let began = tokio::time::Instant::now();
        let (withheld, again) = tokio::select! {
            () = surveyor.run(sender, trials) => unreachable!(),
            seen = seen => seen,
        };
        assert!(began.elapsed() < AGAIN);
        assert_eq!(withheld.sellable, Default::default());
        assert!(withheld.withheld.unwrap().contains("libvirt hangs"));
        assert_eq!(again.sellable, first.capacity.sellable);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_tried_or_offered_while_guests_do_not_get_out() {
        let tree = Tree::new();
        host(&tree);
        let board = Board::at(tree.root().path("/run/status.json"));
        let (say, no_way_out) = watch::channel(Some("no way out".to_owned()));
        let mut surveyor = Surveyor::new(tree.root(), Reserve::default(), board)
            .limiting(Some(100))
            .minding_the_way(no_way_out);
        let (sender, mut offers) = watch::channel(surveyor.look());
        let works = KvmProbe::Works { millis: 5 };
        let trials = Given::new(&[works], &[passed()]);
        let tried = Arc::clone(&trials.tried);
        let why = |offers: &mut watch::Receiver<Offer>| {
            let capacity = offers.borrow_and_update().capacity.clone();
            (capacity.withheld, capacity.sellable.vcpus > 0)
        };
        let seen = async {
            say.send(Some("not yet".to_owned())).unwrap();
            offers.changed().await.unwrap();
            let waits = why(&mut offers);
            let tried_meanwhile = tried.load(Ordering::Relaxed);
            say.send(None).unwrap();
            offers.changed().await.unwrap();
            let offered = why(&mut offers);
            say.send(Some("gone".to_owned())).unwrap();
            offers.changed().await.unwrap();
            (waits, tried_meanwhile, offered, why(&mut offers))
        };
        let (waits, tried_meanwhile, offered, gone) = tokio::select! {
            () = surveyor.run(sender, trials) => unreachable!(),
            seen = seen => seen,
        };
        assert_eq!(waits, (Some("not yet".to_owned()), false));
        assert_eq!(tried_meanwhile, 0);
        assert_eq!(offered, (None, true));
        assert_eq!(gone, (Some("gone".to_owned()), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_failed_is_made_again_and_then_the_host_offers() {
        let tree = Tree::new();
        host(&tree);
        let board = Board::at(tree.root().path("/run/status.json"));
        let mut surveyor =
            Surveyor::new(tree.root(), Reserve::default(), board).limiting(Some(100));
        let first = surveyor.look();
        assert!(first.capacity.withheld.is_some());
        let (sender, mut offers) = watch::channel(first);
        let fails = KvmProbe::Fails {
            reason: "slow".to_owned(),
        };
        let works = KvmProbe::Works { millis: 5 };
        let trials = Given::new(&[fails, works], &[passed()]);
        let seen = async {
            offers.changed().await.unwrap();
            let failed = offers.borrow_and_update().clone();
            offers.changed().await.unwrap();
            (failed, offers.borrow_and_update().clone())
        };
        let (failed, works) = tokio::select! {
            () = surveyor.run(sender, trials) => unreachable!(),
            seen = seen => seen,
        };
        assert!(failed.capacity.withheld.unwrap().contains("slow"));
        assert_eq!(works.capacity.withheld, None);
        assert!(works.capacity.sellable.vcpus > 0);
        assert_eq!(works.capacity.generation, failed.capacity.generation + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_through_which_something_comes_offers_nothing_and_says_what() {
        let tree = Tree::new();
        host(&tree);
        let board = Board::at(tree.root().path("/run/status.json"));
        let mut surveyor = Surveyor::new(tree.root(), Reserve::default(), board.clone())
            .limiting(Some(100))
            .with_probe(KvmProbe::Works { millis: 5 });
        let first = surveyor.look();
        let not_yet = first.capacity.withheld.clone().unwrap();
        assert!(not_yet.contains("has not yet tried"), "{not_yet}");
        let (sender, mut offers) = watch::channel(first);
        let failed = SelfCheck {
            name: "neighbour".to_owned(),
            attempts: 70,
            failure: Some("came to another guest: vlan".to_owned()),
        };
        let trials = Given::new(&[KvmProbe::Pending], &[vec![failed.clone()], passed()]);
        let seen = async {
            offers.changed().await.unwrap();
            let held = offers.borrow_and_update().clone();
            let said = board.current().self_test;
            offers.changed().await.unwrap();
            (held, said, offers.borrow_and_update().clone())
        };
        let (held, said, mended) = tokio::select! {
            () = surveyor.run(sender, trials) => unreachable!(),
            seen = seen => seen,
        };
        assert_eq!(held.inventory.self_test, [failed]);
        assert_eq!(held.capacity.sellable, Default::default());
        let why = held.capacity.withheld.unwrap();
        assert!(
            why.contains("neighbour: came to another guest: vlan"),
            "{why}"
        );
        assert_eq!(
            said.unwrap(),
            "failed: neighbour: came to another guest: vlan"
        );
        assert_eq!(mended.capacity.withheld, None);
    }
}
