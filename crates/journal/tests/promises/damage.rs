//! Bits that flip, files that are cut: found, told, and nothing else lost.

use surplus_journal::{Head, Journal, Memory, Recovered, Source as _};

use super::host::{SETTINGS, bodies};

const BODIES: [&str; 6] = ["one", "", "three", "four", "five five", "six"];
const HEADER: usize = 152;
const OVERHEAD: usize = 53;
const SEGMENT: &str = "0000000000000001.segment";

/// A journal of one segment, its head, and where each entry ends.
fn one_segment() -> (Memory, Head, Vec<usize>) {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let mut ends = Vec::new();
    let mut end = HEADER;
    for body in BODIES {
        journal.append(body.as_bytes()).unwrap();
        end += OVERHEAD + body.len();
        ends.push(end);
    }
    assert_eq!(memory.read(SEGMENT).unwrap().len(), end);
    (memory, journal.head(), ends)
}

/// Opens, and sees that opening again tells the same and nothing new.
fn open(memory: &Memory) -> (Head, Recovered) {
    let (journal, recovered) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let (again, same) = Journal::open(memory.clone(), SETTINGS).unwrap();
    assert_eq!(same.entries, recovered.entries);
    assert_eq!((same.repaired, same.set_aside), (None, Vec::new()));
    assert_eq!(again.head(), journal.head());
    (journal.head(), recovered)
}

#[test]
fn a_file_cut_anywhere_gives_the_entries_before_the_cut() {
    let (memory, head, ends) = one_segment();
    let bytes = memory.read(SEGMENT).unwrap();
    for cut in 0..=bytes.len() {
        let memory = memory.duplicate();
        memory.put(SEGMENT, bytes[..cut].to_vec());
        let (now, recovered) = open(&memory);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(bodies(&recovered), BODIES[..whole], "cut at {cut}");
        if cut < HEADER {
            assert_eq!(recovered.set_aside.len(), 1);
            assert_ne!(now.hash, head.hash);
        } else {
            let clean = cut == HEADER || ends.contains(&cut);
            assert_eq!(recovered.repaired.is_none(), clean, "cut at {cut}");
            assert_eq!(recovered.set_aside, [""; 0]);
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_costs_its_own_entry_at_most() {
    let (memory, head, ends) = one_segment();
    let bytes = memory.read(SEGMENT).unwrap();
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (bit % 8);
        let memory = memory.duplicate();
        memory.put(SEGMENT, flipped.clone());
        let (now, recovered) = open(&memory);
        let hit = ends
            .iter()
            .position(|end| at < *end)
            .filter(|_| at >= HEADER);
        let mut expected = BODIES.to_vec();
        let in_hash = hit.is_some_and(|hit| at >= ends[hit] - 32);
        match hit {
            Some(5) => drop(expected.remove(5)),
            // The next entry vouches for one whose checksum is what was hit.
            Some(hit) if !in_hash => drop(expected.remove(hit)),
            _ => {}
        }
        assert_eq!(bodies(&recovered), expected, "bit {bit}");
        if hit == Some(5) {
            assert!(recovered.repaired.is_some());
            continue;
        }
        assert_eq!(recovered.set_aside.len(), 1, "bit {bit}");
        let kept = memory.read("0000000000000001.damaged").unwrap();
        assert_eq!(kept, flipped);
        assert!(now.position > head.position, "a position is used again");
        let chained = recovered.entries.iter().filter(|it| it.chained).count();
        assert_eq!(
            chained,
            match hit {
                None if at < HEADER - 32 => 0,
                Some(hit) if !in_hash => hit,
                _ => BODIES.len(),
            }
        );
    }
}

#[test]
fn a_head_after_damage_is_no_head_that_the_journal_could_have_had() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append(b"a").unwrap();
    // Nothing is lost, and the undamaged journal would go on with the same words
    // at the same position.
    let mut bytes = memory.read(SEGMENT).unwrap();
    bytes[HEADER - 1] ^= 1;
    memory.put(SEGMENT, bytes);
    let (damaged, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["a"]);
    let undamaged = journal.roll(&["a"]).unwrap();
    assert_eq!(damaged.position, undamaged.position);
    assert_ne!(damaged.hash, undamaged.hash);
}

#[test]
fn what_looks_like_an_entry_inside_a_body_is_none() {
    // Another journal's records: whole, but for the journal they belong to.
    let stranger = Memory::new();
    let mut settings = SETTINGS;
    settings.id = *b"a stranger's id.";
    let (mut journal, _) = Journal::open(stranger.clone(), settings).unwrap();
    journal.append_all(&["a", "b", "forged"]).unwrap();
    let theirs = stranger.read(SEGMENT).unwrap();
    let from = HEADER + OVERHEAD + 1 + OVERHEAD + 1 - 32;
    let body = [&theirs[from..], b"and more"].concat();

    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    journal.append_all(&["a", "b"]).unwrap();
    journal.append(&body).unwrap();
    let bytes = memory.read(SEGMENT).unwrap();
    memory.put(SEGMENT, bytes[..bytes.len() - 1].to_vec());
    let (_, recovered) = open(&memory);
    assert_eq!(bodies(&recovered), ["a", "b"]);
    assert_eq!(recovered.set_aside, [""; 0]);
    assert!(recovered.repaired.is_some());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_lose_what_stands_before_them(
        from in 0..600_usize,
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
    ) {
        let (memory, _, ends) = one_segment();
        let mut bytes = memory.read(SEGMENT).unwrap();
        bytes.truncate(from);
        let from = bytes.len();
        bytes.extend(noise);
        memory.put(SEGMENT, bytes);
        let (_, recovered) = open(&memory);
        let whole = ends.iter().filter(|end| **end <= from).count();
        proptest::prop_assert!(bodies(&recovered).len() >= whole);
        proptest::prop_assert_eq!(&bodies(&recovered)[..whole], &BODIES[..whole]);
    }
}
