use std::time::Duration;

use newtype_uuid::GenericUuid as _;
use surplus_journal::Memory;
use surplus_journal::medium::Fault;
use surplus_protocol::agent::Tombstone;
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::lease::{EndReason, GuestPhase, Ticket};
use uuid::Uuid;

use super::super::clock::fake::FakeClock;
use super::super::deadlines::DeadlineFiles;
use super::super::disk::QemuImg;
use super::super::hypervisor::fake::FakeHypervisor;
use super::super::prepare::LocalWorkshop;
use super::super::uplink::fake::{FakeUplink, Serve};
use super::super::{Guests, GuestsReport, test_ticket};
use super::*;

const IMAGE: &[u8] = b"a boot sector, honestly";
const DEADLINE: Duration = Duration::from_secs(20);

/// A host whose agent can be killed and started again.
struct Rig {
    _dir: tempfile::TempDir,
    config: GuestsConfig,
    hypervisor: Arc<FakeHypervisor>,
    uplink: Arc<FakeUplink>,
    clock: Arc<FakeClock>,
    /// Where the ledger lies.
    disk: Memory,
    engine: Engine,
}

impl Rig {
    /// At 1200 s, with nothing on it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = camino::Utf8Path::from_path(dir.path()).unwrap();
        let host = HostId::from_untyped_uuid(Uuid::from_u128(1));
        let boot = BootId::from_untyped_uuid(Uuid::from_u128(1));
        let config = GuestsConfig {
            qemu_img: QemuImg::stand_in(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/guests/engine/qemu-img.sh"
            )),
            sample_interval: Duration::from_secs(5),
            record_interval: Duration::from_secs(60),
            deadlines_dir: state.join("run/deadlines"),
            ..GuestsConfig::new(host, boot, state)
        };
        let hypervisor = Arc::new(FakeHypervisor::default());
        hypervisor.state().guard = Some(DeadlineFiles::new(&config.deadlines_dir));
        let uplink = Arc::new(FakeUplink::default());
        uplink.offer(IMAGE);
        let clock = Arc::new(FakeClock::at(1200));
        let disk = Memory::new();
        let engine = open(&config, &disk, &hypervisor, &uplink, &clock);
        Self {
            _dir: dir,
            config,
            hypervisor,
            uplink,
            clock,
            disk,
            engine,
        }
    }

    /// `kill -9`, and a successor.
    fn restart(&mut self) {
        self.disk.revive();
        let Self {
            config,
            disk,
            hypervisor,
            uplink,
            clock,
            ..
        } = self;
        self.engine = open(config, disk, hypervisor, uplink, clock);
    }

    /// Nothing is remembered any more.
    fn lose_ledger(&mut self) {
        self.disk = Memory::new();
    }

    fn desire(&mut self, tickets: &[Ticket]) {
        self.engine.set_desired(Desired {
            tickets: tickets.to_vec(),
            tombstones: Vec::new(),
            ..Desired::default()
        });
    }

    fn bury(&mut self, ticket: &Ticket) {
        let Ticket { lease, epoch, .. } = *ticket;
        let stone = Tombstone {
            lease,
            epoch,
            reason: EndReason::Ended,
        };
        self.engine.set_desired(Desired {
            tickets: Vec::new(),
            tombstones: vec![stone],
            ..Desired::default()
        });
    }

    /// Turns until no guest is being made.
    async fn settle(&mut self) {
        loop {
            self.engine.turn().await;
            if !self.engine.is_making() {
                return;
            }
            tokio::time::timeout(DEADLINE, self.engine.job_done())
                .await
                .unwrap();
        }
    }

    /// Lets time pass second by second, as the agent would see it.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(1000);
            self.settle().await;
        }
    }

    fn domains(&self) -> Vec<String> {
        self.hypervisor.state().domains.keys().cloned().collect()
    }

    fn asked(&self, what: &str) -> usize {
        self.hypervisor
            .state()
            .log
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    }

    /// What the guard knows.
    fn deadlines(&self) -> Vec<(Placement, Option<u64>)> {
        let known = DeadlineFiles::new(&self.config.deadlines_dir).known();
        known.unwrap().into_iter().collect()
    }

    fn report(&self) -> GuestsReport {
        self.engine.report()
    }

    fn receipt(&self) -> EndReceipt {
        let receipts = self.report().receipts;
        assert_eq!(receipts.len(), 1, "{receipts:?}");
        receipts.into_iter().next().unwrap()
    }

    /// Nothing of any guest is left but its receipt, and none was made that the
    /// guard knew nothing of.
    fn assert_clean(&self) {
        assert_eq!(self.domains(), [""; 0]);
        assert_eq!(self.asked("unguarded"), 0);
        assert_eq!(self.deadlines(), []);
        assert_eq!(self.report().leases, []);
        let left = self.engine.workshop.placements();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn open(
    config: &GuestsConfig,
    disk: &Memory,
    hypervisor: &Arc<FakeHypervisor>,
    uplink: &Arc<FakeUplink>,
    clock: &Arc<FakeClock>,
) -> Engine {
    let (hypervisor, uplink, clock) = (hypervisor.clone(), uplink.clone(), clock.clone());
    let store = Store::open_on(Box::new(disk.clone()), [7; 16]).unwrap();
    let workshop = Arc::new(LocalWorkshop::open(config, uplink).unwrap());
    let deadlines = Arc::new(DeadlineFiles::new(&config.deadlines_dir));
    Engine::open(
        config.clone(),
        store,
        workshop,
        hypervisor,
        deadlines,
        clock,
    )
}

fn ticket(lease: u128, epoch: u64) -> Ticket {
    let mut ticket = test_ticket(lease, epoch);
    ticket.guest.image = FakeUplink::default().offer(IMAGE);
    ticket.guest.image_bytes = IMAGE.len() as u64;
    ticket
}

#[tokio::test]
async fn a_lease_runs_under_its_ticket_and_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    assert_eq!(rig.domains(), [Placement::of(&ticket).domain_name()]);
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
    // From 100 s after boot on: over two full minutes of that clock.
    rig.pass(90).await;
    assert_eq!(rig.report().usage.len(), 2);

    rig.hypervisor.state().obedient = true;
    rig.bury(&ticket);
    rig.settle().await;
    rig.assert_clean();
    let receipt = rig.receipt();
    assert_eq!(receipt.reason, EndReason::Ended);
    assert_eq!(
        receipt.started_at,
        Some(Timestamp::from_second(1200).unwrap())
    );
    assert_eq!(receipt.usage.running_millis, 90_000);
    assert_eq!(receipt.usage.seq, 3);

    let ack = ReceiptAck {
        lease: ticket.lease,
        epoch: 1,
    };
    rig.engine.acknowledge(&[], &[ack]);
    rig.restart();
    assert_eq!(rig.report().receipts, []);
    // The ticket may still be desired for a moment; it starts nothing.
    rig.desire(&[ticket]);
    rig.settle().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_lease_past_its_end_is_stopped_while_offline() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.uplink.set_offline(true);
    rig.clock.advance((4989 - 1200) * 1000);
    rig.settle().await;
    assert_eq!(rig.asked("shutdown"), 0);
    rig.pass(1).await;
    assert_eq!(rig.asked("shutdown"), 1);
    rig.pass(9).await;
    assert_eq!((rig.asked("destroy"), rig.domains().len()), (0, 1));
    // The guest ignored the request until the last second.
    rig.pass(1).await;
    assert_eq!(rig.asked("destroy"), 1);
    rig.assert_clean();
    let receipt = rig.receipt();
    assert_eq!(receipt.reason, EndReason::Expired);
    assert_eq!(receipt.ended_at, Timestamp::from_second(5000).unwrap());
    assert_eq!(receipt.usage.running_millis, 3_800_000);
}

