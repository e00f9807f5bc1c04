//! A guest's ports are handed on before it starts and until it is gone; then its
//! connections are forgotten. A guest that has an address of its own is reached there.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use surplus_protocol::lease::{GuestPort, Transport};

use super::super::super::forwards::{ForwardError, Forwards};
use super::*;

/// A packet filter in memory.
#[derive(Debug, Default)]
struct Filter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was set, in order.
    maps: Vec<PortMap>,
    /// What was forgotten, and which ports led where then.
    forgotten: Vec<(Seat, Option<PortMap>)>,
    refuses: bool,
    own: BTreeMap<Seat, Vec<IpAddr>>,
    remembers: bool,
}

impl Forwards for Filter {
    fn set<'a>(&'a self, map: &'a PortMap) -> BoxFuture<'a, Result<(), ForwardError>> {
        let mut state = self.state.lock().unwrap();
        let result = if state.refuses {
            Err(refusal())
        } else {
            state.maps.push(map.clone());
            Ok(())
        };
        Box::pin(async { result })
    }

    fn forget(&self, seat: Seat) -> BoxFuture<'_, Result<(), ForwardError>> {
        let mut state = self.state.lock().unwrap();
        let result = if state.remembers {
            Err(refusal())
        } else {
            let map = state.maps.last().cloned();
            state.forgotten.push((seat, map));
            Ok(())
        };
        Box::pin(async { result })
    }

    fn address(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(192, 0, 2, 15))
    }

    fn own_addresses(&self) -> BTreeMap<Seat, Vec<IpAddr>> {
        self.state.lock().unwrap().own.clone()
    }
}

fn refusal() -> ForwardError {
    ForwardError::Refused {
        program: "nft".into(),
        said: "no such map".into(),
    }
}

impl Filter {
    fn maps(&self) -> Vec<PortMap> {
        self.state.lock().unwrap().maps.clone()
    }

    /// These seats have an address, which ends in the seat's number.
    fn give_addresses(&self, seats: &[u8]) {
        let own = seats.iter().map(|number| {
            let address = Ipv4Addr::new(203, 0, 113, *number);
            let seat = Seat::try_from(u16::from(*number)).unwrap();
            (seat, vec![address.into()])
        });
        self.state.lock().unwrap().own = own.collect();
    }

    fn refuse(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }

    fn forgotten(&self) -> Vec<(Seat, Option<PortMap>)> {
        self.state.lock().unwrap().forgotten.clone()
    }

    fn remember(&self, remembers: bool) {
        self.state.lock().unwrap().remembers = remembers;
    }
}

fn rig() -> (Rig, Arc<Filter>) {
    let mut rig = Rig::new();
    let filter = Arc::new(Filter::default());
    rig.config.forwards = Arc::clone(&filter) as Arc<dyn Forwards>;
    rig.restart();
    (rig, filter)
}

/// With SSH, and a name server.
fn open(lease: u128) -> Ticket {
    let mut ticket = ticket(lease, 1);
    let port = |transport, port| GuestPort { transport, port };
    ticket.guest.ports = vec![port(Transport::Tcp, 22), port(Transport::Udp, 53)];
    ticket
}

fn first_guests() -> PortMap {
    let guest = Ipv4Addr::new(10, 121, 1, 1);
    [
        ((Transport::Tcp, 16_384), (guest, 22)),
        ((Transport::Udp, 16_385), (guest, 53)),
    ]
    .into()
}

#[tokio::test]
async fn ports_are_handed_on_while_the_guest_is_here_and_said_while_it_runs() {
    let (mut rig, filter) = rig();
    rig.desire(&[open(1)]);
    rig.settle().await;
    assert_eq!(filter.maps(), [PortMap::new(), first_guests()]);
    let told = rig.report().leases.remove(0).forwards;
    let told: Vec<_> = told
        .iter()
        .map(|it| (it.guest.port, it.address, it.host_port))
        .collect();
    let host = Ipv4Addr::new(192, 0, 2, 15);
    assert_eq!(told, [(22, host, 16_384), (53, host, 16_385)]);
    // What is right is not said again; a new agent cannot know.
    rig.pass(20).await;
    assert_eq!(filter.maps().len(), 2);
    rig.restart();
    rig.settle().await;
    assert_eq!(filter.maps()[2..], [first_guests()]);
    rig.bury(&open(1));
    rig.settle().await;
    rig.pass(11).await;
    rig.assert_clean();
    assert_eq!(filter.maps()[3..], [PortMap::new()]);
}

