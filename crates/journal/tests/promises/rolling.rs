//! Rolling: the chain goes on, old segments go.

use surplus_journal::medium::{Fault, Kept};
use surplus_journal::{Journal, Memory, Settings, Source as _, verify};

use super::host::{SETTINGS, bodies, every_power_cut};

#[test]
fn a_roll_keeps_the_chain_and_begins_with_the_snapshot() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let before = journal.append_all(&["a", "b", "c"]).unwrap();
    let after = journal.roll(&["a and c"]).unwrap();
    assert_eq!(after.position, before.position + 1);
    journal.append(b"d").unwrap();
    let report = verify(&memory).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.segments[0].head, Some(before));
    assert_eq!(report.segments[1].first, Some(before.position + 1));
    assert_eq!(report.head, Some(journal.head()));
    let (again, recovered) = Journal::open(memory, SETTINGS).unwrap();
    assert_eq!(bodies(&recovered), ["a and c", "d"]);
    assert_eq!(again.head(), journal.head());
    let positions: Vec<_> = recovered.entries.iter().map(|it| it.position).collect();
    assert_eq!(positions, [4, 5]);
}

#[test]
fn an_empty_snapshot_forgets_everything_but_the_position() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let head = journal.append_all(&["a", "b"]).unwrap();
    assert_eq!(journal.roll::<&str>(&[]).unwrap(), head);
    let (mut journal, recovered) = Journal::open(memory, SETTINGS).unwrap();
    assert_eq!(recovered.entries, []);
    assert_eq!(journal.append(b"c").unwrap().position, 3);
}

#[test]
fn so_many_older_snapshots_are_kept_as_were_asked_for() {
    for keep in 0..4 {
        let memory = Memory::new();
        let settings = Settings { keep, ..SETTINGS };
        let (mut journal, _) = Journal::open(memory.clone(), settings).unwrap();
        for round in 1..=6 {
            // A segment in between that continues and is no snapshot.
            memory.fail(1, 1, Fault::Io);
            journal.append(b"x").unwrap_err();
            journal.append(b"x").unwrap();
            journal.roll(&["snapshot"]).unwrap();
            let report = verify(&memory).unwrap();
            assert_eq!(report.findings, [""; 0]);
            let snapshots = report.segments.iter().filter(|it| it.snapshot).count();
            assert_eq!(snapshots, (keep + 1).min(round + 1));
            assert!(report.segments[0].snapshot);
        }
    }
}

#[test]
fn what_is_older_is_removed_only_after_the_new_segment_is_durable() {
    let memory = Memory::new();
    let settings = Settings {
        keep: 0,
        ..SETTINGS
    };
    let (mut journal, _) = Journal::open(memory.clone(), settings).unwrap();
    journal.append(b"a").unwrap();
    // What the roll is tried on: the opening is not what dies.
    let opened = |at| {
        let memory = memory.duplicate();
        let (journal, _) = Journal::open(memory.clone(), settings).unwrap();
        memory.fail(at, 1, Fault::Death);
        (memory, journal)
    };
    let (undisturbed, mut journal) = opened(usize::MAX / 2);
    let before = undisturbed.operations();
    journal.roll(&["snapshot"]).unwrap();
    let operations = undisturbed.operations() - before;
    assert!(operations >= 7);
    for at in 0..operations {
        let (memory, mut journal) = opened(at);
        let old = memory.list().unwrap();
        journal.roll(&["snapshot"]).ok();
        memory.power_cut(|_| Kept::Nothing);
        let names = memory.list().unwrap();
        let (_, recovered) = Journal::open(memory, settings).unwrap();
        let is_new = bodies(&recovered) == ["snapshot"];
        assert!(is_new || bodies(&recovered) == ["a"]);
        assert!(is_new || old.iter().all(|name| names.contains(name)));
    }
}

#[test]
fn removing_several_old_segments_leaves_no_gap_wherever_it_ends() {
    let settings = Settings {
        keep: 0,
        ..SETTINGS
    };
    for at in 0.. {
        let memory = Memory::new();
        let (mut journal, _) = Journal::open(memory.clone(), settings).unwrap();
        for _ in 0..3 {
            memory.fail(1, 1, Fault::Io);
            journal.append(b"lost").unwrap_err();
            journal.append(b"a").unwrap();
        }
        memory.fail(at, 1, Fault::Death);
        journal.roll(&["aaa"]).ok();
        if !memory.is_dead() {
            assert_eq!(memory.list().unwrap().len(), 1);
            break;
        }
        every_power_cut(&memory, 41, |memory| {
            let report = verify(memory).unwrap();
            assert_eq!(report.findings, [""; 0], "{report:?}");
            let (_, recovered) = Journal::open(memory.clone(), settings).unwrap();
            let bodies = bodies(&recovered);
            assert!(bodies == ["aaa"] || bodies == ["a"; 3], "{bodies:?}");
        });
    }
}

#[test]
fn a_segment_that_was_not_finished_is_removed_by_the_next_opening() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    memory.fail(2, 1, Fault::Death);
    journal.roll(&["snapshot"]).unwrap_err();
    memory.revive();
    let unfinished = "0000000000000002.new".to_owned();
    assert!(memory.list().unwrap().contains(&unfinished));
    let (_, recovered) = Journal::open(memory.clone(), SETTINGS).unwrap();
    assert_eq!(recovered.entries, []);
    assert!(!memory.list().unwrap().contains(&unfinished));
}

#[test]
fn a_roll_is_wanted_when_the_live_part_outgrows_its_size_and_twice_its_snapshot() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let mut appended = 0;
    while !journal.wants_roll() {
        journal.append(&[0; 100]).unwrap();
        appended += 1;
    }
    assert_eq!(appended, 7, "of 153 bytes each, beyond 1000");
    let (again, _) = Journal::open(memory.duplicate(), SETTINGS).unwrap();
    assert!(again.wants_roll());
    // A snapshot that is larger than the size does not make each append roll.
    journal.roll(&[[0; 2000]]).unwrap();
    let mut appended = 0;
    while !journal.wants_roll() {
        journal.append(&[0; 100]).unwrap();
        appended += 1;
    }
    assert_eq!(appended, 14);
    let (again, _) = Journal::open(memory, SETTINGS).unwrap();
    assert!(again.wants_roll());
}
