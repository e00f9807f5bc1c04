//! Full disks and I/O errors, at every operation.

use surplus_journal::medium::{Fault, Kept};
use surplus_journal::{AppendError, Journal, Memory, OpenError};

use super::host::{Act, Host, SCRIPT, SETTINGS, bodies};

#[test]
fn a_failure_at_any_operation_costs_nothing_acknowledged_and_the_journal_goes_on() {
    let undisturbed = Memory::new();
    let mut host = Host::new(&undisturbed).unwrap();
    assert!(SCRIPT.iter().all(|act| host.act(act)));
    for fault in [Fault::NoSpace, Fault::Io, Fault::IoThoughDone] {
        for times in [1, 2, 3, 7, usize::MAX] {
            for at in 0..undisturbed.operations() {
                fail_and_go_on(at, times, fault);
            }
        }
    }
}

fn fail_and_go_on(at: usize, times: usize, fault: Fault) {
    let memory = Memory::new();
    memory.fail(at, times, fault);
    let mut host = loop {
        match Host::new(&memory) {
            Ok(host) => break host,
            Err(_) if times == usize::MAX => memory.heal(),
            Err(_) => {}
        }
    };
    for act in SCRIPT {
        host.act(act);
    }
    for kept in [Kept::Nothing, Kept::Bytes(20), Kept::All] {
        let mut host = host.elsewhere();
        host.memory.power_cut(|_| kept);
        host.reopen();
        host.goes_on();
    }
    // The same process goes on, and then the next.
    memory.heal();
    assert!(host.act(&Act::Append(&["healed"])));
    assert!(host.act(&Act::Roll));
    host.reopen();
    host.goes_on();
}

#[test]
fn after_a_failed_sync_no_later_one_is_believed() {
    let memory = Memory::new();
    let mut host = Host::new(&memory).unwrap();
    assert!(host.act(&Act::Append(&["a"])));
    // The write succeeds, the sync does not: the kernel drops the bytes.
    memory.fail(1, 1, Fault::Io);
    assert!(!host.act(&Act::Append(&["lost"])));
    assert!(host.act(&Act::Append(&["b"])));
    memory.power_cut(|_| Kept::Nothing);
    host.reopen();
    assert_eq!(host.acknowledged, ["a", "b"]);
}

#[test]
fn what_a_process_that_died_after_a_failed_sync_left_is_written_anew_before_it_is_told() {
    let memory = Memory::new();
    let mut host = Host::new(&memory).unwrap();
    assert!(host.act(&Act::Append(&["a"])));
    memory.fail(1, 1, Fault::Io);
    assert!(!host.act(&Act::Append(&["b", "c"])));
    // The next process reads b and c from the kernel's memory, where they are all
    // that there is of them.
    let recovered = host.reopen();
    assert_eq!(bodies(&recovered), ["a", "b", "c"]);
    memory.power_cut(|_| Kept::Nothing);
    host.reopen();
    assert_eq!(host.acknowledged, ["a", "b", "c"]);
}

#[test]
fn in_doubt_and_on_a_full_disk_the_journal_refuses_in_words() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let head = journal.append(b"a").unwrap();
    memory.fail(0, usize::MAX, Fault::NoSpace);
    let error = journal.append(b"b").unwrap_err();
    assert!(matches!(error, AppendError::Write { .. }), "{error}");
    let error = journal.append(b"c").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the end of the journal is in doubt after an earlier failure, and a new segment could \
         not be begun; nothing was appended: look after the disk, then try again"
    );
    assert_eq!(journal.head(), head);
    // Attempts leave nothing behind that would take space.
    memory.heal();
    let after = journal.append(b"d").unwrap();
    assert_eq!(after.position, head.position + 1);
    let (_, recovered) = Journal::open(memory.clone(), SETTINGS).unwrap();
    assert_eq!(bodies(&recovered), ["a", "d"]);
}

#[test]
fn a_journal_that_cannot_be_repaired_for_want_of_space_is_left_as_it_is() {
    let memory = Memory::new();
    let mut host = Host::new(&memory).unwrap();
    host.act(&Act::Append(&["a"]));
    memory.fail(0, usize::MAX, Fault::NoSpace);
    let error = Journal::open(memory.clone(), SETTINGS).unwrap_err();
    assert!(matches!(error, OpenError::Begin { .. }), "{error}");
    memory.heal();
    host.reopen();
    assert_eq!(host.acknowledged, ["a"]);
}

#[test]
fn a_body_that_is_too_long_is_refused_and_changes_nothing() {
    let memory = Memory::new();
    let (mut journal, _) = Journal::open(memory.clone(), SETTINGS).unwrap();
    let operations = memory.operations();
    let long = vec![0; surplus_journal::MAX_BODY + 1];
    let error = journal.append(&long).unwrap_err();
    assert!(matches!(error, AppendError::TooLong { length } if length == long.len()));
    assert!(journal.roll(&[&long]).is_err());
    assert_eq!(memory.operations(), operations);
    journal.append(&long[1..]).unwrap();
    let (_, recovered) = Journal::open(memory, SETTINGS).unwrap();
    assert_eq!(recovered.entries[0].body.len(), surplus_journal::MAX_BODY);
}
