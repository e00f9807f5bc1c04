use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const PLACEMENT: &str = "0191f7a0-0000-7000-8000-000000000001.1";

fn deadline(millis: u64) -> Deadline {
    Deadline {
        domain: format!("lease-{PLACEMENT}"),
        gone_by_boot_millis: millis,
    }
}

#[test]
fn what_is_written_is_read_and_is_for_its_owner_alone() {
    let run = tempfile::tempdir().unwrap();
    let directory = run.path().join("surplus/deadlines");
    write(&directory, PLACEMENT, &deadline(7)).unwrap();
    write(&directory, PLACEMENT, &deadline(8)).unwrap();
    let listed = list(&directory).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(*listed[PLACEMENT].as_ref().unwrap(), deadline(8));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(PLACEMENT)), 0o600);
    remove(&directory, PLACEMENT).unwrap();
    remove(&directory, PLACEMENT).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_told_from_a_deadline_and_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write(directory, "good.1", &deadline(9)).unwrap();
    let whole = fs::read(directory.join("good.1")).unwrap();
    for cut in 0..whole.len() {
        fs::write(directory.join(format!("cut.{cut}")), &whole[..cut]).unwrap();
    }
    let named = |domain: &str| {
        serde_json::json!({ "domain": domain, "gone_by_boot_millis": 1 }).to_string()
    };
    for (name, text) in [
        ("empty-name.1", named("")),
        ("every-name.1", named("*")),
        ("two-names.1", named("lease-a,lease-b")),
        (
            "negative.1",
            r#"{"domain":"a","gone_by_boot_millis":-1}"#.into(),
        ),
        (
            "newer.1",
            r#"{"domain":"a","gone_by_boot_millis":1,"more":2}"#.into(),
        ),
        ("huge.1", " ".repeat(5000)),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    fs::create_dir(directory.join("directory.1")).unwrap();
    std::os::unix::fs::symlink("good.1", directory.join("link.1")).unwrap();
    let pipe = directory.join("pipe.1");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());

    let mut listed = list(directory).unwrap();
    assert_eq!(listed.remove("good.1").unwrap().unwrap(), deadline(9));
    assert_eq!(listed.len(), whole.len() + 9);
    for (name, read) in listed {
        assert!(read.is_err(), "{name}: {read:?}");
    }
}

#[test]
fn a_file_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write(directory, PLACEMENT, &deadline(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for millis in 1..=500 {
                write(directory, PLACEMENT, &deadline(millis)).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        let mut last = 0;
        loop {
            let over = done.load(Ordering::Acquire);
            let listed = list(directory).unwrap();
            let read = listed[PLACEMENT].as_ref().unwrap().gone_by_boot_millis;
            assert!(read >= last);
            last = read;
            if over {
                break;
            }
        }
        assert_eq!(last, 500);
    });
}

#[test]
fn a_name_that_leads_elsewhere_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "..", ".hidden", "a/b", "a\0b"] {
        let refused = write(directory.path(), name, &deadline(1));
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "{name:?}"
        );
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
