//! Images made to harm.

use std::io::Cursor;

use surplus_disk_image::{Content, Fault, Unfit, judge, map};
use surplus_protocol::lease::ImageFormat;

use crate::made::{Made, STREAM, VARIANTS, created};

fn judged(bytes: &[u8], format: ImageFormat) -> Result<Content, Unfit> {
    judge(&mut Cursor::new(bytes), format).map_err(|fault| match fault {
        Fault::Unfit(unfit) => unfit,
        Fault::Read(error) => panic!("{error}"),
    })
}

fn refused(bytes: &[u8], format: ImageFormat) -> Unfit {
    judged(bytes, format).expect_err("it was taken")
}

fn out_of_bounds(format: ImageFormat, what: &'static str) -> Unfit {
    Unfit::OutOfBounds { format, what }
}

/// The image with some of its bytes others.
fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + new.len()].copy_from_slice(new);
    changed
}

#[test]
fn a_qcow2_image_that_refers_to_other_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backed = ["-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", "1M"];
    let backed = created(dir.path(), &backed);
    assert_eq!(refused(&backed, ImageFormat::Qcow2), Unfit::BackingFile);
    let apart = created(dir.path(), &["-f", "qcow2", "-o", "data_file=other", "1M"]);
    let other = Unfit::OtherFile(String::new());
    assert_eq!(refused(&apart, ImageFormat::Qcow2), other);
}

#[test]
fn a_qcow2_image_whose_tables_eat_memory_is_refused() {
    let format = ImageFormat::Qcow2;
    let whole = Made::new(VARIANTS[0]).bytes();
    // Version 3: 8 bits are changed at a time, by the fields' places.
    for (at, new, refusal) in [
        (
            4,
            4_u32.to_be_bytes(),
            Unfit::Version { format, version: 4 },
        ),
        (
            20,
            63_u32.to_be_bytes(),
            out_of_bounds(format, "cluster size"),
        ),
        (32, 2_u32.to_be_bytes(), Unfit::Encrypted),
        (
            36,
            u32::MAX.to_be_bytes(),
            out_of_bounds(format, "L1 table"),
        ),
        (36, 0_u32.to_be_bytes(), out_of_bounds(format, "L1 table")),
        (
            56,
            u32::MAX.to_be_bytes(),
            out_of_bounds(format, "reference count table"),
        ),
        (
            60,
            u32::MAX.to_be_bytes(),
            out_of_bounds(format, "number of snapshots"),
        ),
        (76, 2_u32.to_be_bytes(), Unfit::Corrupt),
        (
            76,
            256_u32.to_be_bytes(),
            Unfit::UnknownFeatures { format, bits: 256 },
        ),
    ] {
        assert_eq!(refused(&with(&whole, at, &new), format), refusal, "{at}");
    }
    let far = with(&whole, 40, &(1_u64 << 60).to_be_bytes());
    let what = "its L1 table";
    assert_eq!(refused(&far, format), Unfit::CutOff { format, what });
}

#[test]
fn a_disk_that_nobody_could_sell_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (format, driver) in [
        (ImageFormat::Qcow2, "qcow2"),
        (ImageFormat::Vmdk, "vmdk"),
        (ImageFormat::Vhdx, "vhdx"),
    ] {
        // 64 TiB is VHDX's own end.
        let image = match format {
            ImageFormat::Qcow2 => {
                let options = ["-f", driver, "-o", "cluster_size=2M", "1P"];
                created(dir.path(), &options)
            }
            _ => {
                let image = created(dir.path(), &["-f", driver, "8M"]);
                let size = if format == ImageFormat::Vmdk {
                    (1_u64 << 50).to_le_bytes()
                } else {
                    (1_u64 << 60).to_le_bytes()
                };
                let at = if format == ImageFormat::Vmdk {
                    12
                } else {
                    let old = (8_u64 << 20).to_le_bytes();
                    image.windows(8).position(|bytes| bytes == old).unwrap()
                };
                with(&image, at, &size)
            }
        };
        let refusal = refused(&image, format);
        assert!(
            matches!(
                refusal,
                Unfit::LargerThanDisk { .. } | Unfit::OutOfBounds { .. }
            ),
            "{format}: {refusal}"
        );
    }
}

#[test]
fn a_vmdk_whose_data_lies_elsewhere_is_refused_by_its_name() {
    let format = ImageFormat::Vmdk;
    let dir = tempfile::tempdir().unwrap();
    let flat = created(
        dir.path(),
        &["-f", "vmdk", "-o", "subformat=monolithicFlat", "1M"],
    );
    assert!(matches!(refused(&flat, format), Unfit::OtherFile(_)));

    let whole = Made::new(VARIANTS[3]).bytes();
    for extent in [
        "RW 1 FLAT \"/etc/passwd\" 0",
        "RW 1 VMFS \"/dev/sda\"",
        "RW 1 SPARSE \"/etc/passwd\"",
        "RW 1 SPARSE \"..\\x\"",
    ] {
        let refusal = refused(&descriptor(&whole, extent, "monolithicSparse", ""), format);
        let Unfit::OtherFile(name) = &refusal else {
            panic!("{extent}: {refusal}");
        };
        assert!(name.contains(['/', '\\']), "{refusal}");
    }
    let own = "RW 1 SPARSE \"x.vmdk\"";
    judged(&descriptor(&whole, own, "monolithicSparse", ""), format).unwrap();
    let two = format!("{own}\n{own}");
    let two = refused(&descriptor(&whole, &two, "monolithicSparse", ""), format);
    assert_eq!(two, out_of_bounds(format, "number of extents"));
    let kind = refused(&descriptor(&whole, own, "twoGbMaxExtentSparse", ""), format);
    assert!(matches!(kind, Unfit::Kind { .. }), "{kind}");
    // Without a capacity QEMU goes by the descriptor.
    assert_eq!(refused(&with(&whole, 12, &[0; 8]), format), Unfit::Empty);
}

