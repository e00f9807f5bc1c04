//! The marketplace's time, by which leases are judged.
//!
//! Each answer says when it was made. It arrived later than that, so the time
//! that it gives for the boot is never too late, and too early by as long as it
//! was under way: the latest of many is the best. Counted on the boot-time
//! clock, it does not jump with this host's wall clock.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::since_boot;

/// For how long an answer counts at least, in milliseconds: a marketplace whose
/// clock was set back is followed after twice that.
const SPAN_MILLIS: i64 = 600_000;

/// How far a wall clock may be off without being spoken of, in milliseconds:
/// timesyncd and the network's delay explain it.
const TOLERATED_MILLIS: i64 = 60_000;

/// A change of the estimate that is worth writing down, in milliseconds.
const NOTABLE_MILLIS: u64 = 100;

/// What the answers say of the marketplace's time: no clock, no I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// The latest of this span and of the one before, as the marketplace's
    /// time at this host's boot in milliseconds since 1970.
    now: Option<i64>,
    before: Option<i64>,
    /// When this span began, on the boot-time clock.
    began: Option<i64>,
}

impl Estimate {
    /// What an earlier process of this boot knew.
    pub fn kept(at_boot: i64) -> Self {
        Self {
            before: Some(at_boot),
            ..Self::default()
        }
    }

    /// An answer made at `said` arrived at `boot_millis`.
    pub fn learn(&mut self, said: Timestamp, boot_millis: i64) {
        let began = *self.began.get_or_insert(boot_millis);
        if boot_millis.saturating_sub(began) > SPAN_MILLIS {
            self.before = self.now.take();
            self.began = Some(boot_millis);
        }
        let at_boot = said.as_millisecond().saturating_sub(boot_millis);
        self.now = self.now.max(Some(at_boot));
    }

    /// The marketplace's time at this host's boot, in milliseconds since 1970.
    pub fn at_boot(&self) -> Option<i64> {
        self.now.max(self.before)
    }

    /// The marketplace's time at `boot_millis`, where any answer ever came.
    pub fn at(&self, boot_millis: i64) -> Option<Timestamp> {
        let millis = self.at_boot()?.saturating_add(boot_millis);
        Timestamp::from_millisecond(millis).ok()
    }
}

/// The estimate that this agent's parts share, kept for the next agent of this
/// boot.
#[derive(Clone, Debug)]
pub struct MarketplaceTime {
    estimate: Arc<Mutex<Estimate>>,
    path: PathBuf,
}

impl MarketplaceTime {
    /// Takes up what an earlier agent of this boot wrote to `path`.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let kept = std::fs::read_to_string(&path).ok();
        let kept = kept.and_then(|text| text.trim().parse().ok());
        Self {
            estimate: Arc::new(Mutex::new(kept.map(Estimate::kept).unwrap_or_default())),
            path,
        }
    }

    fn estimate(&self) -> MutexGuard<'_, Estimate> {
        self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that was made at `said` arrived just now.
    pub fn learn(&self, said: Timestamp) {
        let (before, after) = {
            let mut estimate = self.estimate();
            let before = estimate.at_boot();
            estimate.learn(said, boot_millis());
            (before, estimate.at_boot())
        };
        let notable = match (before, after) {
            (Some(before), Some(after)) => before.abs_diff(after) > NOTABLE_MILLIS,
            (before, after) => before != after,
        };
        if let Some(at_boot) = after.filter(|_| notable)
            && let Err(error) = std::fs::write(&self.path, at_boot.to_string())
        {
            tracing::warn!(%error, "the marketplace's time is not kept");
        }
    }

    /// The time to judge leases by: the marketplace's, or this host's own where
    /// no answer ever came.
    pub fn now(&self) -> Timestamp {
        let known = self.estimate().at(boot_millis());
        known.unwrap_or_else(Timestamp::now)
    }

    /// How far this host's clock is ahead, where it is off by more than a
    /// minute.
    pub fn ahead(&self) -> Option<SignedDuration> {
        let theirs = self.estimate().at(boot_millis())?;
        let ahead = Timestamp::now().duration_since(theirs);
        (ahead.abs() > SignedDuration::from_millis(TOLERATED_MILLIS)).then_some(ahead)
    }
}

fn boot_millis() -> i64 {
    i64::try_from(since_boot().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    #[test]
    fn the_answer_that_was_under_way_for_the_shortest_time_counts() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.at(5), None);
        // Sent at 1000, 1500 and 2000, and 300, 20 and 900 ms under way.
        estimate.learn(at(1000), 1300);
        assert_eq!(estimate.at(2000), Some(at(1700)));
        estimate.learn(at(1500), 1520);
        estimate.learn(at(2000), 2900);
        assert_eq!(estimate.at(3000), Some(at(2980)));
    }

    #[test]
    fn a_marketplace_whose_clock_was_set_back_is_followed_in_the_end() {
        let mut estimate = Estimate::default();
        estimate.learn(at(0), 0);
        let hour = 3_600_000;
        for minute in 1..=21 {
            let boot = minute * 60_000;
            estimate.learn(at(boot - hour), boot);
        }
        estimate.learn(at(1_320_000 - hour), 1_320_000);
        assert_eq!(estimate.at(1_320_000), Some(at(1_320_000 - hour)));
    }

    #[test]
    fn a_clock_that_is_off_is_not_what_leases_are_judged_by() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("time");
        let time = MarketplaceTime::open(&path);
        assert_eq!(time.ahead(), None);
        let hour = SignedDuration::from_hours(1);
        time.learn(Timestamp::now() - hour);
        // So the next agent of this boot judges too, before any answer.
        for time in [&time, &MarketplaceTime::open(&path)] {
            let off = Timestamp::now().duration_since(time.now());
            assert!((off - hour).abs().as_secs() < 10, "{off:?}");
        }
        // Half a minute is no news to a person, and counts all the same.
        let time = MarketplaceTime::open(directory.path().join("other"));
        time.learn(Timestamp::now() + SignedDuration::from_secs(30));
        assert_eq!(time.ahead(), None);
        assert!(time.now().duration_since(Timestamp::now()).as_secs() > 20);
    }
}
