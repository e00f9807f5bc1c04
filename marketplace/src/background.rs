//! What happens by itself: the sweep, and writing down who was seen.

use std::time::Duration;

use surplus_market::replacement::Placed;
use surplus_market::store::{Store as _, StoreError, Tx as _};
use surplus_market::sweep::{Swept, sweep};
use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::images::tidy;
use crate::refusal::chain;

/// How often the sweep runs.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How often it is written down who was seen.
const WRITE_SEEN_EVERY: Duration = Duration::from_secs(30);

/// How often images that nothing needs are removed.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// How often it is looked whether a certificate of our own wants renewal.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// Runs until the process closes; then writes down what is known.
pub(crate) async fn run(app: App) {
    let mut sweeps = interval(SWEEP_EVERY);
    let mut writes = interval(WRITE_SEEN_EVERY);
    let mut renewals = interval(RENEW_EVERY);
    let mut tidying = interval(TIDY_EVERY);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    writes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alarm = false;
    loop {
        // Cancel safe: ticks and cancellation lose nothing.
        tokio::select! {
            () = app.closing.cancelled() => break,
            _ = sweeps.tick() => match once(&app).await {
                Ok(swept) => {
                    if swept.alarm && !alarm {
                        tracing::error!(
                            "more than 30 % of the hosts are silent at once: no lease is fenced or placed anew"
                        );
                    }
                    alarm = swept.alarm;
                }
                Err(error) => tracing::error!(error = chain(&error), "sweep failed"),
            },
            _ = tidying.tick() => {
                // What is wrong was logged where it was found.
                let _tidied = tidy(&app).await;
            }
            _ = writes.tick() => write_seen(&app).await,
            _ = renewals.tick() => {
                if let Err(error) = app.certificates.renew(&app.authority, app.now()) {
                    tracing::error!(error = chain(&error), "cannot renew our own certificates");
                }
            }
        }
    }
    write_seen(&app).await;
}

/// One sweep. Where nothing is due, nothing is written.
async fn once(app: &App) -> Result<Swept, StoreError> {
    let presence = app.presence_now();
    let mut tx = app.store.begin().await?;
    let swept = sweep(&mut tx, &presence, app.now(), &app.prices).await?;
    if swept.changed > 0 {
        tx.commit().await?;
        for host in &swept.wake {
            app.hosts.wake(host);
        }
        tell_of_lost(app, &swept);
    }
    app.metrics.alarm.set(i64::from(swept.alarm));
    app.metrics.recount(app).await?;
    Ok(swept)
}

/// What became of leases that were lost with their host.
fn tell_of_lost(app: &App, swept: &Swept) {
    for placed in &swept.placed {
        let Placed {
            lease,
            epoch,
            from,
            to,
        } = placed;
        app.metrics.placed_anew.inc();
        app.console_readers.wake(lease);
        tracing::warn!(%lease, epoch, %from, %to, "a lease was lost with its host and placed anew");
    }
    for lease in &swept.given_up {
        app.console_readers.wake(lease);
        tracing::warn!(%lease, "a lease was lost with its host and ended: no other took it in time");
    }
}

async fn write_seen(app: &App) {
    let seen = app.presence().take_unwritten();
    if seen.is_empty() {
        return;
    }
    let write = async {
        let mut tx = app.store.begin().await?;
        tx.touch_hosts(&seen).await?;
        tx.commit().await
    };
    let written: Result<(), StoreError> = write.await;
    if let Err(error) = written {
        // It is in memory still, and written with the next change.
        tracing::error!(
            error = chain(&error),
            "cannot write down which hosts were seen"
        );
    }
}
