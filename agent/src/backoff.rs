//! Waiting between tries: growing, jittered, for ever.
//!
//! What always holds: a wait is never longer than the schedule's longest plus
//! jitter of as much again, and thousands of hosts that lost the same
//! marketplace do not come back in step.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// A schedule of waits, started over after a success.
#[derive(Debug)]
pub struct Backoff {
    schedule: ExponentialBuilder,
    waits: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        let schedule = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Self {
            schedule,
            waits: schedule.build(),
            longest,
        }
    }

    /// For tests: the same growth in milliseconds.
    #[cfg(test)]
    pub(crate) fn of_a_test() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(20))
    }

    /// For what a moment may cure: a network that is coming up, a server that
    /// is being restarted.
    pub fn quick() -> Self {
        Self::new(Duration::from_millis(400), Duration::from_secs(30))
    }

    /// For what a person has to cure: a spent token, a rejected host.
    pub fn slow() -> Self {
        Self::new(Duration::from_secs(15), Duration::from_secs(150))
    }

    /// How long to wait before the next try.
    pub fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest)
    }

    /// A try succeeded: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.waits = self.schedule.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_never_end() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        let waits: Vec<_> = (0..200).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= Duration::from_secs(1) && waits[0] <= Duration::from_secs(2));
        for wait in &waits[10..] {
            assert!(
                *wait >= Duration::from_secs(8) && *wait <= Duration::from_secs(16),
                "{wait:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_secs(2));
    }

    #[test]
    fn two_hosts_do_not_wait_in_step() {
        let waits = || {
            let mut backoff = Backoff::quick();
            (0..8).map(|_| backoff.wait()).collect::<Vec<_>>()
        };
        assert_ne!(waits(), waits());
    }
}
