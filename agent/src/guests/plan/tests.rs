use newtype_uuid::GenericUuid as _;
use uuid::Uuid;

use super::super::hypervisor::DomainUsage;
use super::super::record::{Record, Stage};
use super::super::store::{LedgerEntry, ledger_entry};
use super::super::test_ticket;
use super::*;

/// A scripted world; each test says what differs from an empty one.
struct Script {
    now: Timestamp,
    boot_millis: u64,
    desired: Desired,
    ledger: Ledger,
    records: BTreeMap<Placement, Record>,
    receipts: BTreeMap<Placement, EndReceipt>,
    kept: BTreeMap<Placement, EndReceipt>,
    domains: Option<Vec<ObservedDomain>>,
    making: BTreeMap<Placement, Making>,
    guest_dirs: Vec<Placement>,
    sellable: Option<Resources>,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn script(now: i64) -> Script {
    Script {
        now: at(now),
        boot_millis: 0,
        desired: Desired::default(),
        ledger: Ledger::new(),
        records: BTreeMap::new(),
        receipts: BTreeMap::new(),
        kept: BTreeMap::new(),
        domains: Some(Vec::new()),
        making: BTreeMap::new(),
        guest_dirs: Vec::new(),
        sellable: None,
    }
}

impl Script {
    fn ticket(mut self, ticket: Ticket) -> Self {
        self.desired.tickets.push(ticket);
        self
    }

    fn tombstone(mut self, lease: u128, epoch: u64, reason: EndReason) -> Self {
        let lease = test_ticket(lease, epoch).lease;
        self.desired.tombstones.push(Tombstone {
            lease,
            epoch,
            reason,
        });
        self
    }

    fn record(mut self, ticket: Ticket, stage: Stage) -> Self {
        self.ledger.insert(ticket.lease, ledger_entry(&ticket));
        let record = Record {
            stage,
            started_at: Some(at(1100)),
            ..Record::new(ticket, Seat::try_from(1).unwrap())
        };
        self.records.insert(record.placement(), record);
        self
    }

    fn seen(mut self, ticket: &Ticket) -> Self {
        self.ledger.insert(ticket.lease, ledger_entry(ticket));
        self
    }

    /// Its fence falls now, so many milliseconds after boot.
    fn fenced(mut self, ticket: &Ticket, boot_millis: u64) -> Self {
        let placement = Placement::of(ticket);
        self.desired.fenced_by.insert(placement, boot_millis);
        self.boot_millis = boot_millis;
        self
    }

    fn domain(mut self, ticket: &Ticket, state: DomainState) -> Self {
        use base64::Engine as _;
        let json = serde_json::to_vec(ticket).unwrap();
        let json = base64::engine::general_purpose::STANDARD.encode(json);
        let metadata = format!("<guest ticket=\"{json}\" seat=\"7\"/>");
        let name = Placement::of(ticket).domain_name();
        let domain = ObservedDomain {
            name,
            state,
            metadata: metadata.into(),
            usage: DomainUsage::default(),
        };
        self.domains.as_mut().unwrap().push(domain);
        self
    }

    fn making(mut self, ticket: &Ticket, making: Making) -> Self {
        self.making.insert(Placement::of(ticket), making);
        self
    }

    fn blind(mut self) -> Self {
        self.domains = None;
        self
    }

