//! Damage to one of several segments, and segments that are gone or others'.

use sha2::{Digest as _, Sha256};
use surplus_journal::medium::Fault;
use surplus_journal::{
    Head, Journal, Memory, OpenError, ReadError, Recovered, Source as _, verify,
};

use super::host::{SETTINGS, bodies};

fn segment(number: u64) -> String {
    format!("{number:016x}.segment")
}

/// Segments 1 (history, with a snapshot), 2 (the base), 3 and 4 (its continuation
/// after failures).
fn four_segments() -> (Memory, Head) {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append_all(&["a", "b"]).unwrap();
    journal.roll(&["ab", "snapshot"]).unwrap();
    journal.append(b"c").unwrap();
    for body in ["d", "f"] {
        memory.fail(0, 1, Fault::Io);
        journal.append(b"lost").unwrap_err();
        journal.append(body.as_bytes()).unwrap();
        journal.append(b"more").unwrap();
    }
    let names = memory.list().unwrap();
    assert_eq!(names, [1, 2, 3, 4].map(segment));
    assert_eq!(verify(&memory).unwrap().head, Some(journal.head()));
    (memory, journal.head())
}

const ALL: [&str; 7] = ["ab", "snapshot", "c", "d", "more", "f", "more"];

fn open(memory: &Memory) -> (Head, Recovered) {
    let (journal, recovered) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let (_, same) = Journal::open(memory.clone(), SETTINGS).unwrap();
    assert_eq!(same.entries, recovered.entries);
    (journal.head(), recovered)
}

fn unchained(recovered: &Recovered) -> usize {
    recovered.entries.iter().filter(|it| !it.chained).count()
}

#[test]
fn a_flipped_bit_in_any_segment_is_found_and_costs_one_entry_at_most() {
    let (memory, head) = four_segments();
    for number in 1..=4 {
        let bytes = memory.read(&segment(number)).unwrap();
        // What a failed write left behind the end counts for nothing.
        let junk = if matches!(number, 2 | 3) { 28 } else { 0 };
        for at in 0..bytes.len() - junk {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let memory = memory.duplicate();
            memory.put(&segment(number), flipped);
            let findings = verify(&memory).unwrap().findings;
            let (now, recovered) = open(&memory);
            let told = recovered.set_aside.len() + usize::from(recovered.repaired.is_some());
            assert!(told == 1, "segment {number}, byte {at}: {recovered:?}");
            assert_eq!(findings, recovered.set_aside);
            let got = bodies(&recovered);
            if number == 1 {
                assert_eq!((got.as_slice(), now), (&ALL.map(String::from)[..], head));
                continue;
            }
            // With the snapshot damaged it is the one before, and what came after.
            let got = got
                .strip_prefix(&["a".to_owned(), "b".to_owned()])
                .unwrap_or(&got);
            let mut all = ALL.iter();
            let in_order = got.iter().all(|body| all.any(|it| it == body));
            assert!(
                in_order && got.len() >= ALL.len() - 1,
                "{number}, {at}: {got:?}"
            );
            assert!(recovered.repaired.is_some() || now.position > head.position);
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let (memory, head) = four_segments();
    memory.take(&segment(3));
    let (now, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["ab", "snapshot", "c", "f", "more"]);
    assert_eq!(unchained(&recovered), 2);
    assert_eq!(
        recovered.set_aside,
        [
            "0000000000000002.segment is unreadable after entry 5, and entries 6 to 7 are \
             nowhere else"
        ]
    );
    assert!(now.position > head.position);
    let (_, again) = open(&memory);
    assert_eq!(again.set_aside, [""; 0], "told once");

    // Where nothing trails, it can only be that a segment is gone.
    let (memory, _) = four_segments();
    let bytes = memory.read(&segment(2)).unwrap();
    memory.put(&segment(2), bytes[..bytes.len() - 28].to_vec());
    memory.take(&segment(3));
    let (_, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["ab", "snapshot", "c", "f", "more"]);
    assert_eq!(
        recovered.set_aside,
        [
            "entries 6 to 7 are missing between 0000000000000002.segment and \
             0000000000000004.segment: a segment was removed"
        ]
    );
}

#[test]
fn without_its_snapshot_the_journal_goes_back_to_the_one_before() {
    let (memory, _) = four_segments();
    memory.take(&segment(2));
    let (_, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["a", "b", "d", "more", "f", "more"]);
    assert_eq!(unchained(&recovered), 4);

    let (memory, _) = four_segments();
    memory.take(&segment(1));
    memory.take(&segment(2));
    let (_, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ALL[3..]);
    assert_eq!(
        recovered.set_aside,
        [
            "what the journal held before 0000000000000003.segment is missing: \
             a segment was removed"
        ]
    );
}

#[test]
fn the_end_of_a_snapshot_is_never_taken_for_a_torn_write() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append(b"a").unwrap();
    journal.roll(&["a", "z"]).unwrap();
    let bytes = memory.read(&segment(2)).unwrap();
    memory.put(&segment(2), bytes[..bytes.len() - 1].to_vec());
    let (_, recovered) = open(&memory);
    assert_eq!(
        recovered.set_aside,
        ["0000000000000002.segment is unreadable after entry 2"]
    );
    assert_eq!(bodies(&recovered), ["a", "a"]);
}

#[test]
fn an_unreadable_header_is_told_and_the_entries_behind_it_are_kept() {
    for number in 1..=4 {
        let (memory, head) = four_segments();
        let mut bytes = memory.read(&segment(number)).unwrap();
        bytes[..120].fill(0);
        memory.put(&segment(number), bytes.clone());
        let (now, recovered) = open(&memory);
        let told = format!("the header of {} is unreadable", segment(number));
        assert_eq!(recovered.set_aside, [told]);
        let got = bodies(&recovered);
        assert!(got.ends_with(&ALL.map(String::from)), "{got:?}");
        assert_eq!(now == head, number == 1);
        assert_eq!(
            memory.read(&format!("{number:016x}.damaged")).unwrap(),
            bytes
        );
    }
}

#[test]
fn a_journal_of_which_nothing_is_readable_begins_anew_and_keeps_the_files() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append_all(&["a", "b"]).unwrap();
    memory.put(&segment(1), vec![7; 5300]);
    let (head, recovered) = open(&memory);
    assert_eq!(recovered.entries, []);
    assert_eq!(recovered.set_aside.len(), 1);
    assert!(
        head.position >= 100,
        "positions that may have been are not used"
    );
    assert!(
        memory
            .list()
            .unwrap()
            .contains(&"0000000000000001.damaged".to_owned())
    );
    // And when somebody then takes the rest away, that is told.
    memory.take(&segment(2));
    let (_, recovered) = open(&memory);
    assert_eq!(
        recovered.set_aside,
        ["no segment of the journal is left: all its entries are gone"]
    );
}

