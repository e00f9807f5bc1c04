use std::io::Write as _;

use super::super::uplink::fake::FakeUplink;
use super::*;

struct Rig {
    _dir: tempfile::TempDir,
    log: Utf8PathBuf,
    uplink: Arc<FakeUplink>,
    placement: Placement,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let log = Utf8Path::from_path(dir.path()).unwrap().join("console.log");
    let placement = "0190a1b2-0000-7000-8000-000000000001.1".parse().unwrap();
    Rig {
        _dir: dir,
        log,
        uplink: Arc::default(),
        placement,
    }
}

impl Rig {
    fn follower(&self) -> Follower {
        let uplink: Arc<FakeUplink> = Arc::clone(&self.uplink);
        Follower::new(self.placement, &self.log, uplink)
    }

    fn write(&self, text: &str) {
        let mut options = fs::OpenOptions::new();
        let mut file = options.append(true).create(true).open(&self.log).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As virtlogd does it, keeping `keep` old files.
    fn rotate(&self, keep: usize) {
        for index in (0..keep).rev() {
            let from = match index {
                0 => self.log.clone(),
                _ => format!("{}.{}", self.log, index - 1).into(),
            };
            if from.exists() {
                fs::rename(from, format!("{}.{index}", self.log)).unwrap();
            }
        }
    }

    fn shown(&self) -> String {
        let consoles = self.uplink.consoles.lock().unwrap();
        String::from_utf8(consoles.get(&self.placement).cloned().unwrap_or_default()).unwrap()
    }
}

async fn drain(follower: &mut Follower) {
    while follower.step().await.unwrap() {}
}

#[tokio::test]
async fn a_console_is_followed_across_rotations_and_restarts() {
    let rig = rig();
    let mut follower = rig.follower();
    drain(&mut follower).await;
    rig.write("one\n");
    drain(&mut follower).await;
    rig.write("two\n");
    rig.rotate(3);
    rig.write("three\n");
    drain(&mut follower).await;
    assert_eq!(rig.shown(), "one\ntwo\nthree\n");

    // The agent dies; meanwhile the log is rotated twice.
    rig.write("four\n");
    rig.rotate(3);
    rig.write("five\n");
    rig.rotate(3);
    rig.write("six\n");
    drain(&mut rig.follower()).await;
    assert_eq!(rig.shown(), "one\ntwo\nthree\nfour\nfive\nsix\n");
}

#[tokio::test]
async fn bytes_that_were_rotated_away_leave_a_mark() {
    let rig = rig();
    rig.write("one\n");
    drain(&mut rig.follower()).await;
    for text in ["two\n", "three\n", "four\n"] {
        rig.rotate(2);
        if rig.log.with_extension("log.1").exists() {
            // Keeps the dead file's inode from being used again at once.
            fs::hard_link(format!("{}.1", rig.log), format!("{}.kept", rig.log)).ok();
        }
        rig.write(text);
    }
    drain(&mut rig.follower()).await;
    let shown = rig.shown();
    assert!(
        shown.starts_with("one\n\r\n[surplus: console output is missing here]\r\n"),
        "{shown}"
    );
    assert!(shown.ends_with("four\n"), "{shown}");
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_while_the_marketplace_is_away() {
    let rig = rig();
    let mut follower = rig.follower();
    rig.write("one\n");
    rig.uplink.set_offline(true);
    follower.step().await.unwrap_err();
    rig.write("two\n");
    rig.uplink.set_offline(false);
    // It had taken part of it before the line broke.
    rig.uplink
        .consoles
        .lock()
        .unwrap()
        .insert(rig.placement, b"on".to_vec());
    drain(&mut follower).await;
    assert_eq!(rig.shown(), "one\ntwo\n");
}

#[tokio::test]
async fn the_last_words_arrive_after_the_files_are_gone() {
    let rig = rig();
    rig.write("one\n");
    rig.rotate(3);
    rig.write("two\n");
    let (end, ended) = oneshot::channel();
    end.send(hold(&rig.log)).unwrap();
    fs::remove_dir_all(rig.log.parent().unwrap()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), rig.follower().run(ended))
        .await
        .unwrap();
    assert_eq!(rig.shown(), "one\ntwo\n");
}

#[tokio::test]
async fn a_quiet_log_is_heard_of_when_it_is_written_to_or_rotated() {
    let rig = rig();
    let changes = Arc::new(Changes::new().unwrap());
    let follower = rig.follower().hearing(Some(changes));
    let (_end, ended) = oneshot::channel();
    let following = tokio::spawn(follower.run(ended));
    let shown = async |text: &str| {
        while rig.shown() != text {
            rig.uplink.heard.notified().await;
        }
    };
    let before = Instant::now();
    rig.write("one\n");
    shown("one\n").await;
    // Long enough for it to look no more by the clock.
    tokio::time::sleep(3 * LOOK).await;
    rig.write("two\n");
    shown("one\ntwo\n").await;
    tokio::time::sleep(3 * LOOK).await;
    rig.rotate(3);
    rig.write("three\n");
    shown("one\ntwo\nthree\n").await;
    assert!(before.elapsed() < QUIET, "{:?}", before.elapsed());
    following.abort();
}
