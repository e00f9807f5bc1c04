//! What outlives the agent: the clock, the hypervisor with its guests, and the
//! marketplace's register.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use surplus_agent::guests::{Placement, domain_xml};
use surplus_protocol::Digest;
use surplus_protocol::agent::{ReceiptAck, Tombstone, UsageAck};
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{EndReceipt, Ticket, UsageRecord};
use surplus_seat::Seat;

use crate::wire::{self, Orders, Report};

/// When the story begins, in seconds since 1970, and how long before that the
/// host booted, in milliseconds.
pub const BEGINNING: i64 = 1200;
pub const BOOTED_BEFORE: u64 = 100_000;

/// A guest that runs.
#[derive(Clone, Debug)]
pub struct Domain {
    pub ticket: Ticket,
    pub seat: Seat,
    pub metadata: String,
    pub made_at: u64,
}

/// What really happened to a placement.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// How often its domain was made.
    pub made: u32,
    pub made_at: u64,
    pub gone_at: Option<u64>,
    /// It ran before the agent first heard of it.
    pub is_orphan: bool,
}

/// Everything but the agent. Times are milliseconds since the beginning.
#[derive(Debug, Default)]
pub struct World {
    /// The host's state directory.
    pub state: PathBuf,
    pub now: u64,
    /// How much of it was without an agent that saw all.
    pub unseen: u64,
    pub domains: BTreeMap<String, Domain>,
    pub truth: BTreeMap<Placement, Truth>,
    /// Guests that power off when they are asked to.
    pub obedient: BTreeSet<Placement>,
    pub images: BTreeMap<Digest, Vec<u8>>,
    pub images_offline: bool,
    /// What a chapter waits for.
    pub until: u64,
    pub tickets: Vec<Ticket>,
    pub tombstones: Vec<Tombstone>,
    /// Reported to have stopped, and not yet told to the agent.
    stopped: Vec<String>,
    pub usage: BTreeMap<(Placement, u64), UsageRecord>,
    pub receipts: BTreeMap<Placement, EndReceipt>,
    /// The last report.
    pub report: Report,
    /// What was seen to be wrong.
    pub broken: Vec<String>,
}

impl World {
    /// At the beginning, on a host with this state directory.
    pub fn on(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            ..Self::default()
        }
    }

    pub fn breaks(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    /// Time passes; a guest that runs on past its lease's end is seen.
    pub fn pass(&mut self, millis: u64) {
        self.now += millis;
        self.judge_ends();
    }

    pub fn seen(&self) -> Vec<wire::Domain> {
        let domains = self.domains.iter();
        domains
            .map(|(name, domain)| wire::Domain {
                name: name.clone(),
                metadata: domain.metadata.clone(),
                millis: self.now - domain.made_at,
            })
            .collect()
    }

    pub fn usage_of(&self, name: &str) -> Option<u64> {
        let domain = self.domains.get(name)?;
        Some(self.now - domain.made_at)
    }

    /// A domain is made, as its XML says. Whether it could be.
    pub fn create(&mut self, name: &str, xml: &str) -> bool {
        let (Ok(ticket), Ok(seat)) = (domain_xml::ticket_of(xml), domain_xml::seat_of(xml)) else {
            self.breaks(format!("domain {name} is made without a ticket or a seat"));
            return false;
        };
        self.judge_creation(name, &ticket);
        if self.domains.contains_key(name) {
            return false;
        }
        if self.domains.values().any(|domain| domain.seat == seat) {
            self.breaks(format!(
                "domain {name} is made in seat {seat}, which is taken"
            ));
        }
        self.start(&ticket, seat);
        true
    }

    /// The guest runs from now on.
    pub fn start(&mut self, ticket: &Ticket, seat: Seat) {
        let placement = Placement::of(ticket);
        let truth = self.truth.entry(placement).or_default();
        truth.made += 1;
        truth.made_at = self.now;
        truth.gone_at = None;
        self.insert(ticket, seat);
    }

    /// The same, of something that counts for nothing.
    pub fn insert(&mut self, ticket: &Ticket, seat: Seat) {
        let json = BASE64.encode(serde_json::to_vec(ticket).unwrap_or_default());
        let domain = Domain {
            ticket: ticket.clone(),
            seat,
            metadata: format!("<surplus:guest ticket='{json}' seat='{seat}'/>"),
            made_at: self.now,
        };
        let name = Placement::of(ticket).domain_name();
        self.domains.insert(name, domain);
    }

    pub fn shutdown(&mut self, name: &str) {
        let placement = self
            .domains
            .get(name)
            .map(|domain| Placement::of(&domain.ticket));
        if placement.is_some_and(|placement| self.obedient.contains(&placement)) {
            self.remove(name);
        }
    }

    /// The domain is gone.
    pub fn remove(&mut self, name: &str) {
        let Some(domain) = self.domains.remove(name) else {
            return;
        };
        let now = self.now;
        if let Some(truth) = self.truth.get_mut(&Placement::of(&domain.ticket)) {
            truth.gone_at.get_or_insert(now);
        }
        self.stopped.push(name.to_owned());
    }

    /// Takes in what the agent says, and answers.
    pub fn report(&mut self, report: Report) {
        self.judge_report(&report);
        for record in &report.usage {
            let placement = Placement::new(record.lease, record.epoch);
            self.usage
                .entry((placement, record.seq))
                .or_insert_with(|| record.clone());
        }
        for receipt in &report.receipts {
            let placement = Placement::new(receipt.lease, receipt.epoch);
            self.receipts
                .entry(placement)
                .or_insert_with(|| receipt.clone());
        }
        self.report = report;
    }

    /// What the marketplace says now. `heard`: it has the last report, and
    /// acknowledges what is in it.
    pub fn orders(&mut self, heard: bool) -> Orders {
        let report = &self.report;
        let usage = report.usage.iter().map(|record| UsageAck {
            lease: record.lease,
            epoch: record.epoch,
            seq: record.seq,
        });
        let receipts = report.receipts.iter().map(|receipt| ReceiptAck {
            lease: receipt.lease,
            epoch: receipt.epoch,
        });
        Orders {
            now_millis: self.now,
            tickets: self.tickets.clone(),
            tombstones: self.tombstones.clone(),
            sellable: Resources {
                vcpus: 16,
                memory_bytes: 8 << 30,
                disk_bytes: 64 << 30,
                addresses: 0,
            },
            usage: usage.filter(|_| heard).collect(),
            receipts: receipts.filter(|_| heard).collect(),
            stopped: std::mem::take(&mut self.stopped),
        }
    }

    /// Events are lost on a dead agent.
    pub fn agent_died(&mut self) {
        self.stopped.clear();
    }
}