#[test]
fn a_newer_version_is_refused_in_words_and_nothing_is_changed() {
    let (memory, _) = four_segments();
    let mut bytes = memory.read(&segment(3)).unwrap();
    bytes[8] = 2;
    let sum = Sha256::digest(&bytes[..12]);
    bytes[12..16].copy_from_slice(&sum[..4]);
    memory.put(&segment(3), bytes);
    memory.put("0000000000000009.new", vec![1]);
    let operations = memory.operations();
    let error = Journal::open(memory.clone(), SETTINGS).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the journal's segment 0000000000000003.segment is of version 2, and this program \
         knows only version 1; nothing was changed: start the newer program again, or move \
         the journal away to begin a new one"
    );
    assert!(matches!(error, OpenError::Read(ReadError::Newer { .. })));
    assert_eq!(memory.operations(), operations);
}

#[test]
fn a_segment_of_another_journal_or_another_past_is_not_mixed_in() {
    let other = Memory::new();
    let mut settings = SETTINGS;
    settings.id = *b"a stranger's id.";
    let (mut journal, _) = Journal::open(other.clone(), settings).unwrap();
    journal.append(b"stranger").unwrap();
    let (memory, head) = four_segments();
    memory.put(&segment(1), other.read(&segment(1)).unwrap());
    let (now, recovered) = open(&memory);
    assert_eq!(
        (bodies(&recovered).as_slice(), now),
        (&ALL.map(String::from)[..], head)
    );
    assert_eq!(recovered.set_aside.len(), 1);
    assert!(recovered.set_aside[0].contains("belongs to another journal"));

    // Another past of the same journal: the history that does not lead to the
    // snapshot is what goes.
    let (memory, head) = four_segments();
    let other = Memory::new();
    let (mut journal, _) = Journal::open(other.clone(), SETTINGS).unwrap();
    journal.append_all(&["x", "y"]).unwrap();
    memory.put(&segment(1), other.read(&segment(1)).unwrap());
    let (now, recovered) = open(&memory);
    assert_eq!(
        (bodies(&recovered).as_slice(), now),
        (&ALL.map(String::from)[..], head)
    );
    assert!(recovered.set_aside[0].contains("does not continue"));
    assert!(!memory.list().unwrap().contains(&segment(1)));

    // Within the live part the newer one does not fit, and is taken with a mark.
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append_all(&["p", "q"]).unwrap();
    memory.fail(0, 1, Fault::Io);
    journal.append(b"lost").unwrap_err();
    journal.append(b"r").unwrap();
    memory.put(&segment(1), other.read(&segment(1)).unwrap());
    let (_, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["x", "y", "r"]);
    assert_eq!(unchained(&recovered), 1);
    assert!(
        memory
            .list()
            .unwrap()
            .contains(&"0000000000000002.damaged".to_owned())
    );
}
