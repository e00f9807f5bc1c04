//! `SHA256SUMS`, with the site area as a hole.
//!
//! The hole is defined so that nobody needs to know of it: an ISO is summed as
//! if its site area were empty. For an ISO as it was built that is its plain
//! SHA-256, so `sha256sum -c` works; a customised one has the same sum here as
//! the one that it was made from.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use surplus_medium::area;

use crate::iso::Iso;

/// The lines of a `SHA256SUMS` file: sum and name.
pub(crate) fn parse(text: &str) -> Option<Vec<(String, String)>> {
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (sum, name) = line.split_once([' ', '\t'])?;
            let name = name.trim_start().trim_start_matches('*');
            let plain = !name.is_empty() && !name.contains('/') && name != "..";
            let sum_ok = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
            (plain && sum_ok).then(|| (sum.to_ascii_lowercase(), name.to_owned()))
        })
        .collect()
}

pub(crate) fn of_file(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    feed(&mut hash, File::open(path)?)?;
    Ok(hex::encode(hash.finalize()))
}

/// The sum of an ISO with its site area taken as empty.
pub(crate) fn of_iso(iso: &mut Iso) -> io::Result<String> {
    let mut hash = Sha256::new();
    iso.file.seek(SeekFrom::Start(0))?;
    feed(&mut hash, (&mut iso.file).take(iso.area.offset))?;
    hash.update(area::empty());
    iso.file.seek(SeekFrom::Start(iso.area.end()))?;
    feed(&mut hash, &mut iso.file)?;
    Ok(hex::encode(hash.finalize()))
}

fn feed(hash: &mut Sha256, mut source: impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let sum = "0a".repeat(32);
        let text = format!("{sum}  surplus.iso\n{sum} *root.img\n");
        let names: Vec<_> = parse(&text)
            .unwrap()
            .into_iter()
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["surplus.iso", "root.img"]);
        for bad in [
            "abc  x",
            &format!("{sum}  ../x"),
            &format!("{sum}  /etc/passwd"),
            &sum,
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
