use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// A guest's stand-in: a process with a domain's name, ended with the test.
struct Guest {
    process: Child,
    placement: String,
}

impl Guest {
    fn start(test: &str) -> Self {
        let placement = format!("{test}-{}.1", std::process::id());
        let value = format!("guest=lease-{placement},debug-threads=on");
        let mut process = Command::new("sh")
            .args(["-c", "echo; read line", "sh", "-name", &value])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        io::Read::read_exact(process.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Self { process, placement }
    }

    fn until(&self, directory: &Path, millis: u64) {
        let deadline = Deadline {
            domain: format!("lease-{}", self.placement),
            gone_by_boot_millis: millis,
        };
        deadline::write(directory, &self.placement, &deadline).unwrap();
    }

    fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits for its end, which must have been ordered.
    fn ends(&mut self) {
        assert!(!self.process.wait().unwrap().success());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn rounds(directory: &Path) -> Rounds {
    Rounds::new(directory, Processes::default())
}

fn levels(outcome: &Outcome) -> Vec<Level> {
    outcome.notices.iter().map(|notice| notice.0).collect()
}

#[test]
fn an_overdue_guest_is_killed_a_margin_after_its_deadline_and_others_run_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = rounds(directory.path());
    let (mut due, mut other) = (Guest::start("due"), Guest::start("other"));
    due.until(directory.path(), 1000);
    other.until(directory.path(), 9000);
    let quiet = |next| Outcome {
        notices: Vec::new(),
        next: Some(next),
    };
    assert_eq!(rounds.round(0), quiet(1000 + MARGIN));
    assert_eq!(rounds.round(1000 + MARGIN - 1), quiet(1000 + MARGIN));
    assert!(due.runs());

    let outcome = rounds.round(1000 + MARGIN);
    assert_eq!(levels(&outcome), [Level::Warning]);
    assert_eq!(outcome.next, Some(1000 + MARGIN + RETRY));
    due.ends();
    let outcome = rounds.round(1000 + MARGIN + RETRY);
    assert_eq!(levels(&outcome), [Level::Warning], "{outcome:?}");
    assert!(outcome.notices[0].1.contains("is gone, 2200 ms after"));
    assert!(other.runs());
    // As long as its file is there, it is looked for.
    assert_eq!(
        rounds.round(5000),
        Outcome {
            notices: Vec::new(),
            next: Some(5000 + OVERDUE)
        }
    );
    deadline::remove(directory.path(), &due.placement).unwrap();
    assert_eq!(rounds.round(6000), quiet(9000 + MARGIN));
}

#[test]
fn a_guest_that_libvirt_makes_after_its_deadline_is_killed_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = rounds(directory.path());
    let deadline = Deadline {
        domain: format!("lease-belated-{}.1", std::process::id()),
        gone_by_boot_millis: 0,
    };
    let placement = format!("belated-{}.1", std::process::id());
    deadline::write(directory.path(), &placement, &deadline).unwrap();
    assert_eq!(rounds.round(60_000).next, Some(60_000 + OVERDUE));
    let mut guest = Guest::start("belated");
    rounds.round(61_000);
    guest.ends();
}

#[test]
fn a_deadline_that_moves_later_spares_the_guest_and_one_that_moves_earlier_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = rounds(directory.path());
    let mut guest = Guest::start("moved");
    guest.until(directory.path(), 10_000);
    assert_eq!(rounds.round(0).next, Some(12_000));
    guest.until(directory.path(), 20_000);
    assert_eq!(rounds.round(12_000).next, Some(22_000));
    assert!(guest.runs());
    guest.until(directory.path(), 11_000);
    assert_eq!(levels(&rounds.round(13_000)), [Level::Warning]);
    guest.ends();
}

#[test]
fn without_its_directory_the_guard_keeps_the_deadlines_that_it_knows() {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("deadlines");
    let mut rounds = rounds(&directory);
    assert_eq!(
        rounds.round(0),
        Outcome {
            notices: Vec::new(),
            next: None
        }
    );
    let mut guest = Guest::start("vanished");
    guest.until(&directory, 1000);
    rounds.round(1);
    fs::remove_dir_all(&directory).unwrap();
    let outcome = rounds.round(2);
    assert_eq!(levels(&outcome), [Level::Error]);
    assert_eq!(outcome.next, Some(1000 + MARGIN));
    // Said once.
    assert_eq!(levels(&rounds.round(3)), []);
    assert_eq!(levels(&rounds.round(1000 + MARGIN)), [Level::Warning]);
    guest.ends();
    fs::create_dir(&directory).unwrap();
    assert_eq!(levels(&rounds.round(5000)), [Level::Info]);
    assert_eq!(rounds.guests(), 0);
}

#[test]
fn a_damaged_file_is_named_and_left_and_releases_and_ends_no_guest() {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = rounds(directory.path());
    let (mut guest, mut other) = (Guest::start("damaged"), Guest::start("beside"));
    guest.until(directory.path(), 1000);
    other.until(directory.path(), 90_000);
    rounds.round(0);
    let damaged = directory.path().join(&guest.placement);
    fs::write(&damaged, "{").unwrap();
    fs::write(directory.path().join("unknown.1"), "").unwrap();
    let outcome = rounds.round(1);
    assert_eq!(levels(&outcome), [Level::Error, Level::Error]);
    let text = &outcome.notices[0].1;
    assert!(
        text.contains(&guest.placement) && text.contains("before counts"),
        "{text}"
    );
    assert_eq!(levels(&rounds.round(2)), []);
    assert!(guest.runs());
    rounds.round(1000 + MARGIN);
    guest.ends();
    assert_eq!(fs::read(damaged).unwrap(), b"{");
    assert!(other.runs());
}

#[test]
fn a_guest_that_does_not_go_is_spoken_of_now_and_then() {
    let mut killing = BTreeMap::new();
    let deadline = Deadline {
        domain: "lease-stubborn.1".into(),
        gone_by_boot_millis: 0,
    };
    let mut say = |now| killed(&mut killing, "p", &deadline, now).map(|notice| notice.0);
    assert_eq!(say(2000), Some(Level::Warning));
    assert_eq!(say(2200), None);
    assert_eq!(say(2000 + REMIND), Some(Level::Error));
    assert_eq!(say(2200 + REMIND), None);
}
