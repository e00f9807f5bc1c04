//! The names of a journal's files.

use std::fmt;

/// A file of a journal; whatever has another name is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment,
    /// A segment that was not finished: nothing in it counts.
    New,
    /// A segment that was set aside.
    Damaged,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::New => "new",
            Self::Damaged => "damaged",
        }
    }
}

impl Name {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, extension) = text.split_once('.')?;
        let kind = [Kind::Segment, Kind::New, Kind::Damaged]
            .into_iter()
            .find(|kind| kind.extension() == extension)?;
        let number = u64::from_str_radix(number, 16).ok()?;
        let name = Self { number, kind };
        (name.to_string() == text).then_some(name)
    }

    pub(crate) fn segment(number: u64) -> String {
        let kind = Kind::Segment;
        Self { number, kind }.to_string()
    }

    pub(crate) fn unfinished(number: u64) -> String {
        let kind = Kind::New;
        Self { number, kind }.to_string()
    }

    pub(crate) fn damaged(number: u64) -> String {
        let kind = Kind::Damaged;
        Self { number, kind }.to_string()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.number, self.kind.extension())
    }
}
