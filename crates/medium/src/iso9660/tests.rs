use std::fs::{self, File};
use std::io::Cursor;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// An ISO made by xorriso, with and without Rock Ridge.
fn made_by_xorriso(rock_ridge: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("boot/grub")).unwrap();
    fs::write(tree.join("root.img"), vec![0x55; 10_000]).unwrap();
    fs::write(tree.join("boot/grub/grub.cfg"), "set timeout=0\n").unwrap();
    for index in 0..100 {
        fs::write(tree.join(format!("f{index:03}.bin")), [index]).unwrap();
    }
    let iso = dir.path().join("x.iso");
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-V", "SURPLUS_0123456789ABCDEF"]);
    if rock_ridge {
        command.arg("-R");
    }
    let status = command.arg("-o").arg(&iso).arg(&tree).status();
    assert!(status.expect("needs `apt install xorriso`").success());
    fs::read(iso).unwrap()
}

#[test]
fn files_of_a_real_iso_are_found_with_and_without_rock_ridge() {
    for rock_ridge in [false, true] {
        let iso = made_by_xorriso(rock_ridge);
        let mut medium = Cursor::new(&iso);
        let volume = volume(&mut medium).unwrap();
        assert_eq!(volume.id, "SURPLUS_0123456789ABCDEF");
        assert!(volume.size <= iso.len() as u64);
        let root = file(&mut medium, &volume, "/root.img").unwrap();
        assert_eq!(root.size, 10_000);
        let start = usize::try_from(root.offset).unwrap();
        assert_eq!(iso[start..start + 10_000], [0x55; 10_000]);
        let config = file(&mut medium, &volume, "/boot/grub/grub.cfg").unwrap();
        assert_eq!(config.size, 14);
        let last = file(&mut medium, &volume, "/f099.bin").unwrap();
        assert_eq!(iso[usize::try_from(last.offset).unwrap()], 99);
        let top = entry(&mut medium, &volume, "/").unwrap();
        let all = list(&mut medium, &top).unwrap();
        assert_eq!(all.len(), 102);
    }
}

#[test]
fn what_is_missing_or_no_file_is_named() {
    let iso = made_by_xorriso(true);
    let mut medium = Cursor::new(&iso);
    let volume = volume(&mut medium).unwrap();
    let error = file(&mut medium, &volume, "/site.bin").unwrap_err();
    assert_eq!(error.to_string(), "no file /site.bin on the medium");
    assert!(matches!(
        file(&mut medium, &volume, "/boot"),
        Err(IsoError::NotPlain { .. })
    ));
    assert!(matches!(
        file(&mut medium, &volume, "/root.img/x"),
        Err(IsoError::NotFound { .. })
    ));
}

#[test]
fn a_disk_without_a_file_system_is_not_an_iso() {
    assert!(matches!(
        volume(&mut Cursor::new(vec![0; 100_000])),
        Err(IsoError::NotIso)
    ));
    assert!(matches!(
        volume(&mut Cursor::new(vec![0; 100])),
        Err(IsoError::NotIso)
    ));
    assert!(matches!(
        volume(&mut File::open("/dev/null").unwrap()),
        Err(IsoError::NotIso)
    ));
}

/// A volume descriptor and a root directory at sector 20, by hand.
fn small_iso(directory: &[u8]) -> Vec<u8> {
    let mut iso = vec![0; 24 * 2048];
    let descriptor = &mut iso[16 * 2048..17 * 2048];
    descriptor[0] = 1;
    descriptor[1..6].copy_from_slice(b"CD001");
    descriptor[40..72].fill(b' ');
    descriptor[80] = 24;
    descriptor[128..130].copy_from_slice(&2048_u16.to_le_bytes());
    descriptor[156] = 34;
    descriptor[158] = 20;
    descriptor[167] = 8; // 2048 bytes
    descriptor[181] = DIRECTORY;
    descriptor[188] = 1;
    let length = directory.len().min(2048);
    iso[20 * 2048..20 * 2048 + length].copy_from_slice(&directory[..length]);
    iso
}

fn read_all(iso: &[u8]) -> Result<Vec<Entry>, IsoError> {
    let mut medium = Cursor::new(iso);
    let volume = volume(&mut medium)?;
    let root = entry(&mut medium, &volume, "/")?;
    list(&mut medium, &root)
}

#[test]
fn a_file_in_several_extents_is_refused() {
    let record = |flags: u8| {
        let mut record = vec![0; 34 + 8];
        record[0] = 42;
        record[25] = flags;
        record[32] = 8;
        record[33..41].copy_from_slice(b"ROOT.IMG");
        record
    };
    let iso = small_iso(&[record(MULTI_EXTENT), record(0)].concat());
    let mut medium = Cursor::new(&iso);
    let volume = volume(&mut medium).unwrap();
    assert!(matches!(
        file(&mut medium, &volume, "/root.img"),
        Err(IsoError::NotPlain { .. })
    ));
    let iso = small_iso(&record(0));
    let mut medium = Cursor::new(&iso);
    assert!(file(&mut medium, &volume, "/root.img").is_ok());
}

proptest! {
    #[test]
    fn no_directory_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = read_all(&small_iso(&bytes));
    }

    #[test]
    fn no_descriptor_makes_the_parser_panic(
        damage in prop::collection::vec((0..2048_usize, any::<u8>()), 0..40),
    ) {
        let mut iso = small_iso(&[]);
        for (at, byte) in damage {
            iso[16 * 2048 + at] = byte;
        }
        let _ = read_all(&iso);
    }

    #[test]
    fn a_truncated_iso_is_an_error_and_no_panic(length in 0..24 * 2048_usize) {
        let mut iso = small_iso(&[]);
        iso.truncate(length);
        prop_assert_eq!(read_all(&iso).is_ok(), length >= 21 * 2048);
    }
}