#[tokio::test]
async fn the_turn_says_when_it_must_come_again() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    assert_eq!(
        rig.engine.turn().await,
        Some(Timestamp::from_second(4990).unwrap())
    );
}

#[tokio::test]
async fn a_killed_agent_adopts_the_running_guest() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.pass(70).await;
    rig.restart();
    rig.clock.advance(20_000);
    rig.settle().await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
    assert_eq!(rig.asked("create"), 1);
    rig.bury(&ticket);
    rig.pass(11).await;
    rig.assert_clean();
    // The time without an agent counts: the guest ran all along.
    assert_eq!(rig.receipt().usage.running_millis, 101_000);
}

#[tokio::test]
async fn a_guest_whose_record_is_lost_is_adopted_from_libvirt() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.lose_ledger();
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
    assert_eq!(rig.asked("destroy"), 0);
    rig.clock.advance(3_800_000);
    rig.settle().await;
    rig.assert_clean();
    assert_eq!(rig.receipt().reason, EndReason::Expired);
}

#[tokio::test]
async fn an_older_epoch_is_refused_after_a_restart_too() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 2)]);
    rig.settle().await;
    rig.bury(&ticket(1, 2));
    rig.pass(11).await;
    rig.engine.acknowledge(
        &[],
        &[ReceiptAck {
            lease: ticket(1, 2).lease,
            epoch: 2,
        }],
    );
    rig.restart();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.assert_clean();
    assert!(rig.report().problems[0].contains("epoch 2 of the lease was here already"));
}

