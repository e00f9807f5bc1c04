//! Word to systemd: ready, alive, what is going on (sd_notify(3)).
//!
//! Without systemd (in tests, by hand) nothing is sent and nothing fails.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// The daemon does its work; said once, early: enrolment may wait for ever.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// One line that `systemctl status` would show.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// For how long the loop that cares for guests may be silent: longer than
/// libvirt is waited for in any one call.
const SILENCE: Duration = Duration::from_secs(150);

/// A loop's sign of life, given at every step of its work; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    pub fn beat(&self) {
        *self.last() = Some(Instant::now());
    }

    /// Whether the loop goes on, or has not begun.
    fn goes_on(&self) -> bool {
        self.last().is_none_or(|last| last.elapsed() < SILENCE)
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the work goes on, at half the interval that systemd asks for, and
/// says no more once the pulse is gone: systemd kills and restarts the agent
/// then. Never ends; does nothing where no watchdog is set.
pub async fn watchdog(pulse: Pulse) {
    match sd_notify::watchdog_enabled() {
        Some(interval) => feed(interval, &pulse, || send(&[NotifyState::Watchdog])).await,
        None => std::future::pending().await,
    }
}

async fn feed(interval: Duration, pulse: &Pulse, tell: impl Fn()) {
    let mut ticks = tokio::time::interval((interval / 2).max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        if pulse.goes_on() {
            tell();
        } else {
            tracing::error!("guests are not cared for any more; systemd will restart the agent");
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn systemd_hears_nothing_more_of_an_agent_whose_loop_hangs() {
        let (pulse, told) = (Pulse::default(), AtomicUsize::new(0));
        let fed = |during: Duration| {
            let pulse = &pulse;
            let told = &told;
            async move {
                let before = told.load(Ordering::Relaxed);
                let feeding = feed(Duration::from_secs(60), pulse, || {
                    told.fetch_add(1, Ordering::Relaxed);
                });
                let _ = tokio::time::timeout(during, feeding).await;
                told.load(Ordering::Relaxed) - before
            }
        };
        // While it enrols there is no such loop yet.
        assert_eq!(fed(Duration::from_secs(3590)).await, 120);
        pulse.beat();
        assert_eq!(fed(Duration::from_secs(140)).await, 5);
        pulse.beat();
        assert_eq!(fed(Duration::from_secs(140)).await, 5);
        // It hangs.
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(fed(Duration::from_secs(3600)).await, 0);
        pulse.beat();
        assert_eq!(fed(Duration::from_secs(50)).await, 2);
    }
}
