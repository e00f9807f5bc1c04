//! Each guest has a seat of its own, and keeps it whatever happens to the agent.

use super::super::super::domain_xml::seat_of;
use super::*;

impl Rig {
    /// Lease and seat of each domain, by name.
    fn seats(&self) -> Vec<u16> {
        let state = self.hypervisor.state();
        let domains = state.domains.values();
        domains
            .map(|domain| seat_of(&domain.xml).unwrap().number())
            .collect()
    }
}

fn small(lease: u128) -> Ticket {
    ticket(lease, 1)
}

#[tokio::test]
async fn guests_sit_apart_and_the_address_is_the_seats() {
    let mut rig = Rig::new();
    rig.desire(&[small(1), small(2)]);
    rig.settle().await;
    assert_eq!(rig.seats(), [1, 2]);
    let addresses: Vec<_> = rig
        .report()
        .leases
        .into_iter()
        .map(|it| it.addresses)
        .collect();
    assert_eq!(addresses, [["10.121.1.1"], ["10.121.1.2"]]);
}

#[tokio::test]
async fn a_guest_keeps_its_seat_when_the_agent_dies_and_when_its_ledger_is_lost() {
    let mut rig = Rig::new();
    rig.desire(&[small(1), small(2)]);
    rig.settle().await;
    let first = rig.seats();
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.seats(), first);

    rig.lose_ledger();
    rig.restart();
    rig.settle().await;
    assert_eq!(rig.seats(), first);
    // Nobody else gets one of theirs.
    rig.desire(&[small(1), small(2), small(3)]);
    rig.settle().await;
    assert_eq!(rig.seats(), [1, 2, 3]);
}

#[tokio::test]
async fn a_seat_that_was_left_is_not_the_next_ones() {
    let mut rig = Rig::new();
    rig.desire(&[small(1)]);
    rig.settle().await;
    rig.bury(&small(1));
    rig.settle().await;
    rig.pass(11).await;
    rig.assert_clean();
    rig.desire(&[small(2)]);
    rig.settle().await;
    assert_eq!(rig.seats(), [2]);
}
