//! Simulated time, and the clocks that hosts read it by.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use surplus_agent::clock::Estimate;
use surplus_agent::guests::clock::Clock;

/// True time, in milliseconds since the simulation's start.
pub type Millis = u64;

/// The start of every simulation: 2026-01-01, in seconds since 1970.
const START: i64 = 1_767_225_600;

/// True time as the marketplace's clock shows it.
pub fn timestamp(at: Millis) -> Timestamp {
    Timestamp::from_second(START)
        .and_then(|start| start.checked_add(SignedDuration::from_millis(signed(at))))
        .unwrap_or(Timestamp::MAX)
}

/// The true time that a timestamp stands for.
pub fn millis(timestamp: Timestamp) -> Millis {
    let since = timestamp.as_millisecond().saturating_sub(START * 1000);
    u64::try_from(since).unwrap_or(0)
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// The one true time; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Now(Arc<AtomicU64>);

impl Now {
    pub fn get(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, to: Millis) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub fn timestamp(&self) -> Timestamp {
        timestamp(self.get())
    }
}

/// The clocks of one boot of a host.
#[derive(Debug)]
pub struct HostClock {
    now: Now,
    booted_at: Millis,
    /// How far the wall clock is ahead of true time, in milliseconds.
    ahead: AtomicI64,
    estimate: Mutex<Estimate>,
}

impl HostClock {
    pub fn booted(now: &Now, ahead: i64) -> Self {
        Self {
            booted_at: now.get(),
            now: now.clone(),
            ahead: AtomicI64::new(ahead),
            estimate: Mutex::default(),
        }
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// The marketplace's answer says what time it is there.
    pub fn learn(&self, said: Timestamp) {
        let boot = signed(self.boot_millis());
        self.estimate().learn(said, boot);
    }

    fn estimate(&self) -> std::sync::MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True time on which this host's best clock shows `timestamp`.
    pub fn when(&self, timestamp: Timestamp) -> Millis {
        let wait = timestamp.duration_since(Clock::now(self)).as_millis();
        let wait = i64::try_from(wait).unwrap_or(i64::MAX);
        self.now.get().saturating_add_signed(wait)
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let known = self.estimate().at(signed(self.boot_millis()));
        known.unwrap_or_else(|| {
            let ahead = SignedDuration::from_millis(self.ahead.load(Ordering::Relaxed));
            let wall = self.now.timestamp().checked_add(ahead);
            wall.unwrap_or(Timestamp::MAX)
        })
    }

    fn boot_millis(&self) -> u64 {
        self.now.get() - self.booted_at
    }
}
