//! The text inside a VMDK that says what kind it is and where its data lies.

use surplus_protocol::lease::ImageFormat;

use crate::Unfit;

const FORMAT: ImageFormat = ImageFormat::Vmdk;

/// The kinds that hold all of a disk in one file.
const KINDS: [&str; 2] = ["monolithicSparse", "streamOptimized"];
pub(crate) const TAKEN: &str = "monolithicSparse and streamOptimized";

/// What an extent line may begin with.
const ACCESS: [&str; 3] = ["RW", "RDONLY", "NOACCESS"];

pub(crate) fn judge(bytes: &[u8]) -> Result<(), Unfit> {
    // As QEMU reads it: up to the first zero.
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]);
    // Looked for anywhere, as QEMU does.
    let text_lower = text.to_ascii_lowercase();
    if text_lower.contains("parentfilenamehint") {
        return Err(Unfit::BackingFile);
    }
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| name.trim().eq_ignore_ascii_case(key))?;
        Some(found.1.trim().trim_matches('"').to_owned())
    };
    match value("parentCID") {
        Some(cid) if !cid.eq_ignore_ascii_case("ffffffff") => return Err(Unfit::BackingFile),
        _ => {}
    }
    let mut extents = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|word| ACCESS.contains(&word)) {
            extents += 1;
            extent(line, words.nth(1).unwrap_or_default())?;
        }
    }
    let found = value("createType").unwrap_or_default();
    if !KINDS.contains(&found.as_str()) {
        return Err(Unfit::Kind {
            format: FORMAT,
            found: found.chars().take(40).collect(),
            taken: TAKEN,
        });
    }
    if extents != 1 {
        return Err(Unfit::OutOfBounds {
            format: FORMAT,
            what: "number of extents",
        });
    }
    Ok(())
}

/// `RW 2048 SPARSE "disk.vmdk"`: itself, whatever it was called once.
fn extent(line: &str, kind: &str) -> Result<(), Unfit> {
    let name = line.split('"').nth(1).unwrap_or_default();
    if kind != "SPARSE" || name.contains(['/', '\\']) {
        let name: String = name.chars().take(80).collect();
        return Err(Unfit::OtherFile(format!(" ({name:?})")));
    }
    Ok(())
}
