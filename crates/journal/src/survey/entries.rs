//! The live entries, from the base to the end.

use std::collections::BTreeMap;

use super::{Link, Survey};
use crate::chain::{Hash, Head};
use crate::record::{OVERHEAD, UNCHAINED};

/// An entry out of its segment.
#[derive(Clone, Debug)]
pub(crate) struct Loose {
    pub(crate) position: u64,
    pub(crate) body: Vec<u8>,
    /// An unbroken chain leads to it.
    pub(crate) chained: bool,
}

/// Everything from the base on.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) entries: Vec<Loose>,
    /// How far the chain is unbroken.
    pub(crate) proven: Head,
    /// No entry that could be lost in damage had a position like this or higher.
    pub(crate) beyond: u64,
}

impl Survey {
    pub(crate) fn live_entries(&self) -> Live {
        let mut entries = BTreeMap::new();
        let mut proven = Head {
            position: 0,
            hash: Hash([0; 32]),
        };
        let mut unbroken = true;
        let mut unread = 0;
        let mut highest = 0;
        for placed in self.live() {
            let segment = &placed.segment;
            unread += segment.unread;
            let first = match segment.header {
                Some(header) => Some(header.first),
                None => segment.records.first().map(|it| it.position),
            };
            if let Some(first) = first {
                drop(entries.split_off(&first));
                // What it was born with may be cut off.
                let born = u64::try_from(segment.born()).unwrap_or_default();
                highest = highest.max(first - 1 + born);
            }
            match segment.header {
                Some(header) if unbroken => {
                    proven = Head {
                        position: header.first - 1,
                        hash: header.previous,
                    }
                }
                Some(_) => {}
                None => unbroken = false,
            }
            for record in &segment.records {
                let chained = unbroken && record.chained;
                if chained {
                    proven = Head {
                        position: record.position,
                        hash: record.hash,
                    };
                }
                highest = highest.max(record.position);
                let entry = Loose {
                    position: record.position,
                    body: record.body.clone(),
                    chained: chained && record.flags & UNCHAINED == 0,
                };
                entries.insert(record.position, entry);
            }
            unbroken &= placed.link == Link::Sound;
        }
        let lost = u64::try_from(unread / OVERHEAD).unwrap_or(u64::MAX);
        Live {
            entries: entries.into_values().collect(),
            proven,
            beyond: highest.saturating_add(lost).saturating_add(1),
        }
    }
}
