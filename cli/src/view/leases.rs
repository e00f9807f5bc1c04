//! Leases and their bills.

use surplus_protocol::api::{Bill, BillLine, FormerPlacement, Lease};
use surplus_protocol::lease::{DiskEnd, EndReason, Forward, GuestPhase, LeaseState, OnLostLink};

use super::hosts::resources;
use super::{View, short_ids};
use crate::units::{decimal, show_money, show_rate, show_seconds, show_size};

const HOUR_MILLIS: u128 = 3_600_000;
const MONTH_MILLIS: u128 = 30 * 24 * HOUR_MILLIS;

impl View {
    pub(crate) fn leases(&self, leases: &[Lease]) -> String {
        if leases.is_empty() {
            return "no leases yet: `surplus rent` makes one\n".to_owned();
        }
        let ids = short_ids(leases.iter().map(|lease| lease.id));
        let hosts = short_ids(leases.iter().map(|lease| lease.host));
        let headings = [
            "ID",
            "NAME",
            "STATE",
            ">VCPUS",
            ">MEMORY",
            ">DISK",
            "HOST",
            "REACHED AT",
            "ENDS",
            ">PRICE",
        ];
        let rows = leases
            .iter()
            .zip(ids)
            .zip(hosts)
            .map(|((lease, id), host)| {
                vec![
                    id,
                    lease.name.clone(),
                    lease_state(lease),
                    lease.resources.vcpus.to_string(),
                    show_size(lease.resources.memory_bytes),
                    show_size(lease.resources.disk_bytes),
                    host,
                    reached_at(lease),
                    self.time(lease.ended_at.unwrap_or(lease.ends_at)),
                    show_money(lease.price, &lease.currency),
                ]
            });
        self.table(&headings, rows)
    }

    pub(crate) fn lease(&self, lease: &Lease) -> String {
        let mut rows = vec![
            ("id", lease.id.to_string()),
            ("name", lease.name.clone()),
            ("state", lease_state(lease)),
        ];
        if !lease.detail.is_empty() {
            rows.push(("detail", lease.detail.clone()));
        }
        rows.extend([
            ("resources", resources(&lease.resources)),
            ("image", lease.image.to_string()),
            ("host", format!("{} at {}", lease.host, lease.site)),
            (
                "addresses",
                if lease.addresses.is_empty() {
                    "none known".into()
                } else {
                    lease.addresses.join(" ")
                },
            ),
            ("ports", ports(lease)),
            ("on a lost link", clause(lease.on_lost_link)),
            ("placement", lease.epoch.to_string()),
        ]);
        let former = lease.former.iter();
        rows.extend(former.map(|former| ("earlier placement", self.former(former))));
        rows.extend([
            ("made", self.time(lease.created_at)),
            ("started", self.time_or(lease.started_at, "not yet")),
        ]);
        if let Some(disk) = lease.disk {
            rows.push(("disk", self.disk_end(disk)));
        }
        match lease.ended_at {
            Some(at) => rows.push(("ended", self.time(at))),
            None => rows.push(("ends by itself", self.time(lease.ends_at))),
        }
        rows.push((
            "price",
            format!(
                "{} for the window, and traffic",
                show_money(lease.price, &lease.currency)
            ),
        ));
        self.sheet(rows)
    }

    fn disk_end(&self, disk: DiskEnd) -> String {
        match disk {
            DiskEnd::MemoryFreed => "was in the host's memory, which was freed".into(),
            DiskEnd::KeyDestroyed { at } => format!("its key was destroyed, {}", self.time(at)),
        }
    }

    fn former(&self, former: &FormerPlacement) -> String {
        format!(
            "{} on {} until {}: {}",
            former.epoch,
            former.host,
            self.time(former.gone_at),
            end_reason(former.reason)
        )
    }

    pub(crate) fn bill(&self, bill: &Bill) -> String {
        let mut rows: Vec<_> = bill
            .lines
            .iter()
            .map(|line| bill_row(line, &bill.currency))
            .collect();
        rows.push(vec![
            "total".into(),
            String::new(),
            String::new(),
            show_money(bill.total, &bill.currency),
        ]);
        let table = self.table(&["ITEM", ">QUANTITY", ">RATE", ">AMOUNT"], rows);
        let running: u64 = bill.usage.iter().map(|record| record.running_millis).sum();
        let standing = if bill.closed {
            "final"
        } else {
            "so far; it changes until the lease is settled"
        };
        format!(
            "{table}lease {}: the guest ran {}; price book {}; {standing}\n",
            bill.lease,
            show_seconds((running + 500) / 1000),
            bill.price_book
        )
    }
}

