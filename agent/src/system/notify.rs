//! Word to systemd: ready, alive, what is going on (sd_notify(3)).
//!
//! Without systemd (in tests, by hand) nothing is sent and nothing fails.

use std::time::Duration;

use sd_notify::NotifyState;

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

/// Says that the runtime turns, at half the interval that systemd asks for.
/// Never ends; does nothing where no watchdog is set.
pub async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval((interval / 2).max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
