//! All segments of a journal, looked at together: what is whole, what is wrong.
//!
//! Reads only. What to do about it is `journal::open`'s business, what to say of
//! it `verify`'s.
//!
//! The newest segment that begins with a whole snapshot is the *base*; it and
//! what follows it are *live*, what is older is *history*. A segment begins where
//! it says; what an older one holds from there on is superseded.

mod entries;
mod judge;

use std::io;

use crate::chain::{Head, JournalId, marker};
use crate::header::{Header, Unreadable, VERSION};
use crate::medium::Source;
use crate::name::{Kind, Name};
use crate::segment::Segment;

pub(crate) use entries::{Live, Loose};
pub(crate) use judge::Link;

/// Why a journal could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("could not list the journal's files")]
    List { source: io::Error },
    #[error(
        "could not read the journal's segment {name}; nothing was changed: \
         try again, and if its disk is failing, move the file away and keep it, \
         then the journal goes on without it and says so"
    )]
    Read { name: String, source: io::Error },
    #[error(
        "the journal's segment {name} is of version {version}, and this program knows \
         only version {VERSION}; nothing was changed: start the newer program again, \
         or move the journal away to begin a new one"
    )]
    Newer { name: String, version: u32 },
}

/// What is there.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The journal's, as its newest readable header has it.
    pub(crate) id: Option<JournalId>,
    /// Oldest first.
    pub(crate) segments: Vec<Placed>,
    /// Segments of another journal, or under another's name.
    pub(crate) strange: Vec<Strange>,
    /// Files of segments that were not finished.
    pub(crate) unfinished: Vec<String>,
    /// Numbers of segments that were set aside earlier.
    pub(crate) aside: Vec<u64>,
    /// Higher than that of any file.
    pub(crate) next_number: u64,
}

/// A segment in its row.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) bytes: usize,
    pub(crate) segment: Segment,
    /// What is wrong in it: a sentence.
    pub(crate) damage: Option<String>,
    /// How the next newer one continues it.
    pub(crate) link: Link,
    /// It begins with everything that was live then, and that is whole.
    pub(crate) is_base: bool,
}

#[derive(Debug)]
pub(crate) struct Strange {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// A sentence.
    pub(crate) why: String,
}

impl Survey {
    pub(crate) fn of(source: &impl Source) -> Result<Self, ReadError> {
        let names = source.list().map_err(|source| ReadError::List { source })?;
        let mut survey = Self {
            id: None,
            segments: Vec::new(),
            strange: Vec::new(),
            unfinished: Vec::new(),
            aside: Vec::new(),
            next_number: 1,
        };
        let mut numbers = Vec::new();
        for name in names.iter().filter_map(|name| Name::parse(name)) {
            survey.next_number = survey.next_number.max(name.number.saturating_add(1));
            match name.kind {
                Kind::Segment => numbers.push(name.number),
                Kind::New => survey.unfinished.push(name.to_string()),
                Kind::Damaged => survey.aside.push(name.number),
            }
        }
        numbers.sort_unstable();
        survey.read(source, &numbers)?;
        survey.judge();
        Ok(survey)
    }

    fn read(&mut self, source: &impl Source, numbers: &[u64]) -> Result<(), ReadError> {
        let mut found = Vec::new();
        for number in numbers {
            let name = Name::segment(*number);
            let bytes = match source.read(&name) {
                Ok(bytes) => bytes,
                Err(source) => return Err(ReadError::Read { name, source }),
            };
            let header = match Header::parse(&bytes) {
                Ok(header) => Some(header),
                Err(Unreadable::Damaged) => None,
                Err(Unreadable::Newer(version)) => return Err(ReadError::Newer { name, version }),
            };
            found.push((*number, name, header, bytes));
        }
        let ids = found.iter().rev().filter_map(|(_, _, header, _)| *header);
        self.id = ids.map(|header| header.id).next();
        let marker = self.id.as_ref().map(marker);
        for (number, name, header, bytes) in found {
            if let Some(why) = header.and_then(|it| self.strangeness(&it, number, &name)) {
                self.strange.push(Strange { number, name, why });
                continue;
            }
            self.segments.push(Placed {
                number,
                name,
                bytes: bytes.len(),
                segment: Segment::parse(&bytes, header, marker),
                damage: None,
                link: Link::Sound,
                is_base: false,
            });
        }
        Ok(())
    }

