//! Processors: model, topology, features.

use std::collections::BTreeSet;

use surplus_protocol::inventory::Cpu;

use crate::sysroot::{SysRoot, parse_list};

const CPUS: &str = "/sys/devices/system/cpu";

pub(super) fn read(root: &SysRoot) -> Cpu {
    let info = root.text("/proc/cpuinfo").unwrap_or_default();
    let first = |keys: &[&str]| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| keys.contains(&key.trim()))
            .map(|(_, value)| value.trim().to_owned())
    };
    let online = online(root, &info);
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for cpu in &online {
        let fact = |name: &str| root.number::<i64>(format!("{CPUS}/cpu{cpu}/topology/{name}"));
        let socket = fact("physical_package_id").unwrap_or(0);
        sockets.insert(socket);
        cores.insert((
            socket,
            fact("die_id"),
            fact("core_id").unwrap_or(i64::from(*cpu)),
        ));
    }
    let mut flags: Vec<_> = first(&["flags", "Features"])
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    flags.sort();
    flags.dedup();
    Cpu {
        model: first(&["model name", "Model"]).unwrap_or_else(|| "unknown".to_owned()),
        vendor: first(&["vendor_id", "CPU implementer"]).unwrap_or_default(),
        sockets: count(sockets.len()),
        cores: count(cores.len()),
        threads: count(online.len()),
        flags,
    }
}

/// Numbers of the CPUs that are online; at least one, since this one runs.
fn online(root: &SysRoot, info: &str) -> Vec<u32> {
    let listed = root
        .text(format!("{CPUS}/online"))
        .map(|text| parse_list(&text));
    if let Some(listed) = listed.filter(|listed| !listed.is_empty()) {
        return listed;
    }
    let processors = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    (0..count(processors.max(1))).collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn two_sockets_of_two_cores_with_two_threads_are_counted() {
        let tree = Tree::new();
        tree.file(
            "/proc/cpuinfo",
            "processor : 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: vmx sse2\n",
        )
        .file("/sys/devices/system/cpu/online", "0-7\n");
        for cpu in 0..8 {
            let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
            tree.file(
                &format!("{topology}/physical_package_id"),
                (cpu / 2 % 2).to_string(),
            )
            .file(&format!("{topology}/core_id"), (cpu % 2).to_string());
        }
        let cpu = read(&tree.root());
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (2, 4, 8));
        assert_eq!(
            (cpu.model.as_str(), cpu.vendor.as_str()),
            ("Xeon", "GenuineIntel")
        );
        assert_eq!(cpu.flags, ["sse2", "vmx"]);
    }

    #[test]
    fn a_cpu_taken_offline_is_not_counted() {
        let tree = Tree::new();
        tree.file("/sys/devices/system/cpu/online", "0-1,3");
        assert_eq!(read(&tree.root()).threads, 3);
    }
}