fn bill_row(line: &BillLine, currency: &str) -> Vec<String> {
    let quantity = u128::from(line.quantity);
    let (quantity, unit) = match line.unit.as_str() {
        "vcpu_millis" => (decimal(quantity, HOUR_MILLIS), "vCPU-hours"),
        "mib_millis" => (decimal(quantity, 1024 * HOUR_MILLIS), "GiB-hours"),
        "mb_millis" => (decimal(quantity, 1000 * MONTH_MILLIS), "GB-months"),
        "bytes" => (decimal(quantity, 1_000_000_000), "GB"),
        unknown => (quantity.to_string(), unknown),
    };
    vec![
        line.item.replace('_', " "),
        format!("{quantity} {unit}"),
        show_rate(line.rate),
        show_money(line.amount, currency),
    ]
}

/// Where a lease stands, in a few words.
pub(crate) fn lease_state(lease: &Lease) -> String {
    let state = match lease.state {
        LeaseState::Quoted => "quoted",
        LeaseState::Reserved => "reserved",
        LeaseState::Preparing => "preparing",
        LeaseState::Active => "active",
        LeaseState::Reclaiming => "being reclaimed",
        LeaseState::Lost => "lost with its host, to be placed anew",
        LeaseState::Draining => "draining",
        LeaseState::Ended => "ended",
        LeaseState::Settled => "settled",
    };
    let mut words = vec![state.to_owned()];
    let over = matches!(lease.state, LeaseState::Ended | LeaseState::Settled);
    match (over, lease.phase, lease.end_reason) {
        (true, _, Some(reason)) => words.push(end_reason(reason).to_owned()),
        (false, Some(phase), _) => words.push(guest_phase(phase).to_owned()),
        _ => {}
    }
    if lease.unreachable && !over {
        words.push("host silent".to_owned());
    }
    words.join(", ")
}

fn guest_phase(phase: GuestPhase) -> &'static str {
    match phase {
        GuestPhase::Fetching => "fetching the image",
        GuestPhase::Preparing => "making the guest",
        GuestPhase::Running => "running",
        GuestPhase::Retrying => "trying again",
        GuestPhase::Stopping => "stopping",
    }
}

/// Why a lease ended, in a few words.
pub(crate) fn end_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Expired => "its time was over",
        EndReason::Ended => "by its buyer",
        EndReason::Reclaimed => "reclaimed",
        EndReason::GuestStopped => "the guest shut itself down",
        EndReason::StartFailed => "the host could not start it",
        EndReason::HostRebooted => "the host rebooted",
        EndReason::QuoteExpired => "the quote ran out",
        EndReason::LinkLost => "fenced after a lost link",
    }
}

/// The guest's ports where they are forwarded, else its address behind its host.
fn reached_at(lease: &Lease) -> String {
    if lease.forwards.is_empty() {
        return lease.addresses.join(" ");
    }
    forwards(&lease.forwards)
}

fn ports(lease: &Lease) -> String {
    if lease.resources.addresses > 0 {
        return "all, at its own address".into();
    }
    forwards(&lease.forwards)
}

fn forwards(forwards: &[Forward]) -> String {
    let each = forwards.iter().map(|forward| {
        let Forward {
            guest,
            address,
            host_port,
        } = forward;
        format!("{address}:{host_port} → {}/{}", guest.port, guest.transport)
    });
    let all: Vec<_> = each.collect();
    if all.is_empty() {
        return "none".into();
    }
    all.join(", ")
}

fn clause(clause: OnLostLink) -> String {
    match clause {
        OnLostLink::Keep => "keep: it runs to its end".to_owned(),
        OnLostLink::Fence { after_seconds } => {
            format!(
                "fence: stopped {} after the last contact, and placed anew",
                show_seconds(after_seconds.into())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bill, former, lease, view};
    use super::*;

    #[test]
    fn leases_say_where_they_stand() {
        let mut fetching = lease(1);
        fetching.state = LeaseState::Preparing;
        fetching.phase = Some(GuestPhase::Fetching);
        fetching.unreachable = true;
        fetching.addresses.clear();
        fetching.forwards.clear();
        let mut failed = lease(2);
        failed.state = LeaseState::Settled;
        failed.end_reason = Some(EndReason::StartFailed);
        insta::assert_snapshot!(view().leases(&[lease(0), fetching, failed]));
    }

    #[test]
    fn one_lease_is_shown_whole() {
        insta::assert_snapshot!(view().lease(&lease(0)));
    }

    #[test]
    fn a_lease_that_was_placed_anew_says_where_it_was_before() {
        let mut moved = lease(0);
        moved.epoch = 2;
        moved.former = vec![former(1)];
        let mut lost = lease(1);
        lost.state = LeaseState::Lost;
        lost.phase = None;
        lost.addresses.clear();
        lost.forwards.clear();
        let text = view().leases(&[moved.clone(), lost]);
        insta::assert_snapshot!(format!("{}\n{text}", view().lease(&moved)));
    }

    #[test]
    fn a_bill_shows_quantities_in_the_units_of_the_price_book() {
        insta::assert_snapshot!(view().bill(&bill()));
    }
}
