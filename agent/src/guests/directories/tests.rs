use std::sync::Mutex;

use super::super::keys::{InMemory, KernelKeys};
use super::super::store::Store;
use super::super::test_ticket;
use super::*;

#[test]
fn qemu_reaches_images_and_guests_but_no_records_whatever_the_umask() {
    // The umask is the whole process's: this test needs one of its own, as
    // nextest gives it.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(dir.path()).unwrap().join("surplus");
    let directories = Directories::open(&root, Arc::new(InMemory)).unwrap();
    Store::open(&root).unwrap();
    let guest = Placement::of(&test_ticket(1, 3));
    directories.renew(guest).unwrap();
    assert_eq!(directories.placements(), [guest]);
    let guest = format!("guests/{guest}");
    for (path, mode) in [
        ("", 0o755),
        ("images", 0o711),
        ("guests", 0o711),
        (guest.as_str(), 0o711),
        ("ledger", 0o700),
    ] {
        let found = fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}: {found:o}");
    }
}

/// Notes what was asked for, and says that files are open as often as it is told.
#[derive(Debug, Default)]
struct Noted {
    asked: Mutex<Vec<String>>,
    busy: Mutex<u32>,
}

impl Noted {
    fn note(&self, what: &str, directory: &Utf8Path) {
        let holds = directory.read_dir_utf8().unwrap().count();
        let name = directory.file_name().unwrap();
        let mut asked = self.asked.lock().unwrap();
        asked.push(format!("{what} {name} with {holds} files"));
    }
}

impl Keys for Noted {
    fn give(&self, directory: &Utf8Path) -> io::Result<()> {
        self.note("give", directory);
        Ok(())
    }

    fn destroy(&self, directory: &Utf8Path) -> io::Result<()> {
        self.note("destroy", directory);
        let mut busy = self.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(())
    }

    fn are_given(&self) -> bool {
        true
    }
}

#[test]
fn a_key_is_there_before_the_first_file_and_gone_before_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(dir.path()).unwrap();
    let keys = Arc::new(Noted::default());
    let directories = Directories::open(root, keys.clone()).unwrap();
    let guest = Placement::of(&test_ticket(1, 3));
    let path = directories.renew(guest).unwrap();
    fs::write(path.join("disk.qcow2"), b"x").unwrap();
    // A file of it is open: the directory stays, for it is what names the key.
    *keys.busy.lock().unwrap() = 1;
    let error = directories.remove(guest).unwrap_err();
    assert!(error.is_busy(), "{error}");
    assert_eq!(directories.placements(), [guest]);
    assert!(directories.remove(guest).unwrap());
    assert!(!directories.remove(guest).unwrap());
    let name = path.file_name().unwrap();
    assert_eq!(
        *keys.asked.lock().unwrap(),
        [
            "give images with 0 files".to_owned(),
            format!("give {name} with 0 files"),
            format!("destroy {name} with 0 files"),
            format!("destroy {name} with 0 files"),
        ]
    );
}

#[test]
fn on_a_real_volume_a_guests_files_are_unreadable_once_it_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (image, root) = (dir.path().join("image"), dir.path().join("volume"));
    fs::create_dir(&root).unwrap();
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let ran = |program: &str, arguments: &[&str], last: &std::path::Path| {
        let mut command = std::process::Command::new(program);
        let done = command.args(arguments).arg(last).output();
        done.is_ok_and(|output| output.status.success())
    };
    let mkfs = ["-q", "-F", "-t", "ext4", "-O", "encrypt"];
    let image_name = image.to_str().unwrap();
    if !ran("/usr/sbin/mke2fs", &mkfs, &image) || !ran("mount", &["-o", "loop", image_name], &root)
    {
        eprintln!("skipped: it takes root, mke2fs and a loop device");
        return;
    }
    let top = Utf8Path::from_path(&root).unwrap();
    let directories = Directories::open(top, Arc::new(KernelKeys::new(top))).unwrap();
    let guest = Placement::of(&test_ticket(1, 3));
    let path = directories.renew(guest).unwrap();
    fs::write(path.join("console.log"), b"a word").unwrap();
    let open = fs::File::open(path.join("console.log")).unwrap();
    let error = directories.remove(guest).unwrap_err();
    let after_open = error.is_busy();
    drop(open);
    // An agent that comes after this one finds its way.
    let directories = Directories::open(top, Arc::new(KernelKeys::new(top))).unwrap();
    let removed = directories.remove(guest);
    let gone = !path.exists();
    ran("umount", &[], &root);
    assert!(after_open, "{error}");
    assert!(removed.unwrap() && gone);
}
