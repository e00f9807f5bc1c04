//! What the engine reports.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use surplus_protocol::lease::{GuestPhase, LeaseStatus};

use super::{Engine, Job};
use crate::guests::GuestsReport;
use crate::guests::forwards;
use crate::guests::plan::Making;
use crate::guests::record::{Record, Stage};

impl Engine {
    /// Everything that the marketplace shall hear.
    pub fn report(&self) -> GuestsReport {
        let host = self.config.forwards.address();
        let own = self.config.forwards.own_addresses();
        let leases = self.records.values().map(|record| {
            let placement = record.placement();
            let (phase, mut detail) = phase(record, self.jobs.get(&placement));
            let runs = matches!(phase, GuestPhase::Running | GuestPhase::Stopping);
            let addresses = match own.get(&record.seat) {
                Some(own) => own.clone(),
                None if self.has_own_address(record.seat) => Vec::new(),
                None => vec![record.seat.ipv4().into()],
            };
            if addresses.is_empty() && phase == GuestPhase::Running {
                detail = "the guest runs; its own address is not there, and is asked for".into();
            }
            let addresses = addresses.iter().filter(|_| runs);
            let addresses = addresses.map(IpAddr::to_string).collect();
            let ports = &record.ticket.guest.ports;
            let forwards = host.filter(|_| runs && self.forwarded.is_some());
            let forwards = forwards.map(|host| forwards::announced(record.seat, ports, host));
            let forwards = forwards.unwrap_or_default();
            LeaseStatus {
                lease: placement.lease,
                epoch: placement.epoch,
                phase,
                detail,
                addresses,
                forwards,
            }
        });
        let usage = self
            .records
            .values()
            .flat_map(|record| record.meter.unacknowledged());
        let tickets = self
            .records
            .values()
            .filter_map(|record| record.ticket.proof.clone());
        GuestsReport {
            leases: leases.collect(),
            tickets: tickets.collect(),
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
