//! The life that the agent is led through: every step that its engine can take
//! is needed somewhere in it.
//!
//! A chapter gives orders, or lets something happen, and is over when what it
//! asks for has come about. Time passes while it is waited for.

use std::fs;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use newtype_uuid::GenericUuid as _;
use sha2::{Digest as _, Sha256};
use surplus_agent::guests::Placement;
use surplus_protocol::Digest;
use surplus_protocol::agent::Tombstone;
use surplus_protocol::ids::LeaseId;
use surplus_protocol::inventory::Resources;
use surplus_protocol::lease::{
    EndReason, Firmware, GuestPhase, GuestSpec, ImageFormat, OnLostLink, Ticket,
};
use surplus_seat::Seat;
use uuid::Uuid;

use crate::agent::{boot, host};
use crate::world::{BEGINNING, World};

/// A chapter may take so long, in milliseconds of the story's time.
const PATIENCE_MILLIS: u64 = 600_000;
/// Between two turns of the agent, while something is waited for.
const TICK_MILLIS: u64 = 10_000;

/// Leases, by number.
const ORPHAN: u128 = 0x80;
const LEFTOVER: u128 = 0x90;

struct Chapter {
    name: &'static str,
    begins: fn(&mut World),
    is_over: fn(&World) -> bool,
}

const CHAPTERS: &[Chapter] = &[
    Chapter {
        name: "one guest is made, one taken up, one refused, one was never there",
        begins: |world| {
            world.tickets = vec![ticket(1, 1), too_large(ticket(2, 1))];
            world.tombstones = vec![tombstone(3, 1)];
        },
        is_over: |world| {
            world.runs(1, 1) && world.runs(ORPHAN, 1) && world.ended(2, 1) && world.ended(3, 1)
        },
    },
    Chapter {
        name: "the guest is metered",
        begins: |_| {},
        is_over: |world| world.usage.contains_key(&(placement(1, 1), 2)),
    },
    Chapter {
        name: "two guests are ended, of which one obeys",
        begins: |world| {
            world.obedient.insert(placement(1, 1));
            world.tickets.clear();
            world.tombstones = vec![tombstone(1, 1), tombstone(ORPHAN, 1)];
        },
        is_over: |world| world.ended(1, 1) && world.ended(ORPHAN, 1),
    },
    Chapter {
        name: "an image cannot be fetched",
        begins: |world| {
            world.images_offline = true;
            world.tombstones.clear();
            world.until = world.now + 40_000;
            world.tickets = vec![until(ticket(4, 1), world.until)];
        },
        is_over: |world| world.phase(4, 1) == Some(GuestPhase::Retrying),
    },
    Chapter {
        name: "its ticket is good for longer",
        begins: |world| world.tickets = vec![ticket(4, 1)],
        is_over: |world| world.now > world.until,
    },
    Chapter {
        name: "the image is there",
        begins: |world| world.images_offline = false,
        is_over: |world| world.runs(4, 1),
    },
    Chapter {
        name: "the lease is placed anew",
        begins: |world| {
            let ends = world.now + 120_000;
            world.tickets = vec![ending(ticket(4, 2), ends)];
        },
        is_over: |world| world.ended(4, 1) && world.runs(4, 2),
    },
    Chapter {
        name: "a domain of the old epoch comes up late",
        begins: |world| world.insert(&ticket(4, 1), seat(240)),
        is_over: |world| !world.domains.contains_key(&placement(4, 1).domain_name()),
    },
    Chapter {
        name: "the lease's end comes, and the guest does not obey",
        begins: |_| {},
        is_over: |world| world.ended(4, 2),
    },
    Chapter {
        name: "a guest is made",
        begins: |world| world.tickets = vec![ticket(5, 1)],
        is_over: |world| world.runs(5, 1),
    },
    Chapter {
        name: "it powers itself off; another's image does not exist",
        begins: |world| {
            world.remove(&placement(5, 1).domain_name());
            let mut ticket = ticket(6, 1);
            ticket.guest.image = digest(b"nowhere");
            world.tickets = vec![ticket];
        },
        is_over: |world| world.ended(5, 1) && world.ended(6, 1),
    },
    Chapter {
        name: "everything is acknowledged",
        begins: |world| world.tickets.clear(),
        is_over: |world| {
            let report = &world.report;
            report.leases.is_empty() && report.usage.is_empty() && report.receipts.is_empty()
        },
    },
];

/// Why each lease must have ended.
const ENDINGS: &[(u128, u64, EndReason)] = &[
    (1, 1, EndReason::Ended),
    (2, 1, EndReason::StartFailed),
    (3, 1, EndReason::Ended),
    (4, 1, EndReason::Reclaimed),
    (4, 2, EndReason::Expired),
    (5, 1, EndReason::GuestStopped),
    (6, 1, EndReason::StartFailed),
    (ORPHAN, 1, EndReason::Ended),
];

/// How far the story is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Story {
    chapter: usize,
    begun_at: u64,
}

