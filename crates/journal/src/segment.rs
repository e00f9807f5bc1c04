//! One segment's bytes, taken apart; what is damaged in them is stepped over.
//!
//! What always holds: every record handed out has a hash that fits its position,
//! its body and the hash before it. No bytes make the reader panic.

use crate::chain::{self, Hash, Marker};
use crate::header::{self, Header};
use crate::record::{Frame, MAX_POSITION, OVERHEAD, field, hash_before};

/// A segment as it was found.
#[derive(Debug)]
pub(crate) struct Segment {
    /// `None`: it could not be read.
    pub(crate) header: Option<Header>,
    /// In the order of the file.
    pub(crate) records: Vec<Record>,
    /// What is wrong before the end, first thing first.
    pub(crate) trouble: Option<Trouble>,
    /// Bytes at the end in which no record was found.
    pub(crate) trailing: usize,
    /// Bytes that were stepped over, those at the end among them.
    pub(crate) unread: usize,
}

/// An entry in its segment.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) position: u64,
    pub(crate) flags: u8,
    pub(crate) body: Vec<u8>,
    pub(crate) hash: Hash,
    /// An unbroken chain leads to it from the segment's header.
    pub(crate) chained: bool,
}

/// Damage with something readable behind it.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// How many records were found before it.
    pub(crate) index: usize,
    /// What is wrong, to follow the file's name in a sentence.
    pub(crate) what: String,
}

impl Segment {
    /// `marker` is that of the journal it seems to belong to: needed only where
    /// the header could not be read.
    pub(crate) fn parse(bytes: &[u8], header: Option<Header>, marker: Option<Marker>) -> Self {
        let walk = Walk::new(bytes, header.as_ref(), marker);
        walk.map_or_else(|| Self::without_records(header, bytes), Walk::run)
    }

    fn without_records(header: Option<Header>, bytes: &[u8]) -> Self {
        Self {
            header,
            records: Vec::new(),
            trouble: None,
            trailing: bytes.len(),
            unread: bytes.len(),
        }
    }

    /// How many records an unbroken chain leads to.
    pub(crate) fn chained(&self) -> usize {
        self.records.iter().take_while(|it| it.chained).count()
    }

    /// The hash after `count` of its records, where the chain reaches so far.
    pub(crate) fn hash_after(&self, count: usize) -> Option<Hash> {
        match count.checked_sub(1) {
            None => self.header.map(|header| header.previous),
            Some(last) => {
                let record = self.records.get(last)?;
                record.chained.then_some(record.hash)
            }
        }
    }

    /// How many entries it got its name with.
    pub(crate) fn born(&self) -> usize {
        let born = self.header.map(|it| it.born);
        usize::try_from(born.unwrap_or_default()).unwrap_or(usize::MAX)
    }

    /// Whether everything is there that it got its name with.
    pub(crate) fn is_born_whole(&self) -> bool {
        self.header.is_some() && self.chained() >= self.born()
    }
}

/// Goes through a segment from record to record.
struct Walk<'a> {
    bytes: &'a [u8],
    marker: Marker,
    at: usize,
    previous: Hash,
    /// The position that comes next, if anything is known of it.
    expected: Option<u64>,
    chained: bool,
    found: Segment,
}