#[tokio::test]
async fn where_the_filter_refuses_that_is_said_and_tried_again_and_no_port_is_announced() {
    let (mut rig, filter) = rig();
    filter.refuse(true);
    rig.desire(&[open(1)]);
    rig.settle().await;
    let report = rig.report();
    assert_eq!(report.leases[0].phase, GuestPhase::Running);
    assert!(report.leases[0].forwards.is_empty());
    assert!(
        report
            .problems
            .iter()
            .any(|it| it.contains("ports are not forwarded")),
        "{:?}",
        report.problems
    );
    filter.refuse(false);
    rig.pass(10).await;
    assert_eq!(filter.maps(), [first_guests()]);
    assert!(rig.report().problems.is_empty());
    assert_eq!(rig.report().leases[0].forwards.len(), 2);
}

#[tokio::test]
async fn once_no_port_leads_to_a_guest_that_has_gone_its_connections_are_forgotten() {
    let (mut rig, filter) = rig();
    rig.desire(&[open(1), open(2)]);
    rig.settle().await;
    assert!(filter.forgotten().is_empty());
    let both = filter.maps().pop().unwrap();
    rig.desire(&[open(2)]);
    rig.bury(&open(1));
    rig.settle().await;
    rig.pass(11).await;
    let [(seat, Some(map))] = &filter.forgotten()[..] else {
        panic!("{:?}", filter.forgotten());
    };
    assert_eq!(seat.number(), 1);
    let others = both.iter().filter(|(_, (to, _))| *to != seat.ipv4());
    assert_eq!(*map, others.map(|(key, to)| (*key, *to)).collect());
}

#[tokio::test]
async fn until_its_connections_are_forgotten_a_seat_is_kept_and_no_receipt_is_written() {
    let (mut rig, filter) = rig();
    filter.remember(true);
    rig.desire(&[open(1)]);
    rig.settle().await;
    rig.bury(&open(1));
    rig.settle().await;
    rig.pass(11).await;
    assert!(rig.domains().is_empty());
    let report = rig.report();
    assert!(report.receipts.is_empty());
    let told = report
        .problems
        .iter()
        .any(|it| it.contains("could not finish"));
    assert!(told, "{:?}", report.problems);

    // Its successor tries as well.
    rig.restart();
    rig.bury(&open(1));
    rig.pass(1).await;
    assert!(rig.report().receipts.is_empty());
    filter.remember(false);
    rig.pass(1).await;
    rig.assert_clean();
    assert_eq!(rig.report().receipts.len(), 1);
    assert_eq!(filter.forgotten().len(), 1);
}

/// With an address of its own.
fn addressed(lease: u128) -> Ticket {
    let mut ticket = ticket(lease, 1);
    ticket.guest.resources.addresses = 1;
    ticket
}

/// A host whose first two seats may have one.
fn rig_with_addresses() -> (Rig, Arc<Filter>) {
    let (mut rig, filter) = rig();
    rig.config.own_addresses = 2;
    rig.restart();
    (rig, filter)
}

fn told(rig: &Rig) -> Vec<(String, Vec<String>)> {
    let leases = rig.report().leases.into_iter();
    leases.map(|it| (it.detail, it.addresses)).collect()
}

#[tokio::test]
async fn a_guest_with_an_own_address_takes_a_seat_that_has_one_and_others_leave_it_free() {
    let (mut rig, filter) = rig_with_addresses();
    filter.give_addresses(&[2]);
    rig.desire(&[ticket(1, 1), addressed(2)]);
    rig.settle().await;
    let runs = "the guest runs".to_owned();
    let behind = (runs.clone(), vec!["10.121.1.3".to_owned()]);
    let own = |number: u8| (runs.clone(), vec![format!("203.0.113.{number}")]);
    assert_eq!(told(&rig), [behind.clone(), own(2)]);
    // The site's network may give another; and it may take one away.
    filter.give_addresses(&[1]);
    let lost = "the guest runs; its own address is not there, and is asked for";
    assert_eq!(told(&rig), [behind.clone(), (lost.to_owned(), Vec::new())]);
    // A new agent finds everybody where he was.
    rig.restart();
    rig.desire(&[ticket(1, 1), addressed(2), addressed(3)]);
    rig.settle().await;
    filter.give_addresses(&[1, 2]);
    assert_eq!(told(&rig), [behind, own(2), own(1)]);
}

#[tokio::test]
async fn a_guest_waits_for_an_own_address_as_long_as_its_ticket_does() {
    let (mut rig, filter) = rig_with_addresses();
    rig.desire(&[addressed(1)]);
    rig.settle().await;
    let report = rig.report();
    assert!(report.leases.is_empty(), "{report:?}");
    let said = report.problems.join("; ");
    assert!(
        said.contains("no address that a guest could have"),
        "{said}"
    );
    filter.give_addresses(&[1]);
    rig.pass(10).await;
    assert_eq!(rig.report().leases[0].addresses, ["203.0.113.1"]);
}