impl Story {
    /// What there is before the agent is: somebody's files, and a guest that
    /// runs though no ledger knows of it.
    ///
    /// # Errors
    ///
    /// When the host's directory cannot be written.
    pub fn begin(world: &mut World) -> Result<Self> {
        for lease in 1..=6_u128 {
            let image = lease.to_be_bytes().to_vec();
            world.images.insert(digest(&image), image);
        }
        for lease in [ORPHAN, LEFTOVER] {
            let files = world
                .state
                .join("guests")
                .join(placement(lease, 1).to_string());
            fs::create_dir_all(&files)
                .and_then(|()| fs::write(files.join("disk.qcow2"), b"a disk"))
                .with_context(|| format!("could not make {}", files.display()))?;
        }
        let orphan = ticket(ORPHAN, 1);
        world.start(&orphan, seat(241));
        let truth = world.truth.entry(Placement::of(&orphan)).or_default();
        truth.is_orphan = true;
        (CHAPTERS[0].begins)(world);
        Ok(Self::default())
    }

    /// Goes on after a report; whether the story is over.
    pub fn goes_on(&mut self, world: &mut World) -> bool {
        let Some(chapter) = CHAPTERS.get(self.chapter) else {
            return true;
        };
        if !(chapter.is_over)(world) {
            if world.now > self.begun_at + PATIENCE_MILLIS {
                let (report, receipts) = (&world.report, &world.receipts);
                let what = format!(
                    "does not come to an end: {}; {report:?}; so far {receipts:?}",
                    chapter.name
                );
                world.breaks(what);
            }
            world.pass(TICK_MILLIS);
            return false;
        }
        self.chapter += 1;
        self.begun_at = world.now;
        world.pass(1000);
        match CHAPTERS.get(self.chapter) {
            Some(next) => {
                (next.begins)(world);
                false
            }
            None => {
                world.judge_endings();
                true
            }
        }
    }
}

impl World {
    fn phase(&self, lease: u128, epoch: u64) -> Option<GuestPhase> {
        let placement = placement(lease, epoch);
        let mut leases = self.report.leases.iter();
        let status = leases.find(|it| Placement::new(it.lease, it.epoch) == placement);
        status.map(|status| status.phase)
    }

    fn runs(&self, lease: u128, epoch: u64) -> bool {
        self.phase(lease, epoch) == Some(GuestPhase::Running)
    }

    fn ended(&self, lease: u128, epoch: u64) -> bool {
        self.receipts.contains_key(&placement(lease, epoch))
    }

    fn judge_endings(&mut self) {
        for (lease, epoch, reason) in ENDINGS {
            let placement = placement(*lease, *epoch);
            match self.receipts.get(&placement).cloned() {
                Some(receipt) if receipt.reason == *reason => {}
                other => self.breaks(format!("{placement} should end as {reason:?}: {other:?}")),
            }
        }
        if self.receipts.len() != ENDINGS.len() {
            let all: Vec<_> = self.receipts.keys().map(Placement::to_string).collect();
            self.breaks(format!("there are receipts too many: {all:?}"));
        }
    }
}

fn placement(lease: u128, epoch: u64) -> Placement {
    Placement::new(LeaseId::from_untyped_uuid(Uuid::from_u128(lease)), epoch)
}

fn digest(image: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(image).into())
}

fn tombstone(lease: u128, epoch: u64) -> Tombstone {
    let Placement { lease, epoch } = placement(lease, epoch);
    Tombstone {
        lease,
        epoch,
        reason: EndReason::Ended,
    }
}

fn at(millis: u64) -> Timestamp {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(BEGINNING * 1000 + millis).unwrap_or(Timestamp::MAX)
}

/// One that the agent does not come to by itself.
fn seat(number: u16) -> Seat {
    Seat::try_from(number).expect("a seat's number")
}

/// Good for a day.
fn ticket(lease: u128, epoch: u64) -> Ticket {
    let Placement { lease: id, .. } = placement(lease, epoch);
    let image = lease.to_be_bytes();
    Ticket {
        lease: id,
        epoch,
        host: host(),
        boot: boot(),
        issued_at: at(0),
        not_after: at(86_400_000),
        ends_at: at(86_400_000),
        terms: None,
        claim: None,
        proof: None,
        guest: GuestSpec {
            name: format!("guest-{lease}"),
            resources: Resources {
                vcpus: 1,
                memory_bytes: 1 << 30,
                disk_bytes: 1 << 30,
                addresses: 0,
            },
            image: digest(&image),
            image_format: ImageFormat::Raw,
            image_bytes: image.len() as u64,
            firmware: Firmware::Bios,
            ssh_keys: Vec::new(),
            // So much that the ledger rolls.
            user_data: Some("x".repeat(60_000)),
            on_lost_link: OnLostLink::Keep,
            ports: Vec::new(),
        },
    }
}

fn until(ticket: Ticket, millis: u64) -> Ticket {
    Ticket {
        not_after: at(millis),
        ..ticket
    }
}

fn ending(ticket: Ticket, millis: u64) -> Ticket {
    Ticket {
        ends_at: at(millis),
        ..ticket
    }
}

fn too_large(mut ticket: Ticket) -> Ticket {
    ticket.guest.resources.memory_bytes = 64 << 30;
    ticket
}
