use std::io::{Cursor, Write as _};

use fatfs::FormatVolumeOptions;

use super::*;
use crate::sysroot::fixture::Tree;

const TEXT: &[u8] = b"version = 1";

/// A stick with the file of this size on it, or without one.
fn stick(label: &[u8; 11], content: Option<&[u8]>) -> Vec<u8> {
    let mut image = Cursor::new(vec![0; 1 << 20]);
    let options = FormatVolumeOptions::new().volume_label(*label);
    fatfs::format_volume(&mut image, options).unwrap();
    let volume = fatfs::FileSystem::new(&mut image, FsOptions::new()).unwrap();
    if let Some(content) = content {
        let mut file = volume.root_dir().create_file("Site.toml").unwrap();
        file.write_all(content).unwrap();
    }
    volume.unmount().unwrap();
    image.into_inner()
}

/// A CD with one file in its root, of one sector (ECMA-119).
fn cd(name: &str) -> Vec<u8> {
    const SECTOR: usize = 2048;
    let record = |name: &[u8], sector: u32, size: u32| {
        let mut record = vec![0; 33];
        record.extend(name);
        record.resize(record.len().next_multiple_of(2), 0);
        record[0] = u8::try_from(record.len()).unwrap();
        record[2..6].copy_from_slice(&sector.to_le_bytes());
        record[6..10].copy_from_slice(&sector.to_be_bytes());
        record[10..14].copy_from_slice(&size.to_le_bytes());
        record[14..18].copy_from_slice(&size.to_be_bytes());
        record[25] = if name.len() > 1 { 0 } else { 2 };
        record[32] = u8::try_from(name.len()).unwrap();
        record
    };
    let root = record(b"\0", 18, 2048);
    let mut image = vec![0; 20 * SECTOR];
    let descriptor = &mut image[16 * SECTOR..17 * SECTOR];
    descriptor[..6].copy_from_slice(b"\x01CD001");
    descriptor[6] = 1;
    descriptor[40..72].copy_from_slice(b"SURPLUS                         ");
    descriptor[80..84].copy_from_slice(&20_u32.to_le_bytes());
    descriptor[84..88].copy_from_slice(&20_u32.to_be_bytes());
    descriptor[128..130].copy_from_slice(&2048_u16.to_le_bytes());
    descriptor[130..132].copy_from_slice(&2048_u16.to_be_bytes());
    descriptor[156..156 + root.len()].copy_from_slice(&root);
    let size = u32::try_from(TEXT.len()).unwrap();
    let file = record(format!("{name};1").as_bytes(), 19, size);
    let entries = [root, record(b"\x01", 18, 2048), file].concat();
    image[18 * SECTOR..18 * SECTOR + entries.len()].copy_from_slice(&entries);
    image[19 * SECTOR..19 * SECTOR + TEXT.len()].copy_from_slice(TEXT);
    image
}

fn plug(tree: &Tree, name: &str, content: impl AsRef<[u8]>) {
    tree.file(&format!("/sys/class/block/{name}/size"), "80")
        .file(&format!("/dev/{name}"), content);
}

#[test]
fn the_file_is_read_from_the_labelled_stick_alone() {
    let tree = Tree::new();
    plug(&tree, "sda", vec![1; 40_000]);
    plug(&tree, "sdb", vec![0; 10]);
    plug(&tree, "sdb1", stick(b"SURPLUS    ", Some(TEXT)));
    plug(&tree, "sda1", stick(b"OTHER      ", Some(b"another's")));
    tree.file("/sys/class/block/sr0/size", "0");
    let mut media = Media::new(tree.root());
    assert_eq!(media.read().unwrap().unwrap(), TEXT);
    assert_eq!(media.name(), "medium:sdb1");
}

#[test]
fn the_file_is_read_from_a_cd_under_its_long_and_its_short_name() {
    for name in ["SITE.TOML", "SITE.TOM"] {
        let tree = Tree::new();
        plug(&tree, "sr0", cd(name));
        let read = Media::new(tree.root()).read().unwrap();
        assert_eq!(read.as_deref(), Some(TEXT), "{name}");
    }
    let tree = Tree::new();
    plug(&tree, "sr0", cd("OTHER.TOM"));
    let error = Media::new(tree.root()).read().unwrap_err();
    assert_eq!(error.to_string(), "there is no site.toml on it");
}

#[test]
fn a_device_is_read_again_only_when_its_medium_changed() {
    let tree = Tree::new();
    plug(&tree, "sdb", vec![0; 40_000]);
    tree.file("/sys/class/block/sdb/diskseq", "7");
    let mut media = Media::new(tree.root());
    assert!(media.read().unwrap().is_none());
    tree.file("/dev/sdb", stick(b"SURPLUS    ", Some(TEXT)));
    assert!(media.read().unwrap().is_none());
    tree.file("/sys/class/block/sdb/diskseq", "8");
    assert!(media.read().unwrap().is_some());
}

#[test]
fn a_labelled_stick_without_the_file_or_with_a_huge_one_is_an_error_that_says_so() {
    let too_large = vec![b'#'; usize::try_from(LARGEST).unwrap() + 1];
    for (content, said) in [
        (None, "there is no site.toml on it".to_owned()),
        (
            Some(&too_large[..]),
            format!("site.toml is larger than {LARGEST} bytes"),
        ),
    ] {
        let tree = Tree::new();
        plug(&tree, "sdb", stick(b"SURPLUS    ", content));
        let error = Media::new(tree.root()).read().unwrap_err();
        assert_eq!(error.to_string(), said);
    }
}

#[test]
fn a_damaged_stick_or_cd_is_an_error_and_no_end() {
    let whole = [stick(b"SURPLUS    ", Some(TEXT)), cd("SITE.TOML")];
    for image in whole {
        for cut in [40_000, 34_900] {
            for from in (0..0x1000).step_by(7).chain(0x8050..0x8100) {
                let mut image = image[..cut].to_vec();
                image[from..from + 4].fill(0xff);
                let tree = Tree::new();
                plug(&tree, "sdb", image);
                let _ = Media::new(tree.root()).read();
            }
        }
    }
}
