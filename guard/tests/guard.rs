//! The program itself: it ends what is overdue, is killed, and its successor
//! goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use surplus_guard::{Deadline, boot_millis, deadline};

/// A process that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guard at work, and what it says.
fn guard(directory: &Path) -> (Owned, BufReader<ChildStderr>) {
    let mut guard = Command::new(env!("CARGO_BIN_EXE_surplus-guard"))
        .arg(directory)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(guard.stderr.take().unwrap());
    (Owned(guard), stderr)
}

fn hear(stderr: &mut BufReader<ChildStderr>, word: &str) -> String {
    let mut heard = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "only: {heard}");
        if line.contains(word) {
            return line;
        }
        heard.push_str(&line);
    }
}

fn guest(placement: &str) -> Owned {
    let value = format!("guest=lease-{placement},debug-threads=on");
    let mut guest = Command::new("sh")
        .args(["-c", "echo; read line", "sh", "-name", &value])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    guest
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();
    Owned(guest)
}

fn until(directory: &Path, placement: &str, millis: u64) {
    let deadline = Deadline {
        domain: format!("lease-{placement}"),
        gone_by_boot_millis: millis,
    };
    deadline::write(directory, placement, &deadline).unwrap();
}

#[test]
fn a_killed_guards_successor_ends_the_guest_on_time() {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("deadlines");
    let (first, second) = (
        format!("first-{}.1", std::process::id()),
        format!("second-{}.1", std::process::id()),
    );
    let (mut early, mut late) = (guest(&first), guest(&second));
    let end = boot_millis() + 1500;
    until(&directory, &first, end);
    until(&directory, &second, end + 3_600_000);

    let (mut killed, mut words) = guard(&directory);
    hear(&mut words, "deadlines of 2 guests");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();

    let (_successor, mut words) = guard(&directory);
    hear(&mut words, "deadlines of 2 guests");
    let said = hear(&mut words, "is killed");
    assert!(said.starts_with("<4>") && said.contains(&first), "{said}");
    assert!(!early.0.wait().unwrap().success());
    let after = boot_millis().saturating_sub(end);
    assert!(after >= 2000, "killed {after} ms after its deadline");
    println!("gone {after} ms after its deadline");
    assert!(late.0.try_wait().unwrap().is_none());

    // A deadline that moves while the guard waits is kept, too.
    until(&directory, &second, boot_millis());
    let said = hear(&mut words, "is killed");
    assert!(said.contains(&second), "{said}");
    assert!(!late.0.wait().unwrap().success());
}

#[test]
fn a_word_too_much_is_refused() {
    for arguments in [&["--now"][..], &["a", "b"]] {
        let refused = Command::new(env!("CARGO_BIN_EXE_surplus-guard"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("usage"));
    }
}
