use jiff::Timestamp;
use proptest::prelude::*;
use surplus_journal::Memory;
use surplus_protocol::lease::EndReason;
use surplus_seat::Seat;

use super::super::meter::Sample;
use super::super::record::{Ending, Stage};
use super::super::test_ticket;
use super::*;

fn open(disk: &Memory) -> Store {
    Store::open_on(Box::new(disk.clone()), [1; 16]).unwrap()
}

fn seat() -> Seat {
    Seat::try_from(3).unwrap()
}

fn ending() -> Ending {
    Ending::new(EndReason::Expired, "over")
}

/// Something that the engine writes, by lease.
#[derive(Clone, Debug)]
enum Act {
    Accept(u8),
    Run(u8),
    Use(u8, u16),
    Acknowledge(u8),
    End(u8),
    KeepReceipt(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let lease = 1_u8..4;
    prop_oneof![
        lease.clone().prop_map(Act::Accept),
        lease.clone().prop_map(Act::Run),
        (lease.clone(), any::<u16>()).prop_map(|(lease, millis)| Act::Use(lease, millis)),
        lease.clone().prop_map(Act::Acknowledge),
        lease.clone().prop_map(Act::End),
        lease.prop_map(Act::KeepReceipt),
    ]
}

/// What the engine keeps in memory, beside the store.
#[derive(Default)]
struct Model {
    records: BTreeMap<Placement, Record>,
    receipts: BTreeMap<Placement, EndReceipt>,
    millis: u64,
}

impl Model {
    fn act(&mut self, store: &mut Store, act: &Act) {
        let (Act::Accept(lease)
        | Act::Run(lease)
        | Act::Use(lease, _)
        | Act::Acknowledge(lease)
        | Act::End(lease)
        | Act::KeepReceipt(lease)) = *act;
        let ticket = test_ticket(lease.into(), 1);
        let placement = Placement::of(&ticket);
        if matches!(act, Act::Accept(_)) && !self.receipts.contains_key(&placement) {
            let seen = store.load().ledger.contains_key(&placement.lease);
            if !seen {
                self.records.insert(placement, Record::new(ticket, seat()));
            }
        }
        if let Act::KeepReceipt(_) = act {
            store.keep_receipt(placement).unwrap();
            self.receipts.remove(&placement);
        }
        let Some(record) = self.records.get_mut(&placement) else {
            return;
        };
        match act {
            Act::Accept(_) | Act::KeepReceipt(_) => {}
            Act::Run(_) => {
                record.stage = Stage::Running;
                record.started_at = Timestamp::from_second(9).ok();
            }
            Act::Use(_, millis) => {
                self.millis += u64::from(*millis);
                record.meter.sample(Sample {
                    at_boot_millis: self.millis,
                    running: true,
                    ..Sample::default()
                });
                record.meter.record(placement, Timestamp::UNIX_EPOCH);
            }
            Act::Acknowledge(_) => {
                let last = record.meter.unacknowledged().last().map_or(0, |it| it.seq);
                record.meter.acknowledge(last.saturating_sub(1));
            }
            Act::End(_) => {
                let receipt = record.receipt(ending(), Timestamp::UNIX_EPOCH);
                store.save_receipt(&receipt).unwrap();
                self.receipts.insert(placement, receipt);
                self.records.remove(&placement);
                return;
            }
        }
        store.save(record).unwrap();
    }
}

proptest! {
    #[test]
    fn what_was_saved_is_there_for_the_next_agent(acts in prop::collection::vec(act(), 0..80)) {
        let disk = Memory::new();
        let mut store = open(&disk);
        let mut model = Model::default();
        for act in &acts {
            model.act(&mut store, act);
            if matches!(act, Act::Run(_)) {
                store.roll();
            }
            if matches!(act, Act::Acknowledge(_)) {
                disk.power_cut(|_| surplus_journal::medium::Kept::Nothing);
                store = open(&disk);
            }
        }
        let loaded = open(&disk).load();
        prop_assert_eq!(loaded.records, model.records);
        prop_assert_eq!(loaded.receipts, model.receipts);
        prop_assert!(loaded.set_aside.is_empty());
    }
}

#[test]
fn a_lease_of_many_days_leaves_a_ledger_of_bounded_size() {
    let disk = Memory::new();
    let mut store = open(&disk);
    let mut record = Record::new(test_ticket(1, 1), seat());
    record.ticket.guest.user_data = Some("x".repeat(50_000));
    for minute in 0..20_000_u64 {
        record.meter.sample(Sample {
            at_boot_millis: minute * 60_000,
            running: true,
            ..Sample::default()
        });
        let made = record
            .meter
            .record(record.placement(), Timestamp::UNIX_EPOCH);
        store.save(&record).unwrap();
        record.meter.acknowledge(made.seq);
    }
    let names = surplus_journal::Source::list(&disk).unwrap();
    let bytes = |name: &String| surplus_journal::Source::read(&disk, name).unwrap().len();
    let all: usize = names.iter().map(bytes).sum();
    assert!(all < 4 << 20, "{all} bytes");
    let loaded = open(&disk).load();
    assert_eq!(loaded.records[&record.placement()].ticket, record.ticket);
}

#[test]
fn an_entry_that_nobody_understands_is_reported_and_the_rest_is_kept() {
    let disk = Memory::new();
    let mut store = open(&disk);
    store
        .journal
        .append(br#"{"entry":"from the future"}"#)
        .unwrap();
    store.save(&Record::new(test_ticket(1, 3), seat())).unwrap();
    let loaded = open(&disk).load();
    assert_eq!(loaded.records.len(), 1);
    assert_eq!(loaded.set_aside.len(), 1, "{:?}", loaded.set_aside);
    // The ledger line was never written, and is made up for.
    assert_eq!(loaded.ledger[&test_ticket(1, 3).lease].epoch, 3);
}

#[test]
fn an_ended_lease_does_not_rise_from_what_was_salvaged_behind_damage() {
    let mut loaded = Loaded::default();
    let ticket = test_ticket(1, 3);
    let accepted = || Entry::Accepted {
        ticket: Box::new(ticket.clone()),
        seat: seat(),
        node: None,
    };
    let mut record = Record::new(ticket.clone(), seat());
    let receipt = record.receipt(ending(), Timestamp::UNIX_EPOCH);
    let placement = Placement::of(&ticket);
    for entry in [
        accepted(),
        Entry::Ended { receipt },
        Entry::Acknowledged { placement },
        accepted(),
    ] {
        entry.apply(&mut loaded);
    }
    assert!(loaded.records.is_empty() && loaded.receipts.is_empty());
    assert_eq!(loaded.ledger[&ticket.lease].epoch, 3);
}

#[test]
fn two_agents_do_not_write_to_one_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let state = Utf8Path::from_path(dir.path()).unwrap().join("surplus");
    let first = Store::open(&state).unwrap();
    let second = Store::open(&state).map(drop).unwrap_err();
    assert!(matches!(second, StoreError::Directory(_)), "{second:?}");
    drop(first);
    Store::open(&state).unwrap();
}

#[test]
fn an_acknowledged_receipt_is_kept_and_can_be_called_back() {
    let disk = Memory::new();
    let mut store = open(&disk);
    let mut placements = Vec::new();
    for lease in 0..=u128::try_from(KEPT_AT_MOST).unwrap() {
        let mut record = Record::new(test_ticket(lease + 1, 1), seat());
        store.save(&record).unwrap();
        let ended_at = Timestamp::from_second(i64::try_from(lease).unwrap()).unwrap();
        let receipt = record.receipt(ending(), ended_at);
        store.save_receipt(&receipt).unwrap();
        store.keep_receipt(record.placement()).unwrap();
        placements.push(record.placement());
    }
    store.roll();
    let mut store = open(&disk);
    let loaded = store.load();
    assert!(loaded.receipts.is_empty());
    assert_eq!(loaded.kept.len(), KEPT_AT_MOST, "the oldest is gone");
    assert!(!loaded.kept.contains_key(&placements[0]));
    store.recall_receipt(placements[1]).unwrap();
    let loaded = open(&disk).load();
    assert!(loaded.receipts.contains_key(&placements[1]));
    assert!(!loaded.kept.contains_key(&placements[1]));
}
