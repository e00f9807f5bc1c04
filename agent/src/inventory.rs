//! The host's hardware, as `/sys` and `/proc` show it.
//!
//! Owns reading, nothing else: no disk is opened, nothing is written, a fact
//! that cannot be read is left out. What the host tried on itself is put in by whoever
//! knows it.

mod cpu;
mod disks;
mod identity;
mod memory;
mod nics;

pub use identity::identity;
pub use memory::HugePages;
pub(crate) use memory::{guests_nodes, huge_pages};
pub use nics::{Addresses, Card};
pub(crate) use nics::{has_link, is_card, is_up};

use surplus_protocol::inventory::{BootSource, Inventory, KvmProbe};

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
        booted_from: boot.source(),
        root_hash: boot.root_hash.unwrap_or_default(),
        kernel: root.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        self_test: Vec::new(),
    }
}

/// The machine's disks, for whoever judges them.
pub(crate) fn disk_facts(root: &SysRoot) -> Vec<crate::storage::DiskFacts> {
    disks::facts(root, BootFacts::read(root).medium.as_deref())
}

/// The processors' model, and the memory in bytes: what is told before the
/// whole inventory is read.
pub fn size(root: &SysRoot) -> (String, u64) {
    (cpu::read(root).model, memory::total(root))
}

/// The machine's network cards.
pub fn cards(root: &SysRoot) -> Vec<Card> {
    nics::cards(root)
}

/// Addresses of every interface now.
pub fn addresses_now() -> Addresses {
    nics::addresses_now()
}

/// The first processor's model.
pub fn cpu_model(root: &SysRoot) -> String {
    cpu::read(root).model
}

/// Memory that the kernel manages, in bytes.
pub fn memory_bytes(root: &SysRoot) -> u64 {
    memory::total(root)
}

/// Where the root came from, as the initramfs says.
pub fn booted_from(root: &SysRoot) -> Option<BootSource> {
    BootFacts::read(root).source()
}

/// What the initramfs left behind in `/run/surplus/boot.conf`.
#[derive(Debug, Default, PartialEq, Eq)]
struct BootFacts {
    root_hash: Option<String>,
    /// `medium` or `network`.
    source: Option<String>,
    /// Name of the disk that the root was read from, as the kernel calls it.
    medium: Option<String>,
    url: Option<String>,
    interface: Option<String>,
}

impl BootFacts {
    fn read(root: &SysRoot) -> Self {
        let mut facts = Self::default();
        let text = root.text("/run/surplus/boot.conf").unwrap_or_default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim().trim_matches('"').to_owned();
            match key.trim().to_ascii_lowercase().as_str() {
                "root_hash" | "roothash" | "hash" => facts.root_hash = Some(value),
                "source" => facts.source = Some(value),
                "url" => facts.url = Some(value),
                "interface" => facts.interface = Some(value),
                "device" | "medium" => {
                    facts.medium = Some(value.trim_start_matches("/dev/").to_owned());
                }
                _ => {}
            }
        }
        facts
    }

    fn source(&self) -> Option<BootSource> {
        match self.source.as_deref()? {
            "network" => Some(BootSource::Network {
                url: self.url.clone().unwrap_or_default(),
                interface: self.interface.clone().unwrap_or_default(),
            }),
            "medium" => Some(BootSource::Medium {
                device: self.medium.clone().unwrap_or_default(),
            }),
            _ => None,
        }
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
        assert_eq!(facts.source(), None);
    }

    #[test]
    fn the_register_learns_how_the_host_was_booted() {
        let tree = Tree::new();
        let file = "/run/surplus/boot.conf";
        tree.file(file, "source=medium\ndevice=sr0\nvolume=X\n");
        let device = "sr0".to_owned();
        assert_eq!(
            booted_from(&tree.root()),
            Some(BootSource::Medium { device })
        );
        tree.file(
            file,
            "source=network\nurl=http://10.77.0.1:8080/root.img\ninterface=eno1\n",
        );
        let network = BootSource::Network {
            url: "http://10.77.0.1:8080/root.img".to_owned(),
            interface: "eno1".to_owned(),
        };
        let read = read(&tree.root(), &Addresses::new(), KvmProbe::Pending);
        assert_eq!(read.booted_from, Some(network));
    }

    #[test]
    fn this_machine_can_be_read() {
        let read = read(&SysRoot::default(), &addresses_now(), KvmProbe::Pending);
        assert!(read.memory_bytes > 0);
        assert!(read.cpu.threads >= read.cpu.cores && read.cpu.cores >= read.cpu.sockets);
        assert!(!read.kernel.is_empty());
    }
}
