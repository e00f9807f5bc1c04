//! Reading pieces of a file, each field checked against the end.

use std::io::{self, Read, Seek, SeekFrom};

use surplus_protocol::lease::ImageFormat;

use super::{Fault, Unfit};

/// A stretch of a file that is judged as if it were the whole.
pub(crate) struct Window<'a, F> {
    pub file: &'a mut F,
    offset: u64,
    pub bytes: u64,
}

impl<'a, F: Read + Seek> Window<'a, F> {
    pub(crate) fn whole(file: &'a mut F) -> io::Result<Self> {
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self::of(file, 0, bytes))
    }

    pub(crate) fn of(file: &'a mut F, offset: u64, bytes: u64) -> Self {
        Self {
            file,
            offset,
            bytes,
        }
    }

    /// The bytes from `at` on, fewer where the window ends.
    pub(crate) fn read_up_to(&mut self, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let left = self.bytes.saturating_sub(at).min(bytes as u64);
        let mut found = Vec::new();
        if left > 0 {
            let start = self.offset.saturating_add(at);
            self.file.seek(SeekFrom::Start(start))?;
            self.file.by_ref().take(left).read_to_end(&mut found)?;
        }
        Ok(found)
    }

    /// The bytes from `at` on, all of them.
    pub(crate) fn part(
        &mut self,
        format: ImageFormat,
        what: &'static str,
        at: u64,
        bytes: usize,
    ) -> Result<Part, Fault> {
        let found = self.read_up_to(at, bytes)?;
        if found.len() < bytes {
            return Err(Unfit::CutOff { format, what }.into());
        }
        Ok(Part(found))
    }

    /// Refuses what does not lie within the window whole.
    pub(crate) fn must_hold(
        &self,
        format: ImageFormat,
        what: &'static str,
        at: u64,
        bytes: u64,
    ) -> Result<(), Unfit> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(Unfit::CutOff { format, what }),
        }
    }
}

/// A piece that was read whole. A field beyond its end reads as zero: whoever
/// reads it has asked for too short a piece.
pub(crate) struct Part(pub Vec<u8>);

impl Part {
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.0.get(at..at.saturating_add(N));
        found
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; N])
    }

    pub(crate) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub(crate) fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
