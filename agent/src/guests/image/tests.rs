use super::super::uplink::fake::{FakeUplink, Serve};
use super::*;

struct Rig {
    _dir: tempfile::TempDir,
    dir: Utf8PathBuf,
    uplink: FakeUplink,
    store: ImageStore,
}

fn rig(limit: Option<u64>) -> Rig {
    let temp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
    let store = ImageStore::new(dir.clone(), limit);
    Rig {
        _dir: temp,
        dir,
        uplink: FakeUplink::default(),
        store,
    }
}

impl Rig {
    async fn fetch(&self, digest: Digest, bytes: u64) -> Result<Utf8PathBuf, ImageError> {
        let turn = self.store.turn(digest).await;
        self.store.fetch(&turn, &self.uplink, bytes, &|_| {}).await
    }

    fn offsets(&self) -> Vec<u64> {
        std::mem::take(&mut *self.uplink.offsets.lock().unwrap())
    }

    fn files(&self) -> usize {
        self.dir.read_dir_utf8().unwrap().count()
    }
}

fn picture(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes)
        .map(|at| u8::try_from(at % 251).unwrap() ^ seed)
        .collect()
}

#[tokio::test]
async fn an_image_is_fetched_once_and_cached() {
    let rig = rig(None);
    let image = picture(100_000, 0);
    let digest = rig.uplink.offer(image.clone());
    let path = rig.fetch(digest, 100_000).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), image);
    rig.fetch(digest, 100_000).await.unwrap();
    assert_eq!(rig.offsets(), [0]);
    assert_eq!(rig.files(), 1);
}

#[tokio::test]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(100_000, 0));
    rig.uplink
        .script([Serve::Break(30_000), Serve::Cut(1000), Serve::Break(0)]);
    rig.fetch(digest, 100_000).await.unwrap();
    assert_eq!(rig.offsets(), [0, 30_000, 31_000, 31_000]);
}

#[tokio::test]
async fn a_fetch_survives_the_agent() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(100_000, 0));
    rig.uplink.script([
        Serve::Break(30_000),
        Serve::Break(0),
        Serve::Break(0),
        Serve::Break(0),
    ]);
    let error = rig.fetch(digest, 100_000).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    let successor = ImageStore::new(rig.dir.clone(), None);
    rig.offsets();
    let turn = successor.turn(digest).await;
    successor
        .fetch(&turn, &rig.uplink, 100_000, &|_| {})
        .await
        .unwrap();
    assert_eq!(rig.offsets(), [30_000]);
}

#[tokio::test]
async fn a_truncated_image_is_refused_and_fetched_again() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(100_000, 0));
    // The ticket promises more than there is.
    let error = rig.fetch(digest, 100_001).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Truncated { got: 100_000, .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("ended after 100000 of 100001 bytes"),
        "{error}"
    );
    rig.fetch(digest, 100_000).await.unwrap();
}

#[tokio::test]
async fn an_image_of_another_digest_is_refused_and_fetched_again() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(5000, 0));
    rig.uplink.script([Serve::Instead(picture(5000, 7).into())]);
    let error = rig.fetch(digest, 5000).await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { expected, .. } if expected == digest));
    assert_eq!(rig.files(), 0);
    rig.fetch(digest, 5000).await.unwrap();
}

#[tokio::test]
async fn an_endless_image_stops_at_its_length() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(5000, 0));
    rig.uplink
        .script([Serve::Instead(picture(1 << 20, 0).into())]);
    let error = rig.fetch(digest, 5000).await.unwrap_err();
    assert!(
        matches!(error, ImageError::TooLong { expected: 5000, .. }),
        "{error:?}"
    );
    assert_eq!(rig.files(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_trickles_is_given_up_in_time() {
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(100_000, 0));
    rig.uplink
        .script([Serve::Trickle(10), Serve::Trickle(10), Serve::Trickle(10)]);
    let begun = tokio::time::Instant::now();
    let error = rig.fetch(digest, 100_000).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error:?}");
    assert!(begun.elapsed() <= PATIENCE * 4, "{:?}", begun.elapsed());
    // What came is kept, and the rest comes once it can.
    rig.fetch(digest, 100_000).await.unwrap();
}

