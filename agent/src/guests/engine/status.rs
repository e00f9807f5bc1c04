//! What the engine reports.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use surplus_protocol::lease::{GuestPhase, LeaseStatus};

use super::{Engine, Job};
use crate::guests::GuestsReport;
use crate::guests::plan::Making;
use crate::guests::record::{Record, Stage};

impl Engine {
    /// Everything that the marketplace shall hear.
    pub fn report(&self) -> GuestsReport {
        let bridge = &self.config.bridge;
        let table = std::fs::read_to_string(&self.config.arp_table).unwrap_or_default();
        let addresses = neighbours(&table, bridge, &subnets(bridge));
        let leases = self.records.values().map(|record| {
            let placement = record.placement();
            let (phase, detail) = phase(record, self.jobs.get(&placement));
            let addresses = addresses.get(&placement.mac()).cloned().unwrap_or_default();
            LeaseStatus {
                lease: placement.lease,
                epoch: placement.epoch,
                phase,
                detail,
                addresses,
            }
        });
        let usage = self
            .records
            .values()
            .flat_map(|record| record.meter.unacknowledged());
        GuestsReport {
            leases: leases.collect(),
            usage: usage.cloned().collect(),
            receipts: self.receipts.values().cloned().collect(),
            problems: self.problems.clone(),
        }
    }
}

fn phase(record: &Record, job: Option<&Job>) -> (GuestPhase, String) {
    match &record.stage {
        Stage::Running => (GuestPhase::Running, "the guest runs".into()),
        Stage::Stopping { why, kill_at } => {
            let detail = format!("{}; it is ended at {kill_at:.0} at the latest", why.detail);
            (GuestPhase::Stopping, detail)
        }
        Stage::Accepted | Stage::Starting { .. } => making(record, job),
    }
}

fn making(record: &Record, job: Option<&Job>) -> (GuestPhase, String) {
    let Some(job) = job else {
        return (GuestPhase::Preparing, "its turn comes next".into());
    };
    match &job.making {
        Making::Working if job.progress.fetched.load(Ordering::Relaxed) == 0 => {
            let bytes = job.progress.bytes.load(Ordering::Relaxed);
            let all = record.ticket.guest.image_bytes;
            let percent = bytes.saturating_mul(100).checked_div(all).unwrap_or(100);
            (
                GuestPhase::Fetching,
                format!("the image is being fetched: {percent} %"),
            )
        }
        Making::Working => (GuestPhase::Preparing, "disk and seed are being made".into()),
        Making::Ready => (GuestPhase::Preparing, "the guest is about to start".into()),
        Making::Failed { detail, .. } => (GuestPhase::Retrying, detail.clone()),
        Making::Hopeless { detail } => (GuestPhase::Stopping, detail.clone()),
    }
}

/// Addresses of one guest in the report at most: a guest may claim any number.
const MAX_ADDRESSES: usize = 8;

/// An IPv4 network: its address and mask.
type Subnet = (Ipv4Addr, Ipv4Addr);

/// The networks that the bridge has addresses in.
fn subnets(bridge: &str) -> Vec<Subnet> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ours = addresses.filter(|it| it.interface_name == bridge);
    ours.filter_map(|it| {
        let (address, mask) = (it.address?, it.netmask?);
        let mask = mask.as_sockaddr_in()?.ip();
        Some((address.as_sockaddr_in()?.ip() & mask, mask))
    })
    .collect()
}

/// IPv4 addresses by MAC, as the kernel's neighbour table (`/proc/net/arp`)
/// has them for the bridge; those outside its networks are a guest's invention.
fn neighbours(table: &str, bridge: &str, subnets: &[Subnet]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Address, hardware type, flags (0x0: incomplete), MAC, mask, device.
        let [address, _, flags, mac, _, device, ..] = fields[..] else {
            continue;
        };
        let Ok(ip) = address.parse::<Ipv4Addr>() else {
            continue;
        };
        let within = subnets.iter().any(|(network, mask)| ip & *mask == *network);
        if flags == "0x0" || device != bridge || !within {
            continue;
        }
        let addresses = found.entry(mac.to_lowercase()).or_default();
        if addresses.len() < MAX_ADDRESSES {
            addresses.push(address.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_claims_a_few_addresses_of_the_bridge_and_no_others() {
        let mut table = String::from("IP address HW type Flags HW address Mask Device\n");
        let mut line = |address: &str, flags: &str, mac: &str, device: &str| {
            table.push_str(&format!("{address} 0x1 {flags} {mac} * {device}\n"));
        };
        line("10.1.2.3", "0x2", "52:54:00:AA:00:01", "surplus0");
        line("10.1.2.4", "0x0", "52:54:00:aa:00:01", "surplus0");
        line("8.8.8.8", "0x2", "52:54:00:aa:00:01", "surplus0");
        line("10.1.2.5", "0x2", "52:54:00:aa:00:01", "eth0");
        for host in 10..30 {
            line(
                &format!("10.1.2.{host}"),
                "0x2",
                "52:54:00:aa:00:02",
                "surplus0",
            );
        }
        let subnet = (Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(255, 255, 0, 0));
        let found = neighbours(&table, "surplus0", &[subnet]);
        assert_eq!(found["52:54:00:aa:00:01"], ["10.1.2.3"]);
        assert_eq!(found["52:54:00:aa:00:02"].len(), MAX_ADDRESSES);
        assert!(neighbours(&table, "surplus0", &[]).is_empty());
    }

    #[test]
    fn the_networks_of_an_interface_are_found() {
        let local = (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0));
        assert_eq!(subnets("lo"), [local]);
        assert!(subnets("no-such-bridge").is_empty());
    }
}