    fn strangeness(&self, header: &Header, number: u64, name: &str) -> Option<String> {
        if self.id.is_some_and(|id| id != header.id) {
            return Some(format!(
                "{name} belongs to another journal: none of its entries was taken"
            ));
        }
        (header.number != number).then(|| {
            format!(
                "{name} was renamed, it is segment {:016x}: none of its entries was taken",
                header.number
            )
        })
    }

    /// Where the live part begins in `segments`: with the base, or, without one,
    /// with the oldest.
    pub(crate) fn live_from(&self) -> usize {
        let base = self.segments.iter().rposition(|it| it.is_base);
        base.unwrap_or_default()
    }

    pub(crate) fn live(&self) -> &[Placed] {
        &self.segments[self.live_from()..]
    }

    /// The number and the name of each segment that is to be set aside.
    pub(crate) fn damaged(&self) -> impl Iterator<Item = (u64, &str)> {
        let live_from = self.live_from();
        let strange = self.strange.iter().map(|it| (it.number, it.name.as_str()));
        let placed = self.segments.iter().enumerate().filter(move |(index, it)| {
            // Of two that do not fit, the one that is not needed: in the live part
            // the newer one, for the older has the base behind it.
            let misfit = it.link == Link::Foreign && *index < live_from;
            let before = index.checked_sub(1).filter(|before| *before >= live_from);
            let before = before.and_then(|before| self.segments.get(before));
            misfit || it.damage.is_some() || before.is_some_and(|it| it.link == Link::Foreign)
        });
        strange.chain(placed.map(|(_, it)| (it.number, it.name.as_str())))
    }

    /// Whether the live part is a chain without a gap from a whole snapshot on.
    pub(crate) fn is_sound(&self) -> bool {
        let live = self.live();
        live.first().is_some_and(|it| it.is_base)
            && live.iter().all(|it| it.damage.is_none())
            && live.iter().all(|it| it.link == Link::Sound)
    }

    /// Whether there is no journal yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.segments.is_empty() && self.strange.is_empty() && self.aside.is_empty()
    }

    /// The end of a sound chain.
    pub(crate) fn head(&self) -> Option<Head> {
        let newest = self.segments.last()?;
        let header = newest.segment.header?;
        let count = newest.segment.chained();
        Some(Head {
            position: header.first - 1 + u64::try_from(count).ok()?,
            hash: newest.segment.hash_after(count)?,
        })
    }

    /// What a write that was cut off has left at the end: a sentence.
    pub(crate) fn torn(&self) -> Option<String> {
        let newest = self.segments.last()?;
        let trailing = newest.segment.trailing;
        let is_torn = trailing > 0 && newest.segment.is_born_whole();
        is_torn.then(|| {
            let last = newest.segment.records.last().map(|it| it.position);
            let last = last.or(newest.segment.header.map(|header| header.first - 1));
            format!(
                "the last {trailing} bytes of {} are no whole entry, as after a power cut \
                 in the middle of a write: they are left out, and the journal goes on after \
                 entry {}",
                newest.name,
                last.unwrap_or_default()
            )
        })
    }

    /// What is wrong, a sentence each, oldest first; a torn tail is not.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings: Vec<_> = self.strange.iter().map(|it| it.why.clone()).collect();
        if !self.is_fresh() && self.segments.is_empty() {
            findings.push("no segment of the journal is left: all its entries are gone".to_owned());
        }
        if let Some(first) = self.segments.first()
            && !self.segments.iter().any(|it| it.is_base)
            && first.damage.is_none()
        {
            findings.push(format!(
                "what the journal held before {} is missing: a segment was removed",
                first.name
            ));
        }
        for (index, placed) in self.segments.iter().enumerate() {
            findings.extend(placed.damage.clone());
            if placed.damage.is_none()
                && let Some(next) = self.segments.get(index + 1)
            {
                findings.extend(placed.link.finding(&placed.name, &next.name));
            }
        }
        findings
    }
}
