//! Memory, whole and by NUMA node.

use surplus_protocol::inventory::NumaNode;

use crate::sysroot::{SysRoot, parse_list};

const NODES: &str = "/sys/devices/system/node";
/// Under `/sys/kernel/mm` and under each node.
const HUGE_PAGES: &str = "hugepages/hugepages-2048kB/nr_hugepages";
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What the owner reserved in huge pages when the host booted, in bytes.
///
/// <https://docs.kernel.org/admin-guide/mm/hugetlbpage.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// In pages of any size: `MemTotal` counts it, and nothing else can use it.
    pub reserved: u64,
    /// In pages of 2 MiB, which are what guests have. In larger ones most guests would
    /// not fill their last page.
    pub for_guests: u64,
}

pub(crate) fn huge_pages(root: &SysRoot) -> HugePages {
    HugePages {
        reserved: field(&root.text("/proc/meminfo").unwrap_or_default(), "Hugetlb:"),
        for_guests: pool(root, "/sys/kernel/mm"),
    }
}

fn pool(root: &SysRoot, of: &str) -> u64 {
    let pages = root.number::<u64>(format!("{of}/{HUGE_PAGES}"));
    pages.unwrap_or(0).saturating_mul(HUGE_PAGE_BYTES)
}

/// `MemTotal`, in bytes.
pub(super) fn total(root: &SysRoot) -> u64 {
    field(&root.text("/proc/meminfo").unwrap_or_default(), "MemTotal:")
}

pub(crate) fn numa_nodes(root: &SysRoot) -> Vec<NumaNode> {
    root.names(NODES)
        .into_iter()
        .filter_map(|name| {
            let id = name.strip_prefix("node")?.parse().ok()?;
            let text = |file: &str| {
                root.text(format!("{NODES}/{name}/{file}"))
                    .unwrap_or_default()
            };
            Some(NumaNode {
                id,
                memory_bytes: field(&text("meminfo"), "MemTotal:"),
                cpus: parse_list(&text("cpulist")),
            })
        })
        .collect()
}

/// The nodes with the memory that guests have there: huge pages, where there are any.
pub(crate) fn guests_nodes(root: &SysRoot) -> Vec<NumaNode> {
    let mut nodes = numa_nodes(root);
    if huge_pages(root).for_guests > 0 {
        for node in &mut nodes {
            node.memory_bytes = pool(root, &format!("{NODES}/node{}", node.id));
        }
    }
    nodes
}

/// The kibibytes behind `name`, in bytes.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word != name)
                .skip(1);
            words.next()?.parse::<u64>().ok()
        })
        .unwrap_or(0)
        .saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn total_and_nodes_come_in_bytes() {
        let tree = Tree::new();
        tree.file("/proc/meminfo", "MemTotal:       1000 kB\nMemFree: 5 kB\n")
            .file(
                "/sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal:  600 kB\n",
            )
            .file("/sys/devices/system/node/node0/cpulist", "0-1\n")
            .file(
                "/sys/devices/system/node/node1/meminfo",
                "Node 1 MemTotal:  400 kB\n",
            )
            .file("/sys/devices/system/node/node1/cpulist", "2\n")
            .file("/sys/devices/system/node/online", "0-1");
        assert_eq!(total(&tree.root()), 1_024_000);
        let nodes = numa_nodes(&tree.root());
        assert_eq!(nodes.len(), 2);
        assert_eq!(
            (nodes[0].memory_bytes, nodes[0].cpus.clone()),
            (614_400, vec![0, 1])
        );
        assert_eq!((nodes[1].id, nodes[1].cpus.clone()), (1, vec![2]));
        assert_eq!(huge_pages(&tree.root()), HugePages::default());
        assert_eq!(guests_nodes(&tree.root()), nodes);
    }

    #[test]
    fn guests_have_the_huge_pages_of_2_mib_and_each_node_its_own() {
        let tree = Tree::new();
        tree.file(
            "/proc/meminfo",
            "MemTotal: 16777216 kB\nHugetlb: 5242880 kB\n",
        )
        .file(&format!("/sys/kernel/mm/{HUGE_PAGES}"), "2048\n");
        for (node, pages) in [(0, "1536\n"), (1, "512\n")] {
            tree.file(&format!("{NODES}/node{node}/{HUGE_PAGES}"), pages);
        }
        let huge = huge_pages(&tree.root());
        assert_eq!((huge.reserved, huge.for_guests), (5 << 30, 4 << 30));
        let memory = |node: &NumaNode| node.memory_bytes;
        let nodes: Vec<_> = guests_nodes(&tree.root()).iter().map(memory).collect();
        assert_eq!(nodes, [3 << 30, 1 << 30]);
    }
}