    /// The plan as text, with short names for the tests' leases.
    fn plan(&self) -> String {
        let plan = plan(&World {
            now: self.now,
            boot_millis: self.boot_millis,
            host: HostId::from_untyped_uuid(Uuid::from_u128(1)),
            boot: BootId::from_untyped_uuid(Uuid::from_u128(1)),
            desired: &self.desired,
            ledger: &self.ledger,
            records: &self.records,
            domains: self.domains.as_deref(),
            making: &self.making,
            receipts: &self.receipts,
            kept: &self.kept,
            guest_dirs: &self.guest_dirs,
            sellable: self.sellable,
            grace: SignedDuration::from_secs(10),
        });
        let mut lines: Vec<_> = plan.steps.iter().map(Step::to_string).collect();
        lines.extend(
            plan.problems
                .iter()
                .map(|problem| format!("problem: {problem}")),
        );
        lines.extend(
            plan.wake_at
                .map(|at| format!("wake at {} s", at.as_second())),
        );
        lines
            .join("\n")
            .replace("00000000-0000-0000-0000-00000000000", "")
    }
}

fn running() -> Script {
    let ticket = test_ticket(1, 2);
    script(1200)
        .domain(&ticket, DomainState::Running)
        .record(ticket, Stage::Running)
}

#[test]
fn a_ticket_becomes_a_guest_step_by_step() {
    let ticket = test_ticket(1, 1);
    insta::assert_snapshot!(script(1200).ticket(ticket.clone()).plan(), @"accept 1.1");
    let accepted = || {
        script(1200)
            .ticket(ticket.clone())
            .record(ticket.clone(), Stage::Accepted)
    };
    insta::assert_snapshot!(accepted().plan(), @r"
    prepare 1.1
    wake at 2000 s
    ");
    insta::assert_snapshot!(accepted().making(&ticket, Making::Working).plan(), @"wake at 2000 s");
    insta::assert_snapshot!(accepted().making(&ticket, Making::Ready).plan(), @r"
    start 1.1
    wake at 2000 s
    ");
    let starting = Stage::Starting { since: at(1100) };
    let world = script(1200)
        .domain(&ticket, DomainState::Running)
        .record(ticket, starting);
    insta::assert_snapshot!(world.plan(), @"adopt 1.1");
}

#[test]
fn absence_stops_nothing() {
    insta::assert_snapshot!(running().plan(), @"wake at 4990 s");
}

#[test]
fn a_tombstone_stops_its_epoch_and_older_ones_only() {
    insta::assert_snapshot!(
        running().tombstone(1, 1, EndReason::Ended).plan(),
        @r"
    close 1.1
    wake at 4990 s
    "
    );
    insta::assert_snapshot!(
        running().tombstone(1, 2, EndReason::Ended).plan(),
        @"ask 1.2 to stop until 1970-01-01T00:20:10Z: Ended, the marketplace ended it"
    );
    insta::assert_snapshot!(
        running().ticket(test_ticket(1, 2)).tombstone(1, 3, EndReason::Reclaimed).plan(),
        @r"
    ask 1.2 to stop until 1970-01-01T00:20:10Z: Reclaimed, the marketplace ended it
    close 1.3
    "
    );
}

#[test]
fn a_stop_for_what_never_was_here_is_answered() {
    let world = script(1200)
        .tombstone(1, 2, EndReason::Ended)
        .ticket(test_ticket(1, 2));
    insta::assert_snapshot!(world.plan(), @"close 1.2");
}

#[test]
fn an_older_epoch_is_refused() {
    let world = script(1200)
        .seen(&test_ticket(1, 3))
        .ticket(test_ticket(1, 2));
    insta::assert_snapshot!(
        world.plan(),
        @"problem: ticket 1.2 is refused: epoch 3 of the lease was here already"
    );
    // The same epoch was seen through to its end: nothing to say.
    let world = script(1200)
        .seen(&test_ticket(1, 3))
        .ticket(test_ticket(1, 3));
    insta::assert_snapshot!(world.plan(), @"");
}

#[test]
fn a_ticket_for_another_host_or_boot_is_refused() {
    let mut foreign = test_ticket(1, 1);
    foreign.host = HostId::from_untyped_uuid(Uuid::from_u128(2));
    let mut stale = test_ticket(2, 1);
    stale.boot = BootId::from_untyped_uuid(Uuid::from_u128(3));
    insta::assert_snapshot!(script(1200).ticket(foreign).ticket(stale).plan(), @r"
    problem: ticket 1.1 is refused: it is for host 2
    problem: ticket 2.1 is refused: it is for boot 3 of this host
    ");
}

#[test]
fn a_newer_epoch_starts_only_after_the_older_is_gone() {
    let world = running().ticket(test_ticket(1, 3));
    insta::assert_snapshot!(
        world.plan(),
        @"ask 1.2 to stop until 1970-01-01T00:20:10Z: Reclaimed, it was placed anew, as epoch 3"
    );
    let world = script(1200)
        .seen(&test_ticket(1, 2))
        .ticket(test_ticket(1, 3));
    insta::assert_snapshot!(world.plan(), @"accept 1.3");
}

#[test]
fn the_end_is_asked_for_in_time_and_enforced_exactly() {
    let mut world = running();
    world.now = at(4990);
    insta::assert_snapshot!(
        world.plan(),
        @"ask 1.2 to stop until 1970-01-01T01:23:20Z: Expired, the lease's window was over"
    );
    let why = Ending::new(EndReason::Expired, "the lease's window was over");
    let ticket = test_ticket(1, 2);
    let stopping = |now| {
        let stage = Stage::Stopping {
            why: why.clone(),
            kill_at: at(5000),
        };
        script(now)
            .domain(&ticket, DomainState::Running)
            .record(ticket.clone(), stage)
    };
    insta::assert_snapshot!(stopping(4999).plan(), @"wake at 5000 s");
    insta::assert_snapshot!(stopping(5000).plan(), @"destroy 1.2");
    let stage = Stage::Stopping {
        why: why.clone(),
        kill_at: at(5000),
    };
    let gone = script(5000).record(ticket.clone(), stage);
    insta::assert_snapshot!(gone.plan(), @"finish 1.2: Expired, the lease's window was over");
}

#[test]
fn nothing_starts_after_its_ticket_ran_out() {
    let ticket = test_ticket(1, 1);
    let failed = Making::Failed {
        retry_at: at(2002),
        detail: "no route".into(),
    };
    let world = script(2001)
        .making(&ticket, failed)
        .record(ticket.clone(), Stage::Accepted);
    insta::assert_snapshot!(
        world.plan(),
        @"finish 1.1: StartFailed, it could not be started before its ticket ran out: no route"
    );
    let ready = script(2001)
        .making(&ticket, Making::Ready)
        .record(ticket, Stage::Accepted);
    assert!(!ready.plan().contains("start 1.1"), "{}", ready.plan());
}

#[test]
fn failures_are_tried_again_in_time_or_reported() {
    let ticket = test_ticket(1, 1);
    let accepted = || script(1200).record(ticket.clone(), Stage::Accepted);
    let failed = |second| Making::Failed {
        retry_at: at(second),
        detail: "no route".into(),
    };
    insta::assert_snapshot!(accepted().making(&ticket, failed(1300)).plan(), @"wake at 1300 s");
    insta::assert_snapshot!(accepted().making(&ticket, failed(1200)).plan(), @r"
    prepare 1.1
    wake at 2000 s
    ");
    let hopeless = Making::Hopeless {
        detail: "not qcow2".into(),
    };
    insta::assert_snapshot!(accepted().making(&ticket, hopeless).plan(), @r"
    finish 1.1: StartFailed, not qcow2
    wake at 2000 s
    ");
}

#[test]
fn a_guest_that_stopped_by_itself_ends_its_lease() {
    let mut world = running();
    world.domains = Some(Vec::new());
    insta::assert_snapshot!(
        world.plan(),
        @"finish 1.2: GuestStopped, the guest stopped by itself"
    );
    let ticket = test_ticket(1, 2);
    let dead = script(1200)
        .domain(&ticket, DomainState::Dead)
        .record(ticket, Stage::Running);
    insta::assert_snapshot!(dead.plan(), @"destroy 1.2");
}

#[test]
fn without_libvirt_nothing_is_judged() {
    insta::assert_snapshot!(running().blind().plan(), @"wake at 5000 s");
    let mut late = running().blind();
    late.now = at(6000);
    insta::assert_snapshot!(
        late.plan(),
        @r"
    destroy 1.2
    problem: lease 1.2 is past its end, and libvirt cannot be asked whether it runs
    "
    );
    let ticket = test_ticket(1, 1);
    let starting = Stage::Starting { since: at(1100) };
    let world = script(6000).record(ticket.clone(), starting).blind();
    insta::assert_snapshot!(world.plan(), @"");
    let mut files = script(1200).blind();
    files.guest_dirs.push(Placement::of(&ticket));
    insta::assert_snapshot!(files.plan(), @"");
}

#[test]
fn a_guest_whose_record_is_lost_is_adopted_unless_a_later_epoch_was_here() {
    let ticket = test_ticket(1, 2);
    let orphan = || script(1200).domain(&ticket, DomainState::Running);
    insta::assert_snapshot!(orphan().plan(), @"adopt orphan 1.2 in seat 7");
    insta::assert_snapshot!(orphan().seen(&ticket).plan(), @"adopt orphan 1.2 in seat 7");
    let entry = LedgerEntry::until(3, at(9000));
    let mut overtaken = orphan();
    overtaken.ledger.insert(ticket.lease, entry);
    insta::assert_snapshot!(
        overtaken.plan(),
        @"destroy stray lease-1.2: a later epoch of its lease was here"
    );
    let mut strange = script(1200);
    let name = "other".to_owned();
    strange.domains = Some(vec![ObservedDomain {
        name,
        state: DomainState::Running,
        metadata: "<guest/>".into(),
        usage: DomainUsage::default(),
    }]);
    insta::assert_snapshot!(
        strange.plan(),
        @"problem: domain other is left alone: the metadata holds no ticket"
    );
}

#[test]
fn files_that_no_record_stands_behind_are_removed() {
    let mut world = running();
    world.guest_dirs = vec![
        Placement::of(&test_ticket(1, 2)),
        Placement::of(&test_ticket(7, 1)),
    ];
    insta::assert_snapshot!(world.plan(), @r"
    remove leftovers of 7.1
    wake at 4990 s
    ");
}

#[test]
fn a_lease_larger_than_what_is_left_is_rejected_and_the_next_one_fits() {
    let small = |lease| {
        let mut ticket = test_ticket(lease, 1);
        ticket.guest.resources = Resources {
            vcpus: 1,
            memory_bytes: 1 << 29,
            disk_bytes: 1 << 30,
            addresses: 0,
        };
        ticket
    };
    let mut world = script(1200)
        .record(small(1), Stage::Accepted)
        .ticket(test_ticket(2, 1))
        .ticket(small(3));
    let both =
        footprint(small(1).guest.resources).saturating_add(footprint(small(3).guest.resources));
    world.sellable = Some(both);
    let text = world.plan();
    assert!(
        text.contains("reject 2.1: the guest does not fit: it takes 2 vCPUs"),
        "{text}"
    );
    assert!(text.contains("accept 3.1"), "{text}");
}

#[test]
fn a_guest_of_an_earlier_boot_is_closed() {
    let mut ticket = test_ticket(1, 1);
    ticket.boot = BootId::from_untyped_uuid(Uuid::from_u128(9));
    let world = script(1200).record(ticket, Stage::Running);
    insta::assert_snapshot!(world.plan(), @"finish 1.1: HostRebooted, the host rebooted");
}

#[test]
fn removing_comes_before_adding() {
    let world = running()
        .tombstone(1, 2, EndReason::Ended)
        .ticket(test_ticket(2, 1));
    insta::assert_snapshot!(world.plan(), @r"
    ask 1.2 to stop until 1970-01-01T00:20:10Z: Ended, the marketplace ended it
    accept 2.1
    ");
}

#[test]
fn a_ticket_signed_anew_may_start_for_longer() {
    let old = test_ticket(1, 2);
    let renewed = Ticket {
        not_after: at(2600),
        ..old.clone()
    };
    for stage in [Stage::Accepted, Stage::Starting { since: at(1900) }] {
        let world = script(2100)
            .record(old.clone(), stage)
            .making(&old, Making::Ready)
            .ticket(renewed.clone());
        let plan = world.plan();
        assert!(plan.contains("refresh 1.2"), "{plan}");
        assert!(plan.contains("start 1.2"), "{plan}");
    }
    // Another epoch, another guest or another boot's refreshes nothing.
    let mut other = renewed.clone();
    other.guest.name = "another".into();
    let boot = Ticket {
        boot: BootId::from_untyped_uuid(Uuid::from_u128(7)),
        ..renewed
    };
    for ticket in [old.clone(), other, boot] {
        let world = script(2100)
            .record(old.clone(), Stage::Accepted)
            .ticket(ticket);
        let plan = world.plan();
        assert!(plan.contains("finish 1.2"), "{plan}");
    }
}

/// The guard ended it while the agent could not: the receipt tells why.
#[test]
fn a_guest_that_is_gone_once_its_fence_fell_was_lost_with_its_link() {
    let lease = test_ticket(1, 1);
    let running = script(1200).record(lease.clone(), Stage::Running);
    let mut script = running.fenced(&lease, 160_000);
    assert_eq!(
        script.plan(),
        "finish 1.1: LinkLost, the marketplace was silent for longer than the lease allows"
    );
    script.boot_millis = 159_999;
    assert!(script.plan().starts_with("finish 1.1: GuestStopped"));
}

/// An agent that was stopped for long finds a guest ready, and has not heard
/// that its fence fell meanwhile.
#[test]
fn a_guest_is_not_started_once_its_fence_fell() {
    let lease = test_ticket(1, 1);
    let ready = script(1200)
        .record(lease.clone(), Stage::Accepted)
        .making(&lease, Making::Ready);
    let mut script = ready.fenced(&lease, 160_000);
    assert_eq!(
        script.plan(),
        "finish 1.1: LinkLost, the marketplace was silent for longer than the lease allows"
    );
    script.boot_millis = 159_999;
    assert!(script.plan().starts_with("start 1.1"));
}

#[test]
fn a_stop_for_what_ended_here_is_answered_by_the_receipt_that_is_there() {
    let ticket = test_ticket(1, 1);
    let placement = Placement::of(&ticket);
    let receipt = || {
        let ending = Ending::new(EndReason::Ended, "over");
        Record::new(ticket.clone(), Seat::try_from(1).unwrap()).receipt(ending, at(1500))
    };
    let stopped = || script(1600).seen(&ticket).tombstone(1, 1, EndReason::Ended);
    let (mut sent, mut kept) = (stopped(), stopped());
    sent.receipts.insert(placement, receipt());
    kept.kept.insert(placement, receipt());
    assert_eq!((sent.plan(), kept.plan()), Default::default());
    insta::assert_snapshot!(stopped().plan(), @"close 1.1");
}
