use proptest::prelude::*;

use super::*;
use crate::signing::{make_keys, sign};
use crate::testing::{kernel, line, program};

const SITE: &str = "surplus.site=https://boot.example.net:8444/site.toml surplus.ca=sha256:0a";

/// The checksum field's place in the test image.
const CHECKSUM: usize = 0x40 + 24 + 64;
const DIRECTORY: usize = 0x40 + 24 + 112 + 32;

/// As a signing program leaves it: a table at the end, a checksum.
fn signed(mut image: Vec<u8>) -> Vec<u8> {
    let start = u32::try_from(image.len()).unwrap();
    image[DIRECTORY..DIRECTORY + 4].copy_from_slice(&start.to_le_bytes());
    image[DIRECTORY + 4] = 16;
    image[CHECKSUM] = 1;
    image.extend([16, 0, 0, 0, 0, 2, 2, 0, 0x30, 0, 0, 0, 0, 0, 0, 0]);
    image
}

#[test]
fn arguments_are_written_in_place_and_replace_earlier_ones() {
    let image = kernel(&line(), ROOM);
    assert_eq!(command_line(&image).unwrap(), line());
    let one = with_arguments(image.clone(), SITE).unwrap();
    assert_eq!(command_line(&one).unwrap(), format!("{} {SITE}", line()));
    assert_eq!(one.len(), image.len());
    let room = section(&image, ".cmdline").unwrap();
    assert_eq!(room.len(), ROOM);
    assert!(one[..room.start] == image[..room.start] && one[room.end..] == image[room.end..]);

    let other = "surplus.root=http://10.0.0.1/root.img surplus.site=https://b/s";
    let two = with_arguments(one.clone(), other).unwrap();
    assert_eq!(command_line(&two).unwrap(), format!("{} {other}", line()));
    assert!(with_arguments(two, "").unwrap() == with_arguments(image, "").unwrap());
}

#[test]
fn a_command_line_that_fills_its_room_fits_and_one_byte_more_does_not() {
    let image = kernel(&line(), ROOM);
    let fill = |length: usize| format!("surplus.site={}", "x".repeat(length - line().len() - 14));
    let full = with_arguments(image.clone(), &fill(ROOM)).unwrap();
    assert_eq!(command_line(&full).unwrap().len(), ROOM);
    assert_eq!(
        with_arguments(image, &fill(ROOM + 1)).unwrap_err(),
        EfiError::NoRoom {
            needed: ROOM + 1,
            room: ROOM
        }
    );
}

#[test]
fn only_the_sites_words_are_taken() {
    for bad in [
        "surplus.roothash=00",
        "init=/bin/sh",
        "surplus.site=\"a",
        "surplus.site=a\u{e4}",
        "surplus.site=a\u{1}",
    ] {
        let refused = with_arguments(kernel(&line(), ROOM), bad);
        assert!(matches!(refused, Err(EfiError::Argument { .. })), "{bad}");
    }
}

#[test]
fn a_signed_image_is_not_altered_and_unsigned_is_what_it_was() {
    let plain = kernel(&line(), ROOM);
    assert!(!is_signed(&plain).unwrap());
    let signed = signed(plain.clone());
    assert!(is_signed(&signed).unwrap());
    assert_eq!(with_arguments(signed.clone(), SITE), Err(EfiError::Signed));
    assert_eq!(signers(&signed).unwrap(), ["nobody that can be read"]);
    let mut back = unsigned(signed).unwrap();
    assert!(!is_signed(&back).unwrap());
    assert!(back[CHECKSUM..CHECKSUM + 4] != [0; 4]);
    back[CHECKSUM..CHECKSUM + 4].fill(0);
    assert!(back == plain);
}

#[test]
fn the_checksum_is_as_the_signing_program_writes_it() {
    let place = tempfile::tempdir().unwrap();
    let keys = make_keys(place.path(), "Test", &program).expect("needs `apt install openssl`");
    let theirs = sign(&kernel(&line(), ROOM), &keys.signer(), &program)
        .expect("needs `apt install sbsigntool`");
    let mut ours = theirs.clone();
    ours[CHECKSUM] ^= 0x55;
    Layout::read(&theirs).unwrap().write_checksum(&mut ours);
    assert!(ours == theirs);
}

#[test]
fn what_is_no_image_of_ours_is_told_apart() {
    let error = |bytes: &[u8]| command_line(bytes).unwrap_err();
    assert!(matches!(error(b"#!/bin/sh"), EfiError::NotEfi { .. }));
    let mut other = kernel(&line(), ROOM);
    other[0x44] = 0x4c;
    assert!(matches!(error(&other), EfiError::NotEfi { .. }));
    assert_eq!(error(&kernel("root=/dev/sda1", ROOM)), EfiError::Foreign);
    assert_eq!(
        error(&kernel(&format!("{} a\u{7}b", line()), 300)),
        EfiError::NotText
    );
    let mut renamed = kernel(&line(), ROOM);
    let at = renamed.windows(8).position(|w| w == b".cmdline").unwrap();
    renamed[at] = b'x';
    assert!(matches!(error(&renamed), EfiError::NoSection { .. }));
    // The name of the first section, so that there are two.
    let mut twice = kernel(&line(), ROOM);
    twice[at - 40..at - 32].copy_from_slice(b".cmdline");
    assert!(matches!(error(&twice), EfiError::Damaged { .. }));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = command_line(&bytes);
        let _ = signers(&bytes);
        let _ = with_arguments([b"MZ".as_slice(), &bytes].concat(), SITE);
    }

    /// Damage where it is most confusing: in the headers and the table's entry.
    #[test]
    fn no_damaged_header_makes_it_panic(
        flips in proptest::collection::vec((0..0x200_usize, any::<u8>()), 1..6),
        cut in 0..6000_usize,
    ) {
        let mut image = signed(kernel(&line(), ROOM));
        for (at, value) in flips {
            image[at] = value;
        }
        image.truncate(cut.max(0x200));
        let length = image.len();
        let _ = signers(&image);
        let _ = unsigned(image.clone());
        if let Ok(altered) = with_arguments(image, SITE) {
            prop_assert_eq!(altered.len(), length);
        }
    }

    #[test]
    fn a_damaged_table_of_signatures_names_somebody_or_nobody(
        table in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        let _ = signature::signers(&table);
    }
}