#[tokio::test]
async fn a_refused_image_is_not_asked_for_again() {
    let rig = rig(None);
    let digest = Digest::from_sha256([9; 32]);
    let error = rig.fetch(digest, 5000).await.unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. }), "{error:?}");
    assert_eq!(rig.offsets(), [0]);
}

#[tokio::test]
async fn a_full_cache_gives_up_what_no_lease_uses_and_nothing_else() {
    let rig = rig(Some(12_000));
    let digests: Vec<_> = (0..3)
        .map(|seed| rig.uplink.offer(picture(5000, seed)))
        .collect();
    rig.store.keep([digests[0]].into());
    rig.fetch(digests[0], 5000).await.unwrap();
    let second = rig.fetch(digests[1], 5000).await.unwrap();
    rig.store.keep([digests[0], digests[2]].into());
    rig.fetch(digests[2], 5000).await.unwrap();
    assert!(!second.exists());
    let error = rig.fetch(digests[1], 5000).await.unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::NoRoom {
                limit: 12_000,
                needed: 5000
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn every_guest_may_read_an_image_whatever_the_umask() {
    // Process-wide: nextest gives each test its own process.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let rig = rig(None);
    let digest = rig.uplink.offer(picture(1000, 0));
    let path = rig.fetch(digest, 1000).await.unwrap();
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "{mode:o}");
}

#[tokio::test]
async fn what_came_of_an_image_before_is_not_counted_twice() {
    let rig = rig(Some(6000));
    let digest = rig.uplink.offer(picture(5000, 0));
    rig.uplink.script([
        Serve::Break(4000),
        Serve::Break(0),
        Serve::Break(0),
        Serve::Break(0),
    ]);
    rig.fetch(digest, 5000).await.unwrap_err();
    // No lease is known to use it, yet it is not made room with either.
    rig.offsets();
    rig.fetch(digest, 5000).await.unwrap();
    assert_eq!(rig.offsets(), [4000]);
}

#[test]
fn fetches_beside_each_other_see_each_other() {
    let rig = rig(Some(9000));
    let (one, two) = (Digest::from_sha256([1; 32]), Digest::from_sha256([2; 32]));
    let first = rig.store.reserve(one, 5000).unwrap();
    let error = rig.store.reserve(two, 5000).err().unwrap();
    assert!(matches!(error, ImageError::NoRoom { .. }), "{error:?}");
    rig.store.reserve(two, 4000).unwrap();
    // A fetch that was broken off gives its room back.
    drop(first);
    rig.store.reserve(two, 5000).unwrap();
}

#[tokio::test]
async fn an_image_that_finds_the_disk_full_says_so_and_is_taken_up_once_there_is_room() {
    let rig = rig(None);
    let mount = |arguments: &[&str]| {
        let mut mount = std::process::Command::new("mount");
        let done = mount.args(arguments).arg(rig.dir.as_str()).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        eprintln!("skipped: it takes root");
        return;
    }
    let digest = rig.uplink.offer(picture(300_000, 0));
    let full = rig.fetch(digest, 300_000).await;
    let roomy = mount(&["-o", "remount,size=1M"]);
    let fetched = rig.fetch(digest, 300_000).await;
    let whole = fetched.is_ok_and(|path| std::fs::read(path).unwrap() == picture(300_000, 0));
    let unmount = std::process::Command::new("umount")
        .arg(rig.dir.as_str())
        .status();
    assert!(unmount.unwrap().success() && roomy);
    let Err(ImageError::Store { source, .. }) = full else {
        panic!("{full:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(whole);
}
