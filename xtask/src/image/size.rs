//! What fills the ISO, by topic.
//!
//! SquashFS does not say what a file takes when packed. Each file is therefore
//! packed once more here, in blocks of the same size by the same algorithm on
//! its fastest level, and the sums are scaled to the image's true size: shares
//! are right within a few per cent, their sum exactly.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// SquashFS packs files in blocks of this many bytes.
const BLOCK: usize = 128 * 1024;

/// Topics by where their files lie; the first match counts.
const TOPICS: &[(&str, &[&str])] = &[
    (
        "network and storage drivers, other modules",
        &["usr/lib/modules"],
    ),
    ("firmware of network cards", &["usr/lib/firmware"]),
    (
        "QEMU and guests' firmware",
        &[
            "usr/bin/qemu",
            "usr/share/qemu",
            "usr/share/seabios",
            "usr/share/OVMF",
        ],
    ),
    (
        "libvirt",
        &[
            "usr/sbin/libvirtd",
            "usr/sbin/virtlogd",
            "usr/share/libvirt",
            "usr/lib/x86_64-linux-gnu/libvirt",
            "etc/libvirt",
        ],
    ),
    (
        "systemd, udev, D-Bus",
        &[
            "usr/lib/systemd",
            "usr/lib/udev",
            "usr/lib/x86_64-linux-gnu/systemd",
            "usr/bin/systemd",
            "usr/bin/udevadm",
            "usr/bin/journalctl",
            "usr/bin/dbus",
            "usr/share/dbus-1",
        ],
    ),
    ("libraries", &["usr/lib/x86_64-linux-gnu"]),
    ("everything else", &[""]),
];

/// Estimates how the packed tree's bytes divide among the topics.
pub(crate) fn shares(tree: &Path) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    let mut sums = BTreeMap::new();
    add(tree, tree, &mut sums)?;
    let total: f64 = sums.values().sum();
    for share in sums.values_mut() {
        *share /= total;
    }
    Ok(sums)
}

fn add(
    tree: &Path,
    directory: &Path,
    sums: &mut BTreeMap<&'static str, f64>,
) -> anyhow::Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            add(tree, &path, sums)?;
        } else if kind.is_file() {
            // What only root may read (password files) weighs nothing.
            let content = fs::read(&path).unwrap_or_default();
            let name = path
                .strip_prefix(tree)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            *sums.entry(topic(&name)).or_default() += packed(&content)?;
        }
    }
    Ok(())
}

fn topic(path: &str) -> &'static str {
    let found = TOPICS
        .iter()
        .find(|(_, prefixes)| prefixes.iter().any(|p| path.starts_with(p)));
    found.map_or("everything else", |(name, _)| name)
}

fn packed(content: &[u8]) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for block in content.chunks(BLOCK) {
        let size = zstd::bulk::compress(block, 1)
            .context("estimating packed sizes")?
            .len();
        sum += size.min(block.len()) as f64;
    }
    Ok(sum)
}

/// The report: a line a topic, largest first, in MB, with the sum at the end.
pub(crate) fn report(parts: &[(String, f64)], total: f64) -> String {
    let mut parts = parts.to_vec();
    let known: f64 = parts.iter().map(|(_, bytes)| bytes).sum();
    parts.push(("file systems' own structures".into(), total - known));
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut text = String::from("What fills surplus.iso, in MB (10^6 bytes):\n\n");
    for (name, bytes) in &parts {
        let _ = writeln!(text, "{:8.2}  {name}", bytes / 1e6);
    }
    let _ = writeln!(text, "{:8.2}  in all", total / 1e6);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_lines_add_up_to_the_iso() {
        let text = report(&[("kernel".into(), 2e6), ("QEMU".into(), 5e6)], 8e6);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "    5.00  QEMU");
        assert_eq!(lines[2], "    1.00  file systems' own structures");
        assert_eq!(lines[3], "    8.00  in all");
    }

    #[test]
    fn each_file_belongs_to_its_topic_and_a_stranger_to_the_rest() {
        assert_eq!(topic("usr/bin/qemu-img"), "QEMU and guests' firmware");
        assert_eq!(
            topic("usr/lib/x86_64-linux-gnu/systemd/x.so"),
            "systemd, udev, D-Bus"
        );
        assert_eq!(topic("usr/lib/x86_64-linux-gnu/libc.so.6"), "libraries");
        assert_eq!(topic("etc/hosts"), "everything else");
    }
}
