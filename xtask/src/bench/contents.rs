//! What fills the ISO, as the image build has counted it.

use std::fs;

use anyhow::{Context as _, Result};
use surplus_tests::Lab;

use super::table::{Table, megabytes};

pub(super) fn measure(lab: &Lab, table: &mut Table) -> Result<()> {
    let bytes = fs::metadata(lab.artefact("surplus.iso")?)?.len();
    table.row("ISO", megabytes(bytes), "150 MB");
    let report = lab.artefact("surplus.size.txt")?;
    let text = fs::read_to_string(&report)
        .with_context(|| format!("could not read {}", report.display()))?;
    for (size, topic) in text.lines().filter_map(line) {
        table.row(format!("ISO: {topic}"), format!("{size} MB"), "");
    }
    Ok(())
}

/// `   21.15  libraries`: size in MB and topic; not the sum of all.
fn line(line: &str) -> Option<(&str, &str)> {
    let (size, topic) = line.trim().split_once("  ")?;
    let _: f64 = size.parse().ok()?;
    (topic.trim() != "in all").then_some((size, topic.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_a_size_are_rows() {
        assert_eq!(line("   21.15  libraries"), Some(("21.15", "libraries")));
        assert_eq!(line("What fills surplus.iso, in MB (10^6 bytes):"), None);
        assert_eq!(line("   83.78  in all"), None);
    }
}
