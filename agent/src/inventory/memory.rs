//! Memory, whole and by NUMA node.

use surplus_protocol::inventory::NumaNode;

use crate::sysroot::{SysRoot, parse_list};

const NODES: &str = "/sys/devices/system/node";

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
    }
}
