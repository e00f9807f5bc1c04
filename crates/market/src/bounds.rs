//! What hosts say, cut to what is worth keeping: a host is not trusted to be
//! brief.

use surplus_protocol::inventory::{HardwareIdentity, Inventory};

/// Characters of a text.
const TEXT: usize = 512;

/// Entries of a list.
const LIST: usize = 1024;

/// A text of bounded length.
pub fn text(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// Texts of bounded number and length.
pub fn texts(texts: &[String]) -> Vec<String> {
    texts.iter().take(LIST).map(|one| text(one)).collect()
}

fn option(value: &Option<String>) -> Option<String> {
    value.as_deref().map(text)
}

/// An identity of bounded size. The same one stays the same.
pub fn identity(said: HardwareIdentity) -> HardwareIdentity {
    HardwareIdentity {
        system_uuid: option(&said.system_uuid),
        system_serial: option(&said.system_serial),
        board_serial: option(&said.board_serial),
        vendor: option(&said.vendor),
        product: option(&said.product),
        macs: texts(&said.macs),
    }
}

/// An inventory of bounded size.
pub fn inventory(mut said: Inventory) -> Inventory {
    use surplus_protocol::inventory::{BootSource, KvmProbe};
    said.identity = identity(said.identity);
    said.cpu.model = text(&said.cpu.model);
    said.cpu.vendor = text(&said.cpu.vendor);
    said.cpu.flags = texts(&said.cpu.flags);
    said.numa_nodes.truncate(LIST);
    for node in &mut said.numa_nodes {
        node.cpus.truncate(8 * LIST);
    }
    said.disks.truncate(LIST);
    for disk in &mut said.disks {
        disk.name = text(&disk.name);
        disk.model = option(&disk.model);
        disk.serial = option(&disk.serial);
        disk.reason = text(&disk.reason);
    }
    said.nics.truncate(LIST);
    for nic in &mut said.nics {
        nic.name = text(&nic.name);
        nic.mac = text(&nic.mac);
        nic.driver = option(&nic.driver);
        nic.addresses = texts(&nic.addresses);
    }
    if let KvmProbe::Fails { reason } = &mut said.kvm {
        *reason = text(reason);
    }
    said.self_test.truncate(LIST);
    for check in &mut said.self_test {
        check.name = text(&check.name);
        check.failure = option(&check.failure);
    }
    match &mut said.booted_from {
        Some(BootSource::Medium { device }) => *device = text(device),
        Some(BootSource::Network { url, interface }) => {
            *url = text(url);
            *interface = text(interface);
        }
        None => {}
    }
    said.agent_version = text(&said.agent_version);
    said.root_hash = text(&said.root_hash);
    said.kernel = text(&said.kernel);
    said
}
