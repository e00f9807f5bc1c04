//! The journal on a real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use surplus_journal::medium::{DirectoryError, View};
use surplus_journal::{Directory, Journal, verify};

use super::host::{SETTINGS, bodies};

#[test]
fn what_was_appended_is_there_for_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let (mut journal, _) = Journal::open(Directory::open(&path).unwrap(), SETTINGS).unwrap();
    journal.append(b"a").unwrap();
    journal.append_all(&["b", "c"]).unwrap();
    journal.roll(&["abc"]).unwrap();
    let head = journal.append(b"d").unwrap();
    // The first process is gone, and its lock with it.
    drop(journal);
    let (mut journal, recovered) =
        Journal::open(Directory::open(&path).unwrap(), SETTINGS).unwrap();
    assert_eq!(bodies(&recovered), ["abc", "d"]);
    assert_eq!((recovered.repaired, journal.head()), (None, head));
    let head = journal.append(b"e").unwrap();
    drop(journal.into_medium());
    assert_eq!(verify(&View::new(&path)).unwrap().head, Some(head));
}

#[test]
fn a_second_opener_is_refused_in_words_and_may_look() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let (mut journal, _) = Journal::open(Directory::open(&path).unwrap(), SETTINGS).unwrap();
    let head = journal.append(b"a").unwrap();
    let error = Directory::open(&path).unwrap_err();
    assert!(matches!(error, DirectoryError::InUse { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "the journal in {} is in use by another process, and two would spoil it: let that \
             one end first, then try again",
            path.display()
        )
    );
    let report = verify(&View::new(&path)).unwrap();
    assert_eq!((report.head, report.is_sound()), (Some(head), true));
    drop(journal);
    Directory::open(&path).unwrap();
}

#[test]
fn the_files_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let (mut journal, _) = Journal::open(Directory::open(&path).unwrap(), SETTINGS).unwrap();
    journal.append(b"a").unwrap();
    journal.roll(&["a"]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[test]
fn a_torn_end_and_a_damaged_middle_of_a_real_file_are_told_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(Directory::open(dir.path()).unwrap(), SETTINGS).unwrap();
    journal.append_all(&["a", "b", "c"]).unwrap();
    drop(journal);
    let segment = dir.path().join("0000000000000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    let (journal, recovered) =
        Journal::open(Directory::open(dir.path()).unwrap(), SETTINGS).unwrap();
    assert_eq!(bodies(&recovered), ["a", "b"]);
    assert_eq!(
        recovered.repaired.as_deref(),
        Some(
            "the last 53 bytes of 0000000000000001.segment are no whole entry, as after a power \
             cut in the middle of a write: they are left out, and the journal goes on after \
             entry 2"
        )
    );
    drop(journal);

    let segment = dir.path().join("0000000000000002.segment");
    bytes = fs::read(&segment).unwrap();
    bytes[152 + 21] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let (_, recovered) = Journal::open(Directory::open(dir.path()).unwrap(), SETTINGS).unwrap();
    assert_eq!(
        recovered.set_aside,
        ["0000000000000002.segment is damaged from byte 152 on, for 54 bytes, before entry 2"]
    );
    assert_eq!(bodies(&recovered), ["b"]);
    assert_eq!(fs::read(segment.with_extension("damaged")).unwrap(), bytes);
}
