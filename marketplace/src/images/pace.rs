//! How slowly an upload may come: one that never ends holds a connection and a
//! file for ever.

use std::time::Duration;

use tokio::time::Instant;

/// Before the first bytes, and for pauses.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes a second, from the beginning on.
const SLOWEST: u64 = 64 << 10;

/// When more has to be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    begun: Instant,
}

impl Pace {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
        }
    }

    /// The latest time for what follows after so many bytes.
    pub(super) fn deadline(self, bytes: u64) -> Instant {
        self.begun + PATIENCE + Duration::from_secs(bytes / SLOWEST)
    }
}
