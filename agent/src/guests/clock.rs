//! The two clocks that guests live by.
//!
//! The wall clock judges what the ticket says (`not_after`, `ends_at`); the
//! boot-time clock counts how long a guest ran, and never jumps.

use std::fmt;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Reads the clocks; tests give their own.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Timestamp;

    /// Milliseconds since the host booted, suspension included
    /// (`CLOCK_BOOTTIME`). Comparable across processes of one boot.
    fn boot_millis(&self) -> u64;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot_millis(&self) -> u64 {
        // The clock exists on every Linux that we run on; 0 counts nothing.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
            let millis = time.tv_sec().saturating_mul(1000) + time.tv_nsec() / 1_000_000;
            u64::try_from(millis).unwrap_or(0)
        })
    }
}

/// The machine's clocks, the wall clock as the marketplace's time has it.
impl Clock for crate::clock::MarketplaceTime {
    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn boot_millis(&self) -> u64 {
        SystemClock.boot_millis()
    }
}

#[cfg(test)]
pub mod fake {
    use std::sync::Mutex;

    use super::*;

    /// A clock that moves when it is told to.
    #[derive(Debug)]
    pub struct FakeClock(Mutex<(Timestamp, u64)>);

    impl FakeClock {
        /// Stands at this second since 1970, 100 s after the host booted.
        pub fn at(second: i64) -> Self {
            Self(Mutex::new((
                Timestamp::from_second(second).unwrap(),
                100_000,
            )))
        }

        pub fn advance(&self, millis: u64) {
            let mut clock = self.0.lock().unwrap();
            let by = jiff::SignedDuration::from_millis(millis.try_into().unwrap());
            clock.0 = clock.0.checked_add(by).unwrap();
            clock.1 += millis;
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> Timestamp {
            self.0.lock().unwrap().0
        }

        fn boot_millis(&self) -> u64 {
            self.0.lock().unwrap().1
        }
    }
}
