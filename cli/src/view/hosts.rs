//! The register of hosts.

use surplus_protocol::api::{Host, HostState, is_alarming};
use surplus_protocol::inventory::{
    Disk, DiskRate, HardwareIdentity, Inventory, KvmProbe, Nic, SelfCheck,
};

use super::admissions::admission;
use super::{View, short_ids};
use crate::units::show_size;

impl View {
    pub(crate) fn hosts(&self, hosts: &[Host]) -> String {
        if hosts.is_empty() {
            return "no hosts yet: boot one from the CD with a site file of this marketplace (`surplus site-file`)\n"
                .to_owned();
        }
        let ids = short_ids(hosts.iter().map(|host| host.id));
        let headings = [
            "ID",
            "STATE",
            "SITE",
            ">VCPUS FREE",
            ">MEMORY FREE",
            ">DISK FREE",
            ">LEASES",
            "SEEN",
            "DETAIL",
        ];
        let rows = hosts.iter().zip(&ids);
        let mut text = self.table(&headings, rows.map(|(host, id)| self.host_row(host, id)));
        text.push_str(&self.decisions(hosts, &ids));
        text.push_str(alarm(hosts));
        text
    }

    fn host_row(&self, host: &Host, id: &str) -> Vec<String> {
        let of = |free: String, total: Option<String>| {
            total.map_or(free.clone(), |total| format!("{free} of {total}"))
        };
        let sellable = host.capacity.as_ref().map(|capacity| capacity.sellable);
        vec![
            id.to_owned(),
            state(host),
            host.site.clone(),
            of(
                host.free.vcpus.to_string(),
                sellable.map(|all| all.vcpus.to_string()),
            ),
            of(
                show_size(host.free.memory_bytes),
                sellable.map(|all| show_size(all.memory_bytes)),
            ),
            of(
                show_size(host.free.disk_bytes),
                sellable.map(|all| show_size(all.disk_bytes)),
            ),
            host.leases.to_string(),
            host.last_seen_at
                .map_or_else(|| "never".to_owned(), |at| self.ago(at)),
            withheld(host).unwrap_or_else(|| host.detail.clone()),
        ]
    }

    /// One that was let in by hand fetches its certificate when it asks again.
    fn certificate(&self, host: &Host) -> String {
        if host.certificate_expires_at <= host.enrolled_at {
            return "not fetched yet".to_owned();
        }
        self.time(host.certificate_expires_at)
    }

    pub(crate) fn host(&self, host: &Host) -> String {
        let mut rows = vec![
            ("id", host.id.to_string()),
            ("state", state(host)),
            ("detail", host.detail.clone()),
            ("site", host.site.clone()),
            ("rack", host.rack.clone()),
            (
                "calls from",
                host.address
                    .map_or_else(|| "?".to_owned(), |address| address.to_string()),
            ),
            ("key lives in", host.key_storage.clone()),
            (
                "let in by",
                host.admitted_by
                    .as_ref()
                    .map_or_else(|| "?".to_owned(), admission),
            ),
            (
                "last seen",
                host.last_seen_at
                    .map_or_else(|| "never".to_owned(), |at| self.ago(at)),
            ),
            ("leases", host.leases.to_string()),
        ];
        if host.state == HostState::Pending {
            rows.push(("asks since", self.time(host.enrolled_at)));
        } else {
            rows.push(("enrolled", self.time(host.enrolled_at)));
            rows.push(("certificate until", self.certificate(host)));
            rows.push(("free now", resources(&host.free)));
        }
        if let Some(capacity) = &host.capacity {
            rows.push(("for sale", resources(&capacity.sellable)));
            rows.push(("kept for the host", resources(&capacity.reserve)));
            rows.push(("overhead a guest", resources(&capacity.guest_overhead)));
            rows.push(("network a guest", rate(capacity.guest_mbits)));
            if let Some(disk) = capacity.guest_disk {
                rows.push(("disk a vCPU", disk_rate(disk)));
            }
        }
        if let Some(why) = withheld(host) {
            rows.push(("offers nothing", why));
        }
        if let Some(inventory) = &host.inventory {
            rows.extend(firmware(&inventory.identity));
            rows.extend(hardware(inventory));
        } else {
            rows.extend(firmware(&host.identity));
            rows.push(("cpu", host.cpu_model.clone()));
            rows.push(("memory", show_size(host.memory_bytes)));
        }
        self.sheet(rows)
    }
}

/// A line where so many hosts are silent that the marketplace fences nothing.
fn alarm(hosts: &[Host]) -> &'static str {
    let enrolled = hosts
        .iter()
        .filter(|host| host.state == HostState::Enrolled);
    let silent = enrolled.clone().filter(|host| host.unreachable);
    if is_alarming(silent.count(), enrolled.count()) {
        "more than 30 % of the hosts are silent at once, so no lease is fenced or placed anew: \
         look at the network between them and the marketplace\n"
    } else {
        ""
    }
}

/// A host's resources in one line.
pub(crate) fn resources(all: &surplus_protocol::inventory::Resources) -> String {
    let vcpus = if all.vcpus == 1 {
        "1 vCPU".to_owned()
    } else {
        format!("{} vCPUs", all.vcpus)
    };
    let addresses = match all.addresses {
        0 => String::new(),
        1 => ", 1 own address".to_owned(),
        many => format!(", {many} own addresses"),
    };
    format!(
        "{vcpus}, {} memory, {} disk{addresses}",
        show_size(all.memory_bytes),
        show_size(all.disk_bytes)
    )
}

