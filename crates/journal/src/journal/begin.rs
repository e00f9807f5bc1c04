//! Beginning a segment: written under another name, synced, renamed, and the
//! rename synced. Whatever instruction it ends at, the segment is whole or none.

use std::io;

use super::Journal;
use crate::chain::Head;
use crate::header::Header;
use crate::medium::Medium;
use crate::name::Name;

/// Why a segment could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("could not make {name}")]
    Make { name: String, source: io::Error },
    #[error("could not write {name}")]
    Write { name: String, source: io::Error },
    #[error("could not sync {name}")]
    Sync { name: String, source: io::Error },
    #[error("could not rename {from} to {to}")]
    Rename {
        from: String,
        to: String,
        source: io::Error,
    },
    #[error("could not sync the names of the journal's files after making {name}")]
    SyncNames { name: String, source: io::Error },
}

/// What a segment begins with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) after: Head,
    /// How many entries `records` holds.
    pub(super) born: usize,
    pub(super) snapshot: bool,
    pub(super) after_break: bool,
    pub(super) records: Vec<u8>,
}

impl Start {
    /// A segment without entries that goes on after `head`.
    pub(super) fn after(head: Head) -> Self {
        Self {
            after: head,
            born: 0,
            snapshot: false,
            after_break: false,
            records: Vec::new(),
        }
    }
}

impl<M: Medium> Journal<M> {
    /// Begins a segment and writes to it from now on.
    pub(super) fn begin(&mut self, start: Start) -> Result<(), SegmentError> {
        // A number is never tried twice: nobody knows what a failed attempt left.
        let number = self.next_number;
        self.next_number += 1;
        let (new, name) = (Name::unfinished(number), Name::segment(number));
        let header = Header {
            id: self.id,
            number,
            first: start.after.position + 1,
            born: u32::try_from(start.born).unwrap_or(u32::MAX),
            snapshot: start.snapshot,
            after_break: start.after_break,
            previous: start.after.hash,
        };
        let mut bytes = header.encode();
        bytes.extend_from_slice(&start.records);
        if let Err(error) = self.write_new(&new, &bytes) {
            // Gives its space back; what remains is removed by the next opening.
            let _ = self.medium.remove(&new);
            return Err(error);
        }
        if let Err(source) = self.medium.rename(&new, &name) {
            // Whether it has its name is not known: see below.
            self.in_doubt = true;
            let _ = self.medium.remove(&new);
            let (from, to) = (new, name);
            return Err(SegmentError::Rename { from, to, source });
        }
        if let Err(source) = self.medium.sync_names() {
            // After a power cut it may be there, and would supersede what was
            // appended to the present one.
            self.in_doubt = true;
            return Err(SegmentError::SyncNames { name, source });
        }
        self.current = number;
        self.in_doubt = false;
        Ok(())
    }

    fn write_new(&mut self, name: &str, bytes: &[u8]) -> Result<(), SegmentError> {
        let name = || name.to_owned();
        self.medium
            .create(&name())
            .map_err(|source| SegmentError::Make {
                name: name(),
                source,
            })?;
        self.medium
            .append(&name(), bytes)
            .map_err(|source| SegmentError::Write {
                name: name(),
                source,
            })?;
        self.medium
            .sync(&name())
            .map_err(|source| SegmentError::Sync {
                name: name(),
                source,
            })
    }
}