enum Step<'a> {
    /// A record with its hash.
    Whole(Frame<'a>, Hash),
    /// A record whose own hash is damaged: the next one vouches for it.
    Vouched(Frame<'a>, Hash),
    /// Damage, and the record after it, at this offset.
    Resumes(usize, Frame<'a>),
    End,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], header: Option<&Header>, marker: Option<Marker>) -> Option<Self> {
        let beside = hash_before(bytes, header::LENGTH)?;
        let mut walk = Self {
            bytes,
            marker: marker.unwrap_or_default(),
            at: header::LENGTH,
            previous: beside,
            expected: None,
            chained: header.is_some(),
            found: Segment {
                header: header.copied(),
                records: Vec::new(),
                trouble: None,
                trailing: 0,
                unread: 0,
            },
        };
        if let Some(header) = header {
            walk.marker = chain::marker(&header.id);
            walk.previous = header.previous;
            walk.expected = Some(header.first);
            if beside != header.previous {
                walk.trouble("has a damaged header".to_owned());
            }
        } else {
            walk.found.unread = header::LENGTH;
            walk.guess(beside);
        }
        Some(walk)
    }

    /// Without a header: the first record stands where it always stands, and says
    /// whether its marker and which copy of the previous hash are good.
    fn guess(&mut self, beside: Hash) {
        let Some(marker) = field(self.bytes, self.at) else {
            return;
        };
        let under_sum = hash_before(self.bytes, header::PREVIOUS + 32);
        let first = Frame::at(self.bytes, self.at, marker);
        let fits = |previous: &Hash| first.is_some_and(|frame| frame.follows(previous));
        if let Some(previous) = [Some(beside), under_sum].into_iter().flatten().find(fits) {
            (self.marker, self.previous) = (marker, previous);
        }
    }

    fn run(mut self) -> Segment {
        while self.at < self.bytes.len() {
            match self.step() {
                Step::Whole(frame, hash) => self.take(&frame, hash),
                Step::Vouched(frame, hash) => {
                    self.trouble(format!(
                        "has a damaged checksum at entry {}",
                        frame.position
                    ));
                    self.take(&frame, hash);
                }
                Step::Resumes(offset, frame) => {
                    let (from, length) = (self.at, offset - self.at);
                    self.trouble(format!(
                        "is damaged from byte {from} on, for {length} bytes, before entry {}",
                        frame.position
                    ));
                    self.found.unread += length;
                    self.chained = false;
                    self.take(&frame, frame.hash);
                }
                Step::End => {
                    self.found.trailing = self.bytes.len() - self.at;
                    self.found.unread += self.found.trailing;
                    break;
                }
            }
        }
        self.found
    }

    fn step(&self) -> Step<'a> {
        let here = self.frame(self.at);
        let frame = here.filter(|it| self.expected.is_none_or(|expected| it.position == expected));
        if let Some(frame) = frame {
            let hash = frame.link(&self.previous);
            if hash == frame.hash {
                return Step::Whole(frame, hash);
            }
            let next = self.frame(frame.end);
            if next.is_some_and(|it| it.position == frame.position + 1 && it.follows(&hash)) {
                return Step::Vouched(frame, hash);
            }
        }
        // The length may be good: then the search is short.
        here.map(|frame| frame.end)
            .into_iter()
            .chain(self.at + 1..self.bytes.len())
            .find_map(|offset| {
                let frame = self.resumes(offset)?;
                Some(Step::Resumes(offset, frame))
            })
            .unwrap_or(Step::End)
    }

    fn frame(&self, offset: usize) -> Option<Frame<'a>> {
        Frame::at(self.bytes, offset, self.marker)
    }

    /// The record at `offset`, if it is one that can come after the damage.
    fn resumes(&self, offset: usize) -> Option<Frame<'a>> {
        let frame = self.frame(offset)?;
        let from = self.expected.unwrap_or(1);
        let lost = u64::try_from((offset - self.at) / OVERHEAD).ok()?;
        let to = self.expected.map_or(MAX_POSITION, |it| it + lost);
        let possible = (from..=to).contains(&frame.position);
        (possible && frame.follows(&hash_before(self.bytes, offset)?)).then_some(frame)
    }

    fn take(&mut self, frame: &Frame<'_>, hash: Hash) {
        self.found.records.push(Record {
            position: frame.position,
            flags: frame.flags,
            body: frame.body.to_vec(),
            hash,
            chained: self.chained,
        });
        self.at = frame.end;
        self.previous = hash;
        self.expected = Some(frame.position + 1);
    }

    fn trouble(&mut self, what: String) {
        let index = self.found.records.len();
        self.found.trouble.get_or_insert(Trouble { index, what });
    }
}
