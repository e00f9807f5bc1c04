//! Images as qemu-img makes them are taken; what is wrong with one is named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod hostile;
mod made;
mod mutated;

use made::{Made, VARIANTS};
use surplus_disk_image::{judge, map, recognise};

#[test]
fn what_qemu_img_makes_is_recognised_judged_and_whole() {
    for variant in VARIANTS {
        let made = Made::new(variant);
        let file = &mut made.open();
        assert_eq!(recognise(file).unwrap(), variant.format, "{variant:?}");
        let content = judge(file, variant.format).unwrap();
        map::check(file, variant.format, &content).unwrap();
        assert_eq!(content.virtual_bytes, made.size_by_qemu(), "{variant:?}");
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused_wherever_the_cut_is() {
    for variant in VARIANTS {
        let whole = Made::new(variant).bytes();
        for keep in [1, 2, 4, 8, 9, 15].map(|part| whole.len() * part / 16) {
            let mut cut = std::io::Cursor::new(&whole[..keep]);
            let judged = judge(&mut cut, variant.format);
            let refused = judged.and_then(|content| {
                map::check(&mut cut, variant.format, &content)?;
                Ok(content)
            });
            assert!(refused.is_err(), "{variant:?} cut at {keep}: {refused:?}");
        }
    }
}