#[tokio::test]
async fn a_newer_epoch_waits_for_the_older_to_be_gone() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.desire(&[ticket(1, 2)]);
    rig.pass(9).await;
    assert_eq!(rig.domains(), [Placement::of(&ticket(1, 1)).domain_name()]);
    rig.pass(2).await;
    assert_eq!(rig.domains(), [Placement::of(&ticket(1, 2)).domain_name()]);
    assert_eq!(rig.receipt().reason, EndReason::Reclaimed);
}

#[tokio::test]
async fn absence_stops_nothing() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.desire(&[]);
    rig.pass(30).await;
    assert_eq!(rig.domains().len(), 1);
}

#[tokio::test]
async fn a_guest_that_stops_by_itself_is_billed_until_then() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.pass(10).await;
    rig.clock.advance(3000);
    let name = Placement::of(&ticket).domain_name();
    rig.hypervisor.state().domains.remove(&name);
    rig.engine.domain_stopped(name);
    rig.clock.advance(20_000);
    rig.settle().await;
    rig.assert_clean();
    let receipt = rig.receipt();
    assert_eq!(receipt.reason, EndReason::GuestStopped);
    assert_eq!(receipt.usage.running_millis, 13_000);
}

#[tokio::test]
async fn a_broken_image_is_tried_again_and_then_reported() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.uplink
        .script([Serve::Instead("something else, oh".into())]);
    // Shorter than promised: the rest is asked for, and spoils the digest.
    rig.settle().await;
    let status = rig.report().leases.remove(0);
    assert_eq!(status.phase, GuestPhase::Retrying, "{status:?}");
    rig.pass(3).await;
    assert_eq!(rig.domains().len(), 1);

    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.uplink
        .script(vec![Serve::Instead("an entirely other image".into()); 3]);
    rig.pass(10).await;
    rig.assert_clean();
    let receipt = rig.receipt();
    assert_eq!(
        (receipt.reason, receipt.started_at),
        (EndReason::StartFailed, None)
    );
    assert!(
        receipt.detail.contains("has the digest sha256:"),
        "{}",
        receipt.detail
    );
}

#[tokio::test]
async fn an_unreachable_marketplace_is_waited_for() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.uplink.set_offline(true);
    rig.pass(200).await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Retrying);
    rig.uplink.set_offline(false);
    rig.pass(40).await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
}

#[tokio::test]
async fn what_libvirt_refuses_is_tried_thrice_and_reported() {
    let mut rig = Rig::new();
    rig.hypervisor.state().create_fails = vec![("no such bridge surplus0".into(), false); 3];
    rig.desire(&[ticket(1, 1)]);
    rig.pass(10).await;
    assert_eq!(rig.asked("create"), 3);
    rig.assert_clean();
    let receipt = rig.receipt();
    assert_eq!(receipt.reason, EndReason::StartFailed);
    assert_eq!(receipt.detail, "no such bridge surplus0");
}

#[tokio::test]
async fn a_domain_that_was_made_although_libvirt_complained_is_adopted() {
    let mut rig = Rig::new();
    rig.hypervisor.state().create_fails = vec![("timed out".into(), true)];
    rig.desire(&[ticket(1, 1)]);
    rig.pass(1).await;
    assert_eq!(rig.asked("create"), 1);
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
}

#[tokio::test]
async fn while_libvirt_is_away_nothing_is_judged() {
    let mut rig = Rig::new();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.hypervisor.state().unreachable = true;
    rig.pass(30).await;
    assert_eq!(rig.report().receipts, []);
    assert!(!rig.report().problems.is_empty());
    rig.hypervisor.state().unreachable = false;
    rig.pass(1).await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
    assert!(rig.report().problems.is_empty());
}

#[tokio::test]
async fn a_guest_that_does_not_fit_is_rejected_with_the_figures() {
    let mut rig = Rig::new();
    rig.engine.set_sellable(Resources {
        vcpus: 1,
        memory_bytes: 1 << 30,
        disk_bytes: 1 << 40,
        addresses: 0,
    });
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.assert_clean();
    assert!(
        rig.receipt().detail.contains("does not fit"),
        "{}",
        rig.receipt().detail
    );
    // Once is enough.
    rig.restart();
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.assert_clean();
}

