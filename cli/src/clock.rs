//! The one place that reads the clock.

use std::time::Instant;

use jiff::Timestamp;

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) fn instant() -> Instant {
    Instant::now()
}
