//! The receipt says what became of the guest's disk, and no receipt is written
//! before that is true.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use camino::Utf8Path;
use surplus_protocol::lease::DiskEnd;

use super::super::super::keys::Keys;
use super::*;

/// Keys that stay as often as they are told to, because a file is open.
#[derive(Debug, Default)]
struct Sticky(AtomicU32);

impl Keys for Sticky {
    fn give(&self, _: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    fn destroy(&self, _: &Utf8Path) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left > 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(())
    }

    fn are_given(&self) -> bool {
        true
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[tokio::test]
async fn a_guest_in_memory_leaves_freed_memory() {
    let mut rig = Rig::new();
    rig.hypervisor.state().obedient = true;
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    rig.bury(&ticket(1, 1));
    rig.settle().await;
    assert_eq!(rig.receipt().disk, Some(DiskEnd::MemoryFreed));
}

#[tokio::test]
async fn a_guest_that_never_had_a_disk_leaves_none() {
    let mut rig = Rig::new();
    rig.bury(&ticket(1, 1));
    rig.settle().await;
    assert_eq!(rig.receipt().disk, None);
}

#[tokio::test]
async fn the_receipt_waits_for_the_end_of_the_key() {
    let mut rig = Rig::new();
    let keys = Arc::new(Sticky::default());
    rig.config.keys = keys.clone();
    rig.restart();
    rig.hypervisor.state().obedient = true;
    rig.desire(&[ticket(1, 1)]);
    rig.settle().await;
    keys.0.store(30, Ordering::Relaxed);
    rig.bury(&ticket(1, 1));
    rig.settle().await;
    assert_eq!(rig.report().receipts, []);
    assert!(
        rig.report()
            .problems
            .iter()
            .any(|it| it.contains("destroy the key of")),
        "{:?}",
        rig.report().problems
    );
    rig.pass(1).await;
    let receipt = rig.receipt();
    assert_eq!(receipt.disk, Some(DiskEnd::KeyDestroyed { at: at(1201) }));
    assert_eq!(receipt.ended_at, at(1201));
    rig.assert_clean();
}

#[tokio::test]
async fn an_agent_that_dies_between_the_keys_end_and_the_receipt_says_it_all_the_same() {
    let mut rig = Rig::new();
    rig.config.keys = Arc::new(Sticky::default());
    rig.restart();
    rig.hypervisor.state().obedient = true;
    let ticket = ticket(1, 1);
    rig.desire(std::slice::from_ref(&ticket));
    rig.settle().await;
    // What an earlier agent had cleared away.
    rig.engine.workshop.remove(Placement::of(&ticket)).unwrap();
    rig.bury(&ticket);
    rig.settle().await;
    let end = rig.receipt().disk;
    assert!(matches!(end, Some(DiskEnd::KeyDestroyed { .. })), "{end:?}");
}