/// The agent dies in the midst of any change that it makes to its ledger, at any
/// point of a lease's life, and its successor carries on.
#[tokio::test]
async fn the_agent_may_die_at_any_write() {
    let mut deaths = 0;
    for after in 0..200 {
        let mut rig = Rig::new();
        rig.hypervisor.state().obedient = after % 2 == 0;
        let ticket = ticket(1, 1);
        rig.disk.fail(after, usize::MAX, Fault::Death);
        rig.hypervisor.state().asker = Some(rig.disk.clone());
        rig.desire(std::slice::from_ref(&ticket));
        rig.settle().await;
        rig.pass(65).await;
        rig.bury(&ticket);
        rig.pass(11).await;
        if !rig.disk.is_dead() {
            break;
        }
        deaths += 1;
        rig.hypervisor.state().asker = None;
        rig.restart();
        rig.desire(std::slice::from_ref(&ticket));
        rig.settle().await;
        rig.bury(&ticket);
        rig.pass(11).await;
        rig.assert_clean();
        let receipt = rig.receipt();
        assert_eq!(
            (receipt.lease, receipt.epoch),
            (ticket.lease, 1),
            "change {after}"
        );
        assert!(rig.asked("create") <= 1, "change {after}");
        // And for good: the same ticket starts nothing any more.
        rig.desire(&[ticket]);
        rig.settle().await;
        rig.assert_clean();
    }
    assert!(
        deaths >= 10,
        "the scenario has become too short: {deaths} changes"
    );
}

#[tokio::test]
async fn the_handle_runs_a_guest_and_hands_over_its_receipt() {
    let rig = Rig::new();
    let (hypervisor, uplink) = (rig.hypervisor.clone(), rig.uplink.clone());
    hypervisor.state().obedient = true;
    let config = GuestsConfig {
        look_interval: Duration::from_millis(20),
        ..rig.config.clone()
    };
    let guests = Guests::start_with(
        config,
        Desired::default(),
        hypervisor,
        uplink,
        rig.clock.clone(),
    )
    .unwrap();
    let mut report = guests.report();
    let ticket = ticket(1, 1);
    guests.set_desired(Desired {
        tickets: vec![ticket.clone()],
        tombstones: Vec::new(),
        ..Desired::default()
    });
    let runs = report.wait_for(|report| {
        report
            .leases
            .first()
            .is_some_and(|lease| lease.phase == GuestPhase::Running)
    });
    drop(tokio::time::timeout(DEADLINE, runs).await.unwrap().unwrap());
    let Ticket { lease, epoch, .. } = ticket;
    let stone = Tombstone {
        lease,
        epoch,
        reason: EndReason::Reclaimed,
    };
    guests.set_desired(Desired {
        tickets: vec![ticket],
        tombstones: vec![stone],
        ..Desired::default()
    });
    let ended = report.wait_for(|report| report.receipts.len() == 1);
    drop(
        tokio::time::timeout(DEADLINE, ended)
            .await
            .unwrap()
            .unwrap(),
    );
    guests.acknowledge(Vec::new(), vec![ReceiptAck { lease, epoch }]);
    let settled = report.wait_for(|report| report.receipts.is_empty());
    drop(
        tokio::time::timeout(DEADLINE, settled)
            .await
            .unwrap()
            .unwrap(),
    );
}

#[tokio::test]
async fn an_order_for_what_ended_here_calls_its_receipt_back() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.bury(&ticket);
    rig.pass(20).await;
    let receipt = rig.receipt();
    let (lease, epoch) = (ticket.lease, ticket.epoch);
    rig.engine.acknowledge(&[], &[ReceiptAck { lease, epoch }]);
    rig.settle().await;
    assert!(rig.report().receipts.is_empty());
    // A marketplace that was restored from a backup knows of a running lease.
    rig.restart();
    rig.desire(&[ticket]);
    rig.settle().await;
    assert_eq!(rig.report().receipts, std::slice::from_ref(&receipt));
    assert!(rig.domains().is_empty(), "and it does not run again");
    // Or of nothing, and may have lost any.
    rig.engine.acknowledge(&[], &[ReceiptAck { lease, epoch }]);
    rig.engine.recall();
    assert_eq!(rig.report().receipts, std::slice::from_ref(&receipt));
    rig.restart();
    assert_eq!(rig.report().receipts, [receipt]);
}