#[test]
fn an_image_with_a_parent_is_refused() {
    let vmdk = Made::new(VARIANTS[3]).bytes();
    let own = "RW 1 SPARSE \"x.vmdk\"";
    for parent in ["parentFileNameHint=\"/etc/passwd\"", "parentCID=12345678"] {
        let child = descriptor(&vmdk, own, "monolithicSparse", parent);
        assert_eq!(refused(&child, ImageFormat::Vmdk), Unfit::BackingFile);
    }

    let vhd = Made::new(VARIANTS[4]).bytes();
    let end = vhd.len() - 512;
    let child = [0, end].into_iter().fold(vhd, |vhd, footer| {
        // The checksum falls as the type, 3, rises to 4.
        let sum = u32::from_be_bytes(vhd[footer + 64..footer + 68].try_into().unwrap());
        let vhd = with(&vhd, footer + 60, &4_u32.to_be_bytes());
        with(&vhd, footer + 64, &(sum - 1).to_be_bytes())
    });
    assert_eq!(refused(&child, ImageFormat::Vhd), Unfit::BackingFile);

    let vhdx = Made::new(VARIANTS[6]).bytes();
    // File parameters, among the metadata: a block size of 1 MiB, no flags.
    let (parameters, metadata) = ([0, 0, 16, 0, 0, 0, 0, 0], 3 << 20);
    let mut places = vhdx[metadata..].windows(8);
    let at = metadata + places.position(|bytes| bytes == parameters).unwrap();
    let child = with(&vhdx, at + 4, &[2]);
    assert_eq!(refused(&child, ImageFormat::Vhdx), Unfit::BackingFile);
}

#[test]
fn a_footer_that_says_other_than_the_header_is_refused() {
    let stream = with_footer(&Made::new(STREAM).bytes());
    judged(&stream, ImageFormat::Vmdk).unwrap();
    let footer = stream.len() - 1024;
    let other = with(&stream, footer + 12, &(1_u64 << 40).to_le_bytes());
    assert!(matches!(
        refused(&other, ImageFormat::Vmdk),
        Unfit::OutOfBounds { .. }
    ));
    let vhd = Made::new(VARIANTS[4]).bytes();
    let other = with(&vhd, 48, &(1_u64 << 40).to_be_bytes());
    assert!(matches!(
        refused(&other, ImageFormat::Vhd),
        Unfit::OutOfBounds { .. }
    ));
}

#[test]
fn tables_that_are_followed_for_ever_are_refused() {
    // The smallest clusters and a disk as large as may be.
    let dir = tempfile::tempdir().unwrap();
    let format = ImageFormat::Qcow2;
    let image = created(dir.path(), &["-f", "qcow2", "-o", "cluster_size=512", "8M"]);
    let virtual_bytes = (32_u64 << 20) / 8 * 64 * 512;
    let huge = with(&image, 24, &virtual_bytes.to_be_bytes());
    let mut huge = with(&huge, 36, &(4_u32 << 20).to_be_bytes());
    // Each L1 entry names the same table, which is all of the file.
    huge.resize(64 << 20, 1);
    let content = judged(&huge, format).unwrap();
    let begun = std::time::Instant::now();
    let _ = map::check(&mut Cursor::new(&huge), format, &content);
    assert!(begun.elapsed().as_secs() < 60);
}

/// The image as a writer that knows no way back makes it: where the grain
/// directory lies is said at the end.
fn with_footer(stream: &[u8]) -> Vec<u8> {
    let mut image = with(stream, 56, &u64::MAX.to_le_bytes());
    // Markers of footer and end, around a header.
    let mut marker = [0; 512];
    marker[0] = 1;
    marker[12] = 3;
    image.extend(marker);
    image.extend(&stream[..512]);
    image.extend([0; 512]);
    image
}

/// The image with another descriptor.
fn descriptor(image: &[u8], extent: &str, kind: &str, more: &str) -> Vec<u8> {
    let at = u64::from_le_bytes(image[28..36].try_into().unwrap());
    let text =
        format!("# Disk DescriptorFile\nversion=1\ncreateType=\"{kind}\"\n{more}\n{extent}\n");
    let mut bytes = vec![0; 20 * 512];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    with(image, usize::try_from(at).unwrap() * 512, &bytes)
}
