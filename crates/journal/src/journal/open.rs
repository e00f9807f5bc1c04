//! Opening: makes whole again what a power cut left, sets aside what is damaged.
//!
//! What always holds: nothing is removed but segments that were never finished.
//! What is handed out is durable by then: the last batch of the last segment,
//! whose sync may have failed before the process died, is written anew. Opening
//! twice hands out the same twice.

use std::io;

use super::begin::{SegmentError, Start};
use super::{Journal, Settings, record_bytes};
use crate::chain::{Head, after_break, genesis, marker};
use crate::medium::Medium;
use crate::name::Name;
use crate::record::{self, JOINED, UNCHAINED};
use crate::segment::Segment;
use crate::survey::{Live, Loose, ReadError, Survey};

/// What was found at the opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// From the last whole snapshot on, in order. After damage to a snapshot this
    /// may be an older one, and what was readable of the younger one comes later:
    /// an entry restates a fact, and what comes later counts.
    pub entries: Vec<Entry>,
    /// What was left out at the end, a sentence for a person.
    pub repaired: Option<String>,
    /// What was damaged and is kept beside, a sentence for a person each.
    pub set_aside: Vec<String>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub position: u64,
    pub body: Vec<u8>,
    /// Whether an unbroken chain leads to it. If not, it came from behind damage:
    /// it is itself as it was written, but what came before it may be missing.
    pub chained: bool,
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "could not begin a segment of the journal; nothing is lost: look after the disk, \
         then try again"
    )]
    Begin { source: SegmentError },
    #[error(
        "could not set the damaged segment {name} of the journal aside; nothing is lost: \
         look after the disk, then try again"
    )]
    SetAside { name: String, source: io::Error },
    #[error("could not sync the names of the journal's files; nothing is lost: try again")]
    SyncNames { source: io::Error },
}

impl<M: Medium> Journal<M> {
    /// Opens the journal on `medium`; begins one where there is none.
    pub fn open(medium: M, settings: Settings) -> Result<(Self, Recovered), OpenError> {
        let survey = Survey::of(&medium)?;
        let id = survey.id.unwrap_or(settings.id);
        let bases = survey.segments.iter().filter(|it| it.is_base);
        let mut journal = Self {
            medium,
            id,
            settings,
            head: Head {
                position: 0,
                hash: genesis(&id),
            },
            current: 0,
            next_number: survey.next_number,
            in_doubt: true,
            live_bytes: 0,
            snapshot_bytes: 0,
            bases: bases.map(|it| it.number).collect(),
        };
        for name in &survey.unfinished {
            // Takes space and nothing else: a failure is tried again next time.
            let _ = journal.medium.remove(name);
        }
        let mut live = survey.live_entries();
        let begun = if survey.is_fresh() {
            journal.begin_first()
        } else if survey.is_sound() {
            journal.go_on(&survey, &live)
        } else {
            journal.go_on_after_break(&mut live)
        };
        begun.map_err(|source| OpenError::Begin { source })?;
        journal.set_aside(&survey)?;
        let synced = journal.medium.sync_names();
        synced.map_err(|source| OpenError::SyncNames { source })?;
        let recovered = Recovered {
            entries: live.entries.into_iter().map(Entry::from).collect(),
            repaired: survey.torn(),
            set_aside: survey.findings(),
        };
        Ok((journal, recovered))
    }

    fn begin_first(&mut self) -> Result<(), SegmentError> {
        // Before its first entry a journal's whole state is nothing.
        self.begin(Start {
            snapshot: true,
            ..Start::after(self.head)
        })?;
        self.bases.push(self.current);
        Ok(())
    }

    /// A sound journal: goes on where it ended.
    fn go_on(&mut self, survey: &Survey, live: &Live) -> Result<(), SegmentError> {
        let (Some(newest), Some(head)) = (survey.segments.last(), survey.head()) else {
            return self.begin_first();
        };
        self.head = head;
        self.current = newest.number;
        let born = survey.live().first().map(|base| base.segment.born());
        let snapshot = live.entries.iter().take(born.unwrap_or_default());
        self.snapshot_bytes = snapshot.map(|it| record_bytes(&it.body)).sum();
        self.live_bytes = live.entries.iter().map(|it| record_bytes(&it.body)).sum();

        let segment = &newest.segment;
        let certain = certain(segment);
        let Some(hash) = segment.hash_after(certain) else {
            return self.begin(Start::after(head));
        };
        let doubtful = &segment.records[certain..];
        if doubtful.is_empty() && segment.trailing == 0 {
            self.in_doubt = false;
            return Ok(());
        }
        let mut after = head;
        let mut records = Vec::new();
        after.position -= u64::try_from(doubtful.len()).unwrap_or_default();
        after.hash = hash;
        let marker = marker(&self.id);
        let mut hash = hash;
        for record in doubtful {
            let (position, flags) = (record.position, record.flags);
            let out = &mut records;
            hash = record::encode(out, marker, &hash, position, flags, &record.body);
        }
        self.begin(Start {
            born: doubtful.len(),
            records,
            ..Start::after(after)
        })
    }

    /// A damaged journal: takes over what is readable into a segment that says so
    /// by its hash, and gives the entries the positions that they have there.
    fn go_on_after_break(&mut self, live: &mut Live) -> Result<(), SegmentError> {
        let after = Head {
            position: live.beyond - 1,
            hash: after_break(&self.id, &live.proven, live.beyond),
        };
        let marker = marker(&self.id);
        let mut head = after;
        let mut records = Vec::new();
        for entry in &mut live.entries {
            let flags = if entry.chained { 0 } else { UNCHAINED };
            head.position += 1;
            entry.position = head.position;
            let (previous, out) = (head.hash, &mut records);
            head.hash = record::encode(out, marker, &previous, head.position, flags, &entry.body);
        }
        self.snapshot_bytes = super::length(&records);
        self.live_bytes = self.snapshot_bytes;
        self.begin(Start {
            after,
            born: live.entries.len(),
            snapshot: true,
            after_break: true,
            records,
        })?;
        self.head = head;
        self.bases.push(self.current);
        Ok(())
    }

    /// Renames what is damaged. What was readable of it is durable elsewhere by
    /// now; what is older than the base is not needed.
    fn set_aside(&mut self, survey: &Survey) -> Result<(), OpenError> {
        for (number, name) in survey.damaged() {
            let renamed = self.medium.rename(name, &Name::damaged(number));
            renamed.map_err(|source| OpenError::SetAside {
                name: name.to_owned(),
                source,
            })?;
            self.bases.retain(|base| *base != number);
        }
        Ok(())
    }
}

/// How many records of the newest segment are certainly durable: those that it
/// was born with, and each batch on which another followed. Of the last batch
/// nobody knows: the process may have died after its sync had failed.
fn certain(segment: &Segment) -> usize {
    let last = segment
        .records
        .iter()
        .enumerate()
        .skip(segment.born())
        .rfind(|(_, record)| record.flags & JOINED == 0);
    last.map_or(segment.records.len(), |(index, _)| index)
}

impl From<Loose> for Entry {
    fn from(loose: Loose) -> Self {
        let Loose {
            position,
            body,
            chained,
        } = loose;
        Self {
            position,
            body,
            chained,
        }
    }
}