#[tokio::test]
async fn a_refreshed_ticket_outlives_the_agent() {
    let mut rig = Rig::new();
    rig.hypervisor.state().unreachable = true;
    let old = ticket(1, 1);
    rig.desire(std::slice::from_ref(&old));
    rig.settle().await;
    let not_after = old.not_after + SignedDuration::from_secs(600);
    rig.desire(&[Ticket { not_after, ..old }]);
    rig.settle().await;
    rig.clock.advance(900_000);
    rig.restart();
    rig.hypervisor.state().unreachable = false;
    rig.settle().await;
    rig.settle().await;
    assert_eq!(rig.report().leases[0].phase, GuestPhase::Running);
}

#[tokio::test]
async fn time_that_nobody_saw_is_not_billed_while_libvirt_is_away() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.pass(70).await;
    // The guest is asked to stop, and is gone before anybody looks again.
    rig.bury(&ticket);
    rig.settle().await;
    rig.hypervisor.state().domains.clear();
    rig.hypervisor.state().unreachable = true;
    let reports = rig.report().usage.len();
    rig.pass(400).await;
    assert_eq!(rig.report().usage.len(), reports, "a record without a look");
    rig.hypervisor.state().unreachable = false;
    rig.settle().await;
    assert_eq!(rig.receipt().usage.running_millis, 70_000);
}

/// libvirt is gone for minutes, and the guest goes before it is back.
#[tokio::test]
async fn a_guest_whose_process_is_there_is_billed_while_libvirt_is_away() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.pass(7).await;
    rig.hypervisor.state().unreachable = true;
    rig.pass(300).await;
    rig.hypervisor.state().domains.clear();
    rig.pass(100).await;
    rig.hypervisor.state().unreachable = false;
    rig.settle().await;
    assert_eq!(rig.receipt().usage.running_millis, 307_000);
}

#[tokio::test]
async fn the_agents_death_costs_one_look_at_most() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.pass(59).await;
    rig.hypervisor.state().domains.clear();
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.receipt().usage.running_millis, 55_000);
}

/// The disk is full from now on.
fn fill_disk(rig: &mut Rig) {
    rig.disk.fail(0, usize::MAX, Fault::NoSpace);
}

#[tokio::test]
async fn a_lease_ends_on_a_full_disk_too() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    assert_eq!(rig.domains().len(), 1);
    fill_disk(&mut rig);
    let left = ticket.ends_at.duration_since(rig.clock.now());
    rig.clock.advance(u64::try_from(left.as_millis()).unwrap());
    rig.settle().await;
    assert_eq!(rig.domains(), [""; 0]);
    // The receipt follows once there is room.
    assert!(rig.report().receipts.is_empty());
    rig.disk.heal();
    rig.settle().await;
    assert_eq!(rig.receipt().reason, EndReason::Expired);
}

#[tokio::test]
async fn a_stop_is_asked_for_and_enforced_on_a_full_disk_too() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    fill_disk(&mut rig);
    rig.bury(&ticket);
    rig.settle().await;
    assert_eq!(rig.asked("shutdown"), 1);
    rig.pass(11).await;
    assert_eq!(rig.asked("shutdown"), 1);
    assert_eq!(rig.domains(), [""; 0]);
}

#[tokio::test]
async fn a_guest_found_running_on_a_full_disk_is_ended_too() {
    let mut rig = Rig::new();
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.lose_ledger();
    rig.restart();
    fill_disk(&mut rig);
    rig.settle().await;
    let left = ticket.ends_at.duration_since(rig.clock.now());
    rig.clock.advance(u64::try_from(left.as_millis()).unwrap());
    rig.settle().await;
    assert_eq!(rig.domains(), [""; 0]);
}

#[tokio::test]
async fn qemus_logs_go_with_the_guest_and_others_stay() {
    let mut rig = Rig::new();
    let logs = rig.config.state_dir.join("qemu-logs");
    std::fs::create_dir(&logs).unwrap();
    rig.config.qemu_log_dir = logs.clone();
    rig.restart();
    let ticket = ticket(1, 1);
    let name = Placement::of(&ticket).domain_name();
    for file in [
        format!("{name}.log"),
        format!("{name}.log.0"),
        format!("{name}2.log"),
    ] {
        std::fs::write(logs.join(file), b"qemu").unwrap();
    }
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    rig.bury(&ticket);
    rig.pass(11).await;
    let left: Vec<_> = logs
        .read_dir_utf8()
        .unwrap()
        .map(|it| it.unwrap().file_name().to_owned())
        .collect();
    assert_eq!(left, [format!("{name}2.log")]);
}

mod deadlines;
mod disk;
mod ports;
mod seats;
