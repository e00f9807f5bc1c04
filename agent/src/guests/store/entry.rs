//! One fact in the host's ledger, and how facts add up.
//!
//! What always holds: applying an entry twice is applying it once, and entries
//! of what is over change nothing, so that what was salvaged from behind damage
//! does no harm.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use surplus_protocol::ids::LeaseId;
use surplus_protocol::lease::{EndReceipt, Ticket, UsageRecord};
use surplus_seat::Seat;

use super::{KEPT_AT_MOST, Ledger, LedgerEntry, Loaded, ledger_entry};
use crate::guests::meter::Counters;
use crate::guests::placement::Placement;
use crate::guests::record::{Record, Stage};

/// A fact, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The ticket was taken, or its like that is good for longer.
    Accepted {
        ticket: Box<Ticket>,
        seat: Seat,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<u32>,
    },
    /// The guest has come so far.
    Stage {
        placement: Placement,
        stage: Stage,
        started_at: Option<Timestamp>,
    },
    /// What the guest has used, and the records made of it since the last such
    /// entry; those below `from` were acknowledged.
    Usage {
        placement: Placement,
        counters: Counters,
        records: Vec<UsageRecord>,
        from: u64,
    },
    /// Nothing is left of the guest.
    Ended { receipt: EndReceipt },
    /// The marketplace has the receipt.
    Acknowledged { placement: Placement },
    /// The marketplace has it no more.
    Recalled { placement: Placement },
    /// The highest epoch of a lease that was seen here.
    Epoch {
        lease: LeaseId,
        #[serde(flatten)]
        line: LedgerEntry,
    },
    /// No ticket of the lease can start anything any more.
    Forgotten { lease: LeaseId },
}

impl Entry {
    /// Adds the fact to what is known.
    pub(super) fn apply(self, known: &mut Loaded) {
        match self {
            Self::Accepted { ticket, seat, node } => {
                let placement = Placement::of(&ticket);
                let seen = known.ledger.get(&ticket.lease);
                let over = seen.is_some_and(|seen| seen.epoch >= ticket.epoch);
                note_epoch(&mut known.ledger, ticket.lease, ledger_entry(&ticket));
                match known.records.get_mut(&placement) {
                    Some(record) => record.ticket = *ticket,
                    None if over => {}
                    None => {
                        let fresh = Record::new(*ticket, seat);
                        known.records.insert(placement, Record { node, ..fresh });
                    }
                }
            }
            Self::Stage {
                placement,
                stage,
                started_at,
            } => {
                if let Some(record) = known.records.get_mut(&placement) {
                    record.stage = stage;
                    record.started_at = started_at;
                }
            }
            Self::Usage {
                placement,
                counters,
                records,
                from,
            } => {
                if let Some(record) = known.records.get_mut(&placement) {
                    record.meter.restore(counters, records, from);
                }
            }
            Self::Ended { receipt } => {
                let placement = Placement::new(receipt.lease, receipt.epoch);
                let line = LedgerEntry::until(receipt.epoch, receipt.ended_at);
                note_epoch(&mut known.ledger, receipt.lease, line);
                known.records.remove(&placement);
                known.kept.remove(&placement);
                known.receipts.insert(placement, receipt);
            }
            Self::Acknowledged { placement } => {
                if let Some(receipt) = known.receipts.remove(&placement) {
                    keep(&mut known.kept, receipt);
                }
            }
            Self::Recalled { placement } => {
                if let Some(receipt) = known.kept.remove(&placement) {
                    known.receipts.insert(placement, receipt);
                }
            }
            Self::Epoch { lease, line } => note_epoch(&mut known.ledger, lease, line),
            Self::Forgotten { lease } => {
                known.ledger.remove(&lease);
                known.kept.retain(|placement, _| placement.lease != lease);
            }
        }
    }
}

/// An epoch never falls, and what is known of one is kept for the longer time.
pub(in crate::guests) fn note_epoch(ledger: &mut Ledger, lease: LeaseId, line: LedgerEntry) {
    let present = ledger.entry(lease).or_insert(line);
    if line.epoch > present.epoch {
        *present = line;
    } else if line.epoch == present.epoch {
        present.forget_after = present.forget_after.max(line.forget_after);
    }
}

/// Keeps a receipt that was acknowledged; the oldest goes where there are many.
fn keep(kept: &mut BTreeMap<Placement, EndReceipt>, receipt: EndReceipt) {
    let placement = Placement::new(receipt.lease, receipt.epoch);
    kept.insert(placement, receipt);
    let oldest = kept.iter().min_by_key(|(_, receipt)| receipt.ended_at);
    if kept.len() > KEPT_AT_MOST
        && let Some((oldest, _)) = oldest
    {
        let oldest = *oldest;
        kept.remove(&oldest);
    }
}

/// What to write so that `before` becomes `record`.
pub(super) fn changes(before: Option<&Record>, record: &Record) -> Vec<Entry> {
    let placement = record.placement();
    let mut changes = Vec::new();
    if before.is_none_or(|before| before.ticket != record.ticket) {
        changes.push(Entry::Accepted {
            ticket: Box::new(record.ticket.clone()),
            seat: record.seat,
            node: record.node,
        });
    }
    let fresh = Record::new(record.ticket.clone(), record.seat);
    let before = before.unwrap_or(&fresh);
    if (&before.stage, before.started_at) != (&record.stage, record.started_at) {
        changes.push(Entry::Stage {
            placement,
            stage: record.stage.clone(),
            started_at: record.started_at,
        });
    }
    if before.meter != record.meter {
        let (records, from) = record.meter.since(&before.meter);
        changes.push(Entry::Usage {
            placement,
            counters: record.meter.counters(),
            records,
            from,
        });
    }
    changes
}

/// Everything that is known, as entries.
pub(super) fn all(known: &Loaded) -> Vec<Entry> {
    let records = known.records.values();
    let mut all: Vec<_> = records.flat_map(|record| changes(None, record)).collect();
    for (placement, receipt) in &known.kept {
        let (placement, receipt) = (*placement, receipt.clone());
        all.push(Entry::Ended { receipt });
        all.push(Entry::Acknowledged { placement });
    }
    let receipts = known.receipts.values().cloned();
    all.extend(receipts.map(|receipt| Entry::Ended { receipt }));
    // After the tickets: a ticket of an epoch that was seen already is over.
    all.extend(known.ledger.iter().map(|(lease, line)| Entry::Epoch {
        lease: *lease,
        line: *line,
    }));
    all
}