/// What a guest may do with its disk, for each vCPU.
fn disk_rate(rate: DiskRate) -> String {
    let DiskRate { operations, mbytes } = rate;
    format!("{operations} operations and {mbytes} MB a second")
}

/// What a guest may send, and receive.
pub(crate) fn rate(mbits: Option<u32>) -> String {
    mbits.map_or_else(|| "?".to_owned(), |mbits| format!("{mbits} Mbit/s"))
}

/// What came of the host's attacks on itself.
fn self_test(checks: &[SelfCheck]) -> String {
    let failed: Vec<_> = checks
        .iter()
        .filter_map(|check| {
            Some(format!(
                "{} failed: {}",
                check.name,
                check.failure.as_ref()?
            ))
        })
        .collect();
    if checks.is_empty() {
        "not made yet".to_owned()
    } else if failed.is_empty() {
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        format!("passed ({})", names.join(", "))
    } else {
        failed.join("; ")
    }
}

fn state(host: &Host) -> String {
    let state = match host.state {
        HostState::Pending => "pending",
        HostState::Enrolled => "enrolled",
        HostState::Quarantined => "quarantined",
        HostState::Rejected => "rejected",
    };
    if host.unreachable {
        format!("{state}, silent")
    } else {
        state.to_owned()
    }
}

fn withheld(host: &Host) -> Option<String> {
    host.capacity.as_ref()?.withheld.clone()
}

fn named(value: &Option<String>) -> String {
    value.clone().unwrap_or_else(|| "?".to_owned())
}

/// Maker and model.
pub(super) fn machine(identity: &HardwareIdentity) -> String {
    format!("{} {}", named(&identity.vendor), named(&identity.product))
}

fn firmware(identity: &HardwareIdentity) -> Vec<(&'static str, String)> {
    let (serial, uuid) = (&identity.system_serial, &identity.system_uuid);
    vec![
        ("machine", machine(identity)),
        (
            "serial, uuid",
            format!("{}, {}", named(serial), named(uuid)),
        ),
        ("mac", identity.macs.join(" ")),
    ]
}

fn hardware(inventory: &Inventory) -> Vec<(&'static str, String)> {
    let cpu = &inventory.cpu;
    let mut rows = vec![
        (
            "cpu",
            format!(
                "{}: {} sockets, {} cores, {} threads",
                cpu.model, cpu.sockets, cpu.cores, cpu.threads
            ),
        ),
        (
            "memory",
            format!(
                "{} in {} NUMA nodes",
                show_size(inventory.memory_bytes),
                inventory.numa_nodes.len()
            ),
        ),
        ("guests run", kvm(&inventory.kvm)),
        ("guests kept apart", self_test(&inventory.self_test)),
        (
            "booted by",
            if inventory.uefi { "UEFI" } else { "BIOS" }.to_owned(),
        ),
        (
            "agent, kernel",
            format!("{}, {}", inventory.agent_version, inventory.kernel),
        ),
        ("root hash", inventory.root_hash.clone()),
    ];
    rows.extend(inventory.nics.iter().map(|nic| ("network", network(nic))));
    rows.extend(inventory.disks.iter().map(|item| ("disk", disk(item))));
    rows
}

fn kvm(probe: &KvmProbe) -> String {
    match probe {
        KvmProbe::Pending => "not known yet: the probe is still running".to_owned(),
        KvmProbe::Works { millis } => format!("under KVM (a probe guest ran in {millis} ms)"),
        KvmProbe::Fails { reason } => format!("not at all: {reason}"),
        KvmProbe::Emulated => "under emulation, as the site file asks (tests)".to_owned(),
    }
}

fn network(nic: &Nic) -> String {
    let link = match (nic.link, nic.speed_mbits) {
        (false, _) => "no link".to_owned(),
        (true, Some(speed)) => format!("{speed} Mbit/s"),
        (true, None) => "link".to_owned(),
    };
    let driver = nic.driver.as_deref().unwrap_or("no driver");
    format!(
        "{} {} {driver} {link} {}",
        nic.name,
        nic.mac,
        nic.addresses.join(" ")
    )
    .trim_end()
    .to_owned()
}

fn disk(disk: &Disk) -> String {
    let model = disk.model.as_deref().unwrap_or("unnamed");
    let serial = disk.serial.as_deref().unwrap_or("without serial");
    format!(
        "{} {} {model} {serial}: {}",
        disk.name,
        show_size(disk.size_bytes),
        disk.reason
    )
}

#[cfg(test)]
mod tests {
    use super::super::samples::{host, view};
    use super::*;

    #[test]
    fn the_register_shows_what_is_free_and_why_not() {
        let mut silent = host(1);
        silent.unreachable = true;
        let mut idle = host(2);
        idle.capacity.as_mut().unwrap().withheld = Some("no KVM: /dev/kvm runs no guest".into());
        let mut pending = host(3);
        pending.state = HostState::Pending;
        pending.capacity = None;
        pending.last_seen_at = None;
        insta::assert_snapshot!(view().hosts(&[host(0), silent, idle, pending]));
    }

    #[test]
    fn one_host_is_shown_whole() {
        insta::assert_snapshot!(view().host(&host(0)));
    }

    #[test]
    fn a_host_that_was_just_let_in_has_no_certificate_yet() {
        let mut host = host(0);
        host.certificate_expires_at = host.enrolled_at;
        assert!(view().host(&host).contains("not fetched yet"));
    }
}
