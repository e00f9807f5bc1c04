//! Looks a journal through and says what it found. Changes nothing.

use crate::chain::Head;
use crate::medium::Source;
use crate::survey::{ReadError, Survey};

/// What a journal looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Oldest first.
    pub segments: Vec<SegmentReport>,
    /// The end of the chain, where nothing live is damaged.
    pub head: Option<Head>,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
    /// Bytes at the end that a write may have left half-done, or that one in
    /// progress has not finished: a sentence.
    pub torn: Option<String>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    pub name: String,
    pub bytes: usize,
    /// Where its header could be read: the position of its first entry.
    pub first: Option<u64>,
    /// Entries that could be read.
    pub entries: usize,
    /// Its own end of the chain, where its header could be read.
    pub head: Option<Head>,
    /// It begins with everything that was live then.
    pub snapshot: bool,
    /// It begins after damage: the chain before it does not lead to it.
    pub after_break: bool,
}

impl Report {
    /// Nothing is wrong; a half-done write at the end, which an opening leaves
    /// out, does not count.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Goes through all segments.
pub fn verify(source: &impl Source) -> Result<Report, ReadError> {
    let survey = Survey::of(source)?;
    let segments = survey.segments.iter().map(|placed| {
        let segment = &placed.segment;
        let header = segment.header;
        let chained = segment.chained();
        let head = header.zip(segment.hash_after(chained));
        SegmentReport {
            name: placed.name.clone(),
            bytes: placed.bytes,
            first: header.map(|it| it.first),
            entries: segment.records.len(),
            head: head.map(|(header, hash)| Head {
                position: header.first - 1 + u64::try_from(chained).unwrap_or_default(),
                hash,
            }),
            snapshot: header.is_some_and(|it| it.snapshot),
            after_break: header.is_some_and(|it| it.after_break),
        }
    });
    Ok(Report {
        segments: segments.collect(),
        head: survey.head().filter(|_| survey.is_sound()),
        findings: survey.findings(),
        torn: survey.torn(),
    })
}
