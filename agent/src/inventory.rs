//! The host's hardware, as `/sys` and `/proc` show it.
//!
//! Owns reading, nothing else: no disk is opened, nothing is written, a fact
//! that cannot be read is left out. The KVM probe's result is put in by the
//! daemon when the probe is done.

mod cpu;
mod disks;
mod identity;
mod memory;
mod nics;

pub use identity::identity;
pub use nics::Addresses;
pub(crate) use nics::{has_link, is_card, is_up};

use surplus_protocol::inventory::{Inventory, KvmProbe};

use crate::sysroot::SysRoot;

/// Version of the agent, as the register shows it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads everything below `root`; `addresses` are the interfaces' by name.
pub fn read(root: &SysRoot, addresses: &Addresses, kvm: KvmProbe) -> Inventory {
    let boot = BootFacts::read(root);
    Inventory {
        identity: identity(root),
        cpu: cpu::read(root),
        memory_bytes: memory::total(root),
        numa_nodes: memory::numa_nodes(root),
        disks: disks::read(root, boot.medium.as_deref()),
        nics: nics::read(root, addresses),
        kvm,
        uefi: root.exists("/sys/firmware/efi"),
        agent_version: VERSION.to_owned(),
        root_hash: boot.root_hash.unwrap_or_default(),
        kernel: root.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
    }
}

/// Names of the machine's network cards.
pub fn cards(root: &SysRoot) -> Vec<String> {
    nics::physical(root)
}

/// Addresses of every interface now.
pub fn addresses_now() -> Addresses {
    nics::addresses_now()
}

/// What the initramfs left behind in `/run/surplus/boot.conf`.
#[derive(Debug, Default, PartialEq, Eq)]
struct BootFacts {
    root_hash: Option<String>,
    /// Name of the disk that the root was read from, as the kernel calls it.
    medium: Option<String>,
}

impl BootFacts {
    fn read(root: &SysRoot) -> Self {
        let mut facts = Self::default();
        let text = root.text("/run/surplus/boot.conf").unwrap_or_default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim().trim_matches('"').to_owned();
            match key.trim().to_ascii_lowercase().as_str() {
                "root_hash" | "roothash" | "hash" => facts.root_hash = Some(value),
                "device" | "medium" => {
                    facts.medium = Some(value.trim_start_matches("/dev/").to_owned());
                }
                _ => {}
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn an_empty_machine_is_read_without_an_error() {
        let read = read(&Tree::new().root(), &Addresses::new(), KvmProbe::Pending);
        assert_eq!(read.cpu.threads, 1);
        assert_eq!(read.memory_bytes, 0);
        assert!(!read.uefi);
    }

    #[test]
    fn the_initramfs_word_on_root_and_medium_is_taken() {
        let tree = Tree::new();
        tree.file(
            "/run/surplus/boot.conf",
            "root_hash=abc\nmedium=/dev/sr0\nother=1\n",
        );
        let facts = BootFacts::read(&tree.root());
        assert_eq!(facts.root_hash.as_deref(), Some("abc"));
        assert_eq!(facts.medium.as_deref(), Some("sr0"));
    }

    #[test]
    fn this_machine_can_be_read() {
        let read = read(&SysRoot::default(), &addresses_now(), KvmProbe::Pending);
        assert!(read.memory_bytes > 0);
        assert!(read.cpu.threads >= read.cpu.cores && read.cpu.cores >= read.cpu.sockets);
        assert!(!read.kernel.is_empty());
    }
}
