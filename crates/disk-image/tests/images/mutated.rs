//! No bytes make a judge panic, or see more than there is.

use std::io::Cursor;
use std::sync::LazyLock;

use proptest::prelude::*;
use surplus_disk_image::{judge, map, recognise};
use surplus_protocol::lease::ImageFormat;

use crate::made::{Made, VARIANTS};

static WHOLE: LazyLock<Vec<(ImageFormat, Vec<u8>)>> = LazyLock::new(|| {
    let made = VARIANTS.map(|variant| (variant.format, Made::new(variant).bytes()));
    made.into()
});

/// Where headers and tables lie, in one format or another.
const PLACES: [usize; 8] = [
    0,
    512,
    1024,
    64 << 10,
    128 << 10,
    192 << 10,
    1 << 20,
    2 << 20,
];

fn look(bytes: &[u8], format: ImageFormat) {
    let file = &mut Cursor::new(bytes);
    let _ = recognise(file);
    if let Ok(content) = judge(file, format) {
        let end = content.offset + content.bytes;
        assert!(end <= bytes.len() as u64);
        // A host would not follow the tables of a disk that it cannot hold.
        if content.virtual_bytes <= 1 << 30 {
            let _ = map::check(file, format, &content);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..2048),
    ) {
        for (format, whole) in &*WHOLE {
            look(&bytes, *format);
            let mut begun = whole[..512].to_vec();
            begun.extend(&bytes);
            look(&begun, *format);
        }
        look(&bytes, ImageFormat::Ova);
    }

    #[test]
    fn changed_headers_are_judged_without_a_panic(
        which in 0..VARIANTS.len(),
        place in 0..PLACES.len(),
        at in 0_usize..128,
        new in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let (format, whole) = &WHOLE[which];
        let start = PLACES[place] + at;
        let mut changed = whole.clone();
        if let Some(field) = changed.get_mut(start..start + new.len()) {
            field.copy_from_slice(&new);
        }
        look(&changed, *format);
        let end = changed.len() - 512 + at;
        changed.copy_from_slice(whole);
        changed[end..end + new.len()].copy_from_slice(&new);
        look(&changed, *format);
    }
}
