//! OVA archives, good and bad.

use std::io::Cursor;

use sha2::Digest as _;
use surplus_disk_image::{Content, Fault, Unfit, judge, map, recognise};
use surplus_protocol::lease::ImageFormat;
use tar::{Builder, EntryType, Header};

use crate::made::{Made, STREAM};

const OVF: (&str, &[u8]) = ("box.ovf", b"<Envelope/>");

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        builder
            .append(
                &header(name, EntryType::Regular, bytes.len() as u64),
                *bytes,
            )
            .unwrap();
    }
    builder.into_inner().unwrap()
}

/// A header with a name that the tar crate itself would not write.
fn header(name: &str, kind: EntryType, bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn judged(bytes: &[u8]) -> Result<Content, Unfit> {
    judge(&mut Cursor::new(bytes), ImageFormat::Ova).map_err(|fault| match fault {
        Fault::Unfit(unfit) => unfit,
        Fault::Read(error) => panic!("{error}"),
    })
}

fn why(bytes: &[u8]) -> String {
    judged(bytes).expect_err("it was taken").to_string()
}

fn digests(vmdk: &[u8]) -> [String; 2] {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let one: String = hex(&<sha1::Sha1 as sha1::Digest>::digest(vmdk));
    let two: String = hex(&sha2::Sha256::digest(vmdk));
    [
        format!("SHA1(box.vmdk)= {one}\n"),
        format!("SHA256(box.vmdk)= {two}\n"),
    ]
}

#[test]
fn the_disk_is_found_where_it_lies() {
    let vmdk = Made::new(STREAM).bytes();
    for manifest in digests(&vmdk) {
        let ova = archive(&[OVF, ("box.mf", manifest.as_bytes()), ("box.vmdk", &vmdk)]);
        let file = &mut Cursor::new(&ova);
        assert_eq!(recognise(file).unwrap(), ImageFormat::Ova);
        let content = judged(&ova).unwrap();
        let begin = usize::try_from(content.offset).unwrap();
        assert!(ova[begin..].starts_with(&vmdk));
        assert_eq!(content.bytes, vmdk.len() as u64);
        map::check(file, ImageFormat::Ova, &content).unwrap();
    }
}

#[test]
fn a_disk_that_is_not_what_the_manifest_says_is_refused() {
    let vmdk = Made::new(STREAM).bytes();
    let mut other = vmdk.clone();
    other[vmdk.len() / 2] ^= 1;
    for manifest in digests(&vmdk) {
        let ova = archive(&[OVF, ("box.mf", manifest.as_bytes()), ("box.vmdk", &other)]);
        assert!(why(&ova).contains("not what the manifest says"));
    }
    let missing = b"SHA1(x.vmdk)= 00\n";
    let ova = archive(&[OVF, ("box.mf", missing), ("box.vmdk", &vmdk)]);
    assert!(why(&ova).contains("in the manifest and not there"));
}

#[test]
fn members_that_are_no_plain_files_or_have_no_plain_names_are_refused() {
    let vmdk = Made::new(STREAM).bytes();
    let with = |name: &str, kind: EntryType| {
        let mut builder = Builder::new(Vec::new());
        for (name, bytes) in [OVF, ("box.vmdk", &vmdk)] {
            let header = header(name, EntryType::Regular, bytes.len() as u64);
            builder.append(&header, bytes).unwrap();
        }
        builder.append(&header(name, kind, 0), &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    judged(&with("notes.txt", EntryType::Regular)).unwrap();
    for (name, kind, reason) in [
        ("x", EntryType::Symlink, "is a link"),
        ("x", EntryType::Link, "is a link"),
        ("x", EntryType::Block, "is no plain file"),
        ("x", EntryType::Char, "is no plain file"),
        ("x", EntryType::Fifo, "is no plain file"),
        ("x", EntryType::Directory, "is no plain file"),
        ("x", EntryType::GNULongName, "is no plain file"),
        ("x", EntryType::GNUSparse, "is no plain file"),
        ("/etc/passwd", EntryType::Regular, "path instead of a name"),
        ("../passwd", EntryType::Regular, "path instead of a name"),
        ("..", EntryType::Regular, "path instead of a name"),
        ("a/b", EntryType::Regular, "path instead of a name"),
        ("BOX.VMDK", EntryType::Regular, "is there twice"),
        ("two.vmdk", EntryType::Regular, "more than one disk"),
    ] {
        let said = why(&with(name, kind));
        assert!(said.contains(reason), "{name} {kind:?}: {said}");
    }
}

#[test]
fn an_endless_member_and_endless_members_are_refused() {
    let vmdk = Made::new(STREAM).bytes();
    let mut endless = archive(&[OVF]);
    endless.truncate(1024);
    let long = header("box.vmdk", EntryType::Regular, 1 << 40);
    endless.extend_from_slice(long.as_bytes());
    endless.extend_from_slice(&vmdk);
    endless.resize(endless.len().next_multiple_of(512), 0);
    assert!(why(&endless).contains("longer than the archive"));
    let names: Vec<_> = (0..100).map(|index| format!("{index}.txt")).collect();
    let many: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), &b"x"[..]))
        .collect();
    assert!(why(&archive(&many)).contains("too many members"));
    let long = header("x", EntryType::XHeader, 1 << 20);
    let mut long = long.as_bytes().to_vec();
    long.resize(long.len() + (1 << 20) + 1024, b'x');
    assert!(why(&long).contains("renames or resizes"));
}

#[test]
fn an_archive_that_is_cut_off_or_holds_no_disk_is_refused() {
    let vmdk = Made::new(STREAM).bytes();
    let whole = archive(&[OVF, ("box.vmdk", &vmdk)]);
    for part in 0..16 {
        let cut = whole.len() * part / 16;
        assert!(judged(&whole[..cut]).is_err(), "{cut}");
    }
    assert!(why(&archive(&[OVF])).contains("no VMDK disk"));
    assert!(why(&archive(&[("box.vmdk", &vmdk)])).contains("no OVF descriptor"));
    let inside = archive(&[OVF, ("box.vmdk", b"KDMV and nothing else")]);
    assert!(why(&inside).contains("cut off"), "{}", why(&inside));
}

#[test]
fn a_pax_header_may_say_times_and_no_names() {
    let vmdk = Made::new(STREAM).bytes();
    let with = |text: &str| {
        let mut builder = Builder::new(Vec::new());
        let pax = header("pax", EntryType::XHeader, text.len() as u64);
        builder.append(&pax, text.as_bytes()).unwrap();
        for (name, bytes) in [OVF, ("box.vmdk", &vmdk)] {
            let header = header(name, EntryType::Regular, bytes.len() as u64);
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    };
    judged(&with("30 mtime=1700000000.123456789\n")).unwrap();
    assert!(why(&with("20 path=/etc/passwd\n")).contains("renames"));
    assert!(why(&with("12 size=99999\n")).contains("renames"));
}
