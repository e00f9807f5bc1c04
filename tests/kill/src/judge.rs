//! What always holds, held against what the agent does and says.
//!
//! - A guest is made at most once, before its ticket's `not_after`, and never
//!   beside another of its lease; it is gone soon after the lease's end.
//! - A receipt comes when nothing of the guest is left. It says when the guest
//!   really began, and says the same each time.
//! - Usage never falls, and never exceeds the time in which the guest ran; what
//!   is missing in the end is one look, and no more.

use std::path::Path;

use surplus_agent::guests::Placement;
use surplus_journal::medium::View;
use surplus_protocol::lease::{EndReceipt, Ticket};

use crate::agent::SAMPLE;
use crate::wire::Report;
use crate::world::{BEGINNING, World};

/// How long after its end a guest may run: the agent's absences.
const LATE_MILLIS: i64 = 30_000;

impl World {
    fn wall_millis(&self) -> i64 {
        BEGINNING * 1000 + i64::try_from(self.now).unwrap_or(i64::MAX)
    }

    pub(crate) fn judge_creation(&mut self, name: &str, ticket: &Ticket) {
        let lease = ticket.lease;
        let mut others = self.domains.values();
        if others.any(|domain| domain.ticket.lease == lease) {
            self.breaks(format!("{name} is made beside another guest of its lease"));
        }
        let made = self.truth.get(&Placement::of(ticket));
        if made.is_some_and(|truth| truth.made > 0) {
            self.breaks(format!("{name} is made a second time"));
        }
        if self.wall_millis() > ticket.not_after.as_millisecond() {
            self.breaks(format!("{name} is made after its ticket ran out"));
        }
    }

    pub(crate) fn judge_ends(&mut self) {
        let now = self.wall_millis();
        let late: Vec<_> = self
            .domains
            .iter()
            .filter(|(_, domain)| now > domain.ticket.ends_at.as_millisecond() + LATE_MILLIS)
            .map(|(name, _)| format!("{name} runs on past its lease's end"))
            .collect();
        self.broken.extend(late);
    }

    pub(crate) fn judge_report(&mut self, report: &Report) {
        for record in &report.usage {
            let placement = Placement::new(record.lease, record.epoch);
            let ran = self.ran(placement);
            if record.running_millis > ran {
                let said = record.running_millis;
                self.breaks(format!(
                    "{placement} ran {ran} ms and is said to have run {said} ms"
                ));
            }
            let before = self.usage.range(..(placement, record.seq)).next_back();
            let fell = before.is_some_and(|((it, _), before)| {
                *it == placement && before.running_millis > record.running_millis
            });
            if fell {
                self.breaks(format!("the usage of {placement} falls: {record:?}"));
            }
        }
        for receipt in &report.receipts {
            self.judge_receipt(receipt);
        }
    }

    fn judge_receipt(&mut self, receipt: &EndReceipt) {
        let placement = Placement::new(receipt.lease, receipt.epoch);
        if self.domains.contains_key(&placement.domain_name()) {
            self.breaks(format!("{placement} has a receipt, and its guest runs"));
        }
        let files = self.state.join("guests").join(placement.to_string());
        if files.exists() {
            self.breaks(format!(
                "{placement} has a receipt, and its files are there"
            ));
        }
        if let Some(before) = self.receipts.get(&placement) {
            if before != receipt {
                self.breaks(format!(
                    "{placement} has two receipts: {before:?} and {receipt:?}"
                ));
            }
            return;
        }
        let truth = self.truth.get(&placement).cloned().unwrap_or_default();
        let really = (truth.made > 0).then_some(truth.made_at);
        let said = receipt.started_at.map(|at| at.as_millisecond());
        let really = really.and_then(|at| i64::try_from(at).ok());
        let really = really.map(|at| BEGINNING * 1000 + at);
        if said != really && !(truth.is_orphan && said > really) {
            self.breaks(format!(
                "{placement} started at {really:?}, and its receipt says {said:?}"
            ));
        }
        let (ran, billed) = (self.ran(placement), receipt.usage.running_millis);
        let look = u64::try_from(SAMPLE.as_millis()).unwrap_or(u64::MAX);
        if billed > ran || billed + self.unseen + look < ran {
            self.breaks(format!("{placement} ran {ran} ms, and {billed} are billed"));
        }
        let last = self
            .usage
            .range((placement, 0)..=(placement, u64::MAX))
            .next_back();
        if last.is_some_and(|(_, last)| last.running_millis > billed) {
            self.breaks(format!("{placement}: the receipt is below the last record"));
        }
    }

    fn ran(&self, placement: Placement) -> u64 {
        let Some(truth) = self.truth.get(&placement).filter(|truth| truth.made > 0) else {
            return 0;
        };
        truth.gone_at.unwrap_or(self.now) - truth.made_at
    }

    /// After the end: nothing is left over on the host.
    pub fn judge_remains(&mut self) {
        let state = self.state.clone();
        let domains: Vec<_> = self.domains.keys().cloned().collect();
        if !domains.is_empty() {
            self.breaks(format!("domains are left over: {domains:?}"));
        }
        let guests = names(&state.join("guests"));
        if !guests.is_empty() {
            self.breaks(format!("directories are left over: {guests:?}"));
        }
        let images = names(&state.join("images"));
        let whole = |name: &String| self.images.keys().any(|image| image.to_hex() == *name);
        if !images.iter().all(whole) {
            self.breaks(format!("half-made images are left over: {images:?}"));
        }
        match surplus_journal::verify(&View::new(&state.join("ledger"))) {
            Ok(report) if report.is_sound() => {}
            Ok(report) => self.breaks(format!("the ledger is damaged: {:?}", report.findings)),
            Err(error) => self.breaks(format!("the ledger cannot be read: {error}")),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let names = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}
