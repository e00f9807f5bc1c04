//! A host that is told to power off while guests run.
//!
//! What always holds: while a lease or an unacknowledged receipt is here, a
//! shutdown is delayed (as long as logind grants); once it is ordered, every
//! guest is asked to stop, so that its buyer's data is flushed and the receipt
//! reaches the marketplace before the power goes.

use std::sync::Arc;
use std::time::Duration;

use surplus_protocol::agent::Tombstone;
use surplus_protocol::lease::EndReason;
use surplus_stage::Stage;
use tokio::sync::watch;

use crate::guests::{Desired, Guests, GuestsReport};
use crate::hub::in_one_line;
use crate::stages::Announcer;
use crate::system::bus::Bus;
use crate::system::inhibit::{ShutdownDelay, shutdown_ordered};

/// Between tries to listen to a logind that is not there.
const AGAIN: Duration = Duration::from_secs(60);

/// Between orders to stop: a sync's order may come between.
const REPEAT: Duration = Duration::from_secs(1);

/// Holds logind's lock while anything would be lost by a power-off.
pub(super) async fn delay(bus: Arc<Bus>, mut report: watch::Receiver<GuestsReport>) {
    let mut delay = ShutdownDelay::default();
    loop {
        let open = {
            let report = report.borrow_and_update();
            report.leases.len() + report.receipts.len()
        };
        delay.hold(&bus, open).await;
        if report.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the guests once a shutdown was ordered.
pub(super) async fn end_guests(bus: Arc<Bus>, guests: Guests, consoles: Announcer) {
    while let Err(error) = shutdown_ordered(&bus).await {
        tracing::debug!(error = in_one_line(&error), "cannot hear of shutdowns");
        tokio::time::sleep(AGAIN).await;
    }
    let report = guests.report();
    consoles.say(Stage::new("shutdown").with("guests", report.borrow().leases.len()));
    loop {
        let tombstones = reclaim(&report.borrow());
        if tombstones.is_empty() {
            return;
        }
        guests.set_desired(Desired {
            tickets: Vec::new(),
            tombstones,
            ..Desired::default()
        });
        tokio::time::sleep(REPEAT).await;
    }
}

fn reclaim(report: &GuestsReport) -> Vec<Tombstone> {
    let leases = report.leases.iter();
    leases
        .map(|status| Tombstone {
            lease: status.lease,
            epoch: status.epoch,
            reason: EndReason::Reclaimed,
        })
        .collect()
}
