//! On a real ext4 in a file. It takes root, a loop device and a kernel with
//! fscrypt: where one of them is missing the tests say so and pass.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

/// A mounted ext4, unmounted when dropped.
struct Volume {
    directory: tempfile::TempDir,
}

impl Volume {
    fn make() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, at) = (directory.path().join("image"), directory.path().join("at"));
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let mkfs = ["-q", "-t", "ext4", "-O", "encrypt"];
        let ran = |command: &mut Command| command.output().is_ok_and(|it| it.status.success());
        let made = ran(Command::new("mke2fs").args(mkfs).arg(&image))
            && ran(Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &at]));
        let volume = Self { directory };
        if !made {
            eprintln!("skipped: it takes root, mke2fs and a loop device");
            return None;
        }
        let probe = volume.directory("probe");
        if let Err(error) = encrypt(&probe) {
            eprintln!("skipped: this kernel does not encrypt ({error})");
            return None;
        }
        Some(volume)
    }

    fn at(&self) -> std::path::PathBuf {
        self.directory.path().join("at")
    }

    fn directory(&self, name: &str) -> File {
        fs::create_dir(self.at().join(name)).unwrap();
        File::open(self.at().join(name)).unwrap()
    }

    /// Whether the disk holds the words, wherever.
    fn holds(&self, words: &[u8]) -> bool {
        Command::new("sync").status().unwrap();
        let disk = fs::read(self.directory.path().join("image")).unwrap();
        disk.windows(words.len()).any(|window| window == words)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at()).output();
    }
}

const WORDS: &[u8] = b"nobody but the tenant shall ever read this sentence";

fn write(directory: &Path, name: &str) {
    fs::write(directory.join(name), WORDS).unwrap();
}

#[test]
fn what_is_written_is_never_on_the_disk_and_cannot_be_read_once_the_key_is_gone() {
    let Some(volume) = Volume::make() else { return };
    let plain = volume.at().join("plain");
    fs::create_dir(&plain).unwrap();
    let open_words = b"anybody may read this sentence";
    fs::write(plain.join("file"), open_words).unwrap();
    assert!(volume.holds(open_words), "the check sees what is open");

    let guest = volume.directory("guest");
    let key = encrypt(&guest).unwrap();
    assert_eq!(key_of(&guest).unwrap(), Some(key));
    assert_eq!(key_of(&File::open(&plain).unwrap()).unwrap(), None);
    let path = volume.at().join("guest");
    write(&path, "disk");
    assert!(!volume.holds(WORDS));

    // What is open keeps what was made of the key alive, and that is said.
    drop(guest);
    let top = File::open(volume.at()).unwrap();
    let open = File::open(path.join("disk")).unwrap();
    assert_eq!(destroy(&top, key).unwrap(), Destroyed::FilesBusy);
    drop(open);
    assert_eq!(destroy(&top, key).unwrap(), Destroyed::Gone);
    assert_eq!(destroy(&top, key).unwrap(), Destroyed::Gone);
    assert!(fs::read(path.join("disk")).is_err());
    let name = path.read_dir().unwrap().next().unwrap().unwrap();
    assert_ne!(name.file_name(), "disk");
    assert!(fs::read(name.path()).is_err());
    // It can still be cleared away.
    fs::remove_dir_all(&path).unwrap();
}

#[test]
fn each_directory_has_a_key_of_its_own() {
    let Some(volume) = Volume::make() else { return };
    let (one, other) = (volume.directory("one"), volume.directory("other"));
    let (first, second) = (encrypt(&one).unwrap(), encrypt(&other).unwrap());
    assert_ne!(first, second);
    write(&volume.at().join("other"), "disk");
    drop(one);
    assert_eq!(destroy(&other, first).unwrap(), Destroyed::Gone);
    let read = fs::read(volume.at().join("other/disk")).unwrap();
    assert_eq!(read, WORDS);
}
