//! What is wrong with each segment, and between one and the next.

use super::{Placed, Survey};
use crate::header::Header;

/// How a segment is continued by the next newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The chain goes on; also that of the newest one, which nothing follows yet.
    Sound,
    /// It cannot be said: one of the two, or one between them, is damaged and was
    /// or will be reported, or the newer one begins after a break.
    Unknown,
    /// Entries from one position to another are in neither.
    Missing(u64, u64),
    /// The newer one follows another past.
    Foreign,
}

impl Link {
    /// What is wrong, as a sentence.
    pub(super) fn finding(self, older: &str, newer: &str) -> Option<String> {
        match self {
            Self::Sound | Self::Unknown => None,
            Self::Missing(from, to) => Some(format!(
                "entries {from} to {to} are missing between {older} and {newer}: \
                 a segment was removed"
            )),
            Self::Foreign => Some(format!(
                "{newer} does not continue {older}: one of them was exchanged"
            )),
        }
    }
}

impl Survey {
    pub(super) fn judge(&mut self) {
        // What the next newer segment says of itself, if it can be read, and its
        // number.
        let mut newer: Option<(u64, Option<Header>)> = None;
        for placed in self.segments.iter_mut().rev() {
            let set_aside_between = newer.is_some_and(|(number, _)| {
                let between = placed.number..number;
                self.aside.iter().any(|aside| between.contains(aside))
            });
            match newer {
                None => placed.judge_newest(),
                Some((_, header)) => placed.judge_before(header.as_ref(), set_aside_between),
            }
            newer = Some((placed.number, placed.segment.header));
        }
    }
}

impl Placed {
    fn judge_newest(&mut self) {
        let segment = &self.segment;
        self.damage = if segment.header.is_none() {
            Some(format!("the header of {} is unreadable", self.name))
        } else if let Some(trouble) = &segment.trouble {
            Some(format!("{} {}", self.name, trouble.what))
        } else if !segment.is_born_whole() {
            Some(self.end_unreadable())
        } else {
            None
        };
        self.is_base = self.is_whole_snapshot();
    }

    fn judge_before(&mut self, newer: Option<&Header>, set_aside_between: bool) {
        let newer = newer.filter(|it| !it.after_break);
        let limit = newer.map_or(u64::MAX, |it| it.first);
        let Some(header) = self.segment.header else {
            self.damage = Some(format!("the header of {} is unreadable", self.name));
            self.link = Link::Unknown;
            return;
        };
        self.is_base = self.is_whole_snapshot() && header.first + u64::from(header.born) <= limit;
        self.link = newer.map_or(Link::Unknown, |newer| self.link_to(&header, newer));
        if self.link != Link::Sound && set_aside_between {
            self.link = Link::Unknown;
        }
        let segment = &self.segment;
        // What is superseded may be as it likes.
        let counted = usize::try_from(limit.saturating_sub(header.first)).unwrap_or(usize::MAX);
        if let Some(trouble) = &segment.trouble
            && (trouble.index < counted || trouble.index == 0)
        {
            self.damage = Some(format!("{} {}", self.name, trouble.what));
        } else if !segment.is_born_whole() {
            self.damage = Some(self.end_unreadable());
        } else if let Link::Missing(from, to) = self.link
            && segment.trailing > 0
        {
            let what = self.end_unreadable();
            self.damage = Some(format!(
                "{what}, and entries {from} to {to} are nowhere else"
            ));
        }
    }

    /// How `newer` continues this one.
    fn link_to(&self, header: &Header, newer: &Header) -> Link {
        let chained = self.segment.chained();
        let end = header.first + u64::try_from(chained).unwrap_or(u64::MAX);
        let Some(counted) = newer.first.checked_sub(header.first) else {
            return Link::Foreign;
        };
        if newer.first > end {
            return Link::Missing(end, newer.first - 1);
        }
        let hash = usize::try_from(counted)
            .ok()
            .and_then(|counted| self.segment.hash_after(counted));
        if hash == Some(newer.previous) {
            Link::Sound
        } else {
            Link::Foreign
        }
    }

    fn is_whole_snapshot(&self) -> bool {
        self.segment.header.is_some_and(|header| header.snapshot) && self.segment.is_born_whole()
    }

    fn end_unreadable(&self) -> String {
        let last = self.segment.records.last().map(|it| it.position);
        match last {
            Some(last) => format!("{} is unreadable after entry {last}", self.name),
            None => format!("{} holds no readable entry", self.name),
        }
    }
}
