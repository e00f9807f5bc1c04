//! Compresses what the kernel itself decompresses: modules and firmware.
//!
//! Source: Documentation/staging/xz.rst: the check must be CRC32, and the
//! dictionary is memory that the kernel takes while it decompresses.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;

const DICTIONARY: u32 = 1 << 20;

/// What the bytes are; machine code of x86 compresses better after a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Code,
    Data,
}

/// Compresses each on its own, with all processors, and keeps their order.
pub(super) fn compress_all(contents: &[Vec<u8>], content: Content) -> anyhow::Result<Vec<Vec<u8>>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, bytes)) = take(&next, contents) {
            let packed = compress(bytes, content);
            if let Ok(mut done) = done.lock() {
                done.push((index, packed));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut done = done
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a thread that compresses ended by a panic"))?;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, packed)| packed).collect()
}

fn take<'a>(next: &AtomicUsize, contents: &'a [Vec<u8>]) -> Option<(usize, &'a [u8])> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, contents.get(index)?))
}

fn compress(bytes: &[u8], content: Content) -> anyhow::Result<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(9)?;
    options.dict_size(DICTIONARY);
    let mut filters = Filters::new();
    if content == Content::Code {
        filters.x86();
    }
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).context("compressing with xz")?;
    encoder.finish().context("compressing with xz")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_compressed_comes_back_in_its_order() {
        let contents: Vec<_> = (0_u8..20).map(|n| vec![n; 5000]).collect();
        for content in [Content::Code, Content::Data] {
            let packed = compress_all(&contents, content).unwrap();
            for (packed, content) in packed.iter().zip(&contents) {
                let mut plain = Vec::new();
                liblzma::read::XzDecoder::new(&packed[..])
                    .read_to_end(&mut plain)
                    .unwrap();
                assert!(plain == *content && packed.len() < 500);
            }
        }
    }
}
