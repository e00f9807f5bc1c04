//! Whether the root fits into this host's memory, and the host beside it.

use std::fs;

use crate::failure::Failure;

const MIB: u64 = 1 << 20;
/// What the host takes beside the image, up to its first offer.
const HOST: u64 = 128 * MIB;

/// Refuses a fetch that would end in a host without memory.
pub(crate) fn check(image: u64) -> Result<(), Failure> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available(&text) {
        Some(there) => judge(image, there),
        // Not knowing is no reason to refuse.
        None => Ok(()),
    }
}

fn judge(image: u64, there: u64) -> Result<(), Failure> {
    let needed = image + HOST;
    if there >= needed {
        return Ok(());
    }
    Err(Failure::new(
        "medium",
        format!(
            "too little memory: {} MiB are needed ({} for the root, {} for the host), and {} MiB \
             are there",
            needed.div_ceil(MIB),
            image.div_ceil(MIB),
            HOST / MIB,
            there / MIB,
        ),
        "give this host more memory, or boot it from the ISO, which keeps the root on its medium",
    ))
}

/// Bytes that can be had without taking from others.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_names_what_is_needed_and_what_is_there() {
        let meminfo = "MemTotal:         201000 kB\nMemAvailable:     102400 kB\n";
        assert_eq!(available(meminfo), Some(100 * MIB));
        let failure = judge(55 * MIB, 100 * MIB).unwrap_err();
        assert!(
            failure.error.contains("183 MiB are needed")
                && failure.error.contains("100 MiB are there"),
            "{}",
            failure.error
        );
        judge(55 * MIB, 183 * MIB).unwrap();
    }
}
