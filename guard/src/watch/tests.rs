use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::{boot_millis, deadline};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_wait_ends_at_the_time_that_was_said_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let watch = Watch::new(directory.path()).unwrap();
    watch.renew();
    for wait in [0, 150, 300] {
        let next = boot_millis() + wait;
        watch.wait(Some(next)).unwrap();
        let now = boot_millis();
        assert!(now >= next, "{} ms too early", next - now);
    }
    // Long past.
    watch.wait(Some(0)).unwrap();
}

/// The periodic look would come after a second; what is shown is that the event
/// comes in less, at least once in ten.
#[test]
fn a_file_that_is_written_or_removed_ends_the_wait() {
    let directory = tempfile::tempdir().unwrap();
    let watch = Watch::new(directory.path()).unwrap();
    let (waits, waiting) = mpsc::channel();
    let (woken, wakes) = mpsc::channel();
    thread::spawn(move || {
        watch.renew();
        while waits.send(boot_millis()).is_ok() {
            watch.wait(None).unwrap();
            if woken.send(boot_millis()).is_err() {
                return;
            }
        }
    });
    let deadline = deadline::Deadline {
        domain: "lease-a.1".into(),
        gone_by_boot_millis: 0,
    };
    let mut took = Vec::new();
    for round in 0..10 {
        let began = waiting.recv_timeout(PATIENCE).unwrap();
        if round % 2 == 0 {
            deadline::write(directory.path(), "a.1", &deadline).unwrap();
        } else {
            deadline::remove(directory.path(), "a.1").unwrap();
        }
        took.push(wakes.recv_timeout(PATIENCE).unwrap() - began);
    }
    assert!(took.iter().any(|millis| *millis < LOOK), "{took:?}");
}

#[test]
fn a_directory_that_comes_later_is_watched_and_nothing_waits_for_ever() {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("deadlines");
    let watch = Watch::new(&directory).unwrap();
    watch.renew();
    watch.wait(None).unwrap();
    fs::create_dir(&directory).unwrap();
    watch.renew();
    watch.wait(None).unwrap();
}
