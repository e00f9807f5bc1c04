use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable as _, Decoder};
use proptest::prelude::*;

use super::*;
use crate::net::dhcp::CLASS;
use crate::net::dhcp::v4::V4;
use crate::net::dhcp::v4::tests::{MAC, bytes, reply};

const XID: u32 = 0x1234_5678;

const WORDS: V4 = V4 { mac: MAC, xid: XID };

fn client(now: Instant) -> Client<V4> {
    Client::new(WORDS, false, now)
}

fn kind(packet: &[u8]) -> MessageType {
    let message = Message::decode(&mut Decoder::new(packet)).unwrap();
    message.opts().msg_type().unwrap()
}

/// What is sent at the client's own next time.
fn next_sent(client: &mut Client<V4>) -> (Instant, MessageType) {
    let due = client.due();
    let (packets, _) = client.act(due);
    let packet = packets.first();
    (due, kind(packet.expect("nothing was sent when it was due")))
}

fn bound(now: Instant) -> Client<V4> {
    let mut client = client(now);
    let _ = client.act(now);
    let offer = reply(MessageType::Offer, [10, 77, 0, 9], XID);
    assert!(client.receive(&bytes(&offer), now).is_empty());
    assert_eq!(next_sent(&mut client).1, MessageType::Request);
    let ack = reply(MessageType::Ack, [10, 77, 0, 9], XID);
    let news = client.receive(&bytes(&ack), now);
    assert!(matches!(&news[..], [News::Leased(lease)] if lease.address.octets() == [10, 77, 0, 9]));
    client
}

#[test]
fn asking_never_ends_and_slows_down() {
    let start = Instant::now();
    let mut client = client(start);
    let mut last = start;
    let mut pauses = Vec::new();
    for _ in 0..40 {
        let (at, kind) = next_sent(&mut client);
        assert_eq!(kind, MessageType::Discover);
        pauses.push(at - last);
        last = at;
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1] < Duration::from_millis(1200));
    let slow = Duration::from_secs(7)..Duration::from_secs(10);
    assert!(pauses[10..].iter().all(|pause| slow.contains(pause)));
}

#[test]
fn the_first_good_offer_is_taken_and_later_ones_are_not() {
    let now = Instant::now();
    let mut client = client(now);
    let _ = client.act(now);
    let useless = reply(MessageType::Offer, [169, 254, 3, 3], XID);
    client.receive(&bytes(&useless), now);
    let mut first = reply(MessageType::Offer, [10, 77, 0, 9], XID);
    first
        .opts_mut()
        .insert(DhcpOption::ServerIdentifier([10, 77, 0, 5].into()));
    client.receive(&bytes(&first), now);
    let second = reply(MessageType::Offer, [10, 77, 0, 10], XID);
    client.receive(&bytes(&second), now);
    let (packets, _) = client.act(now);
    let message = Message::decode(&mut Decoder::new(&packets[0])).unwrap();
    assert_eq!(
        message.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress([10, 77, 0, 9].into()))
    );
    // An ack of the other server is not for what was asked.
    let ack = reply(MessageType::Ack, [10, 77, 0, 10], XID);
    assert!(client.receive(&bytes(&ack), now).is_empty());
}

#[test]
fn a_server_that_says_no_or_nothing_is_left_for_a_new_start() {
    let now = Instant::now();
    for silent in [false, true] {
        let mut client = client(now);
        let _ = client.act(now);
        let offer = reply(MessageType::Offer, [10, 77, 0, 9], XID);
        client.receive(&bytes(&offer), now);
        assert_eq!(next_sent(&mut client).1, MessageType::Request);
        if silent {
            assert_eq!(next_sent(&mut client).1, MessageType::Request);
            assert_eq!(next_sent(&mut client).1, MessageType::Request);
        } else {
            let nak = reply(MessageType::Nak, [0, 0, 0, 0], XID);
            client.receive(&bytes(&nak), now);
        }
        assert_eq!(next_sent(&mut client).1, MessageType::Discover);
    }
}

fn from(server: u8, kind: MessageType) -> Vec<u8> {
    let mut message = reply(kind, [10, 77, server, 9], XID);
    let server = DhcpOption::ServerIdentifier([10, 77, server, 1].into());
    message.opts_mut().insert(server);
    bytes(&message)
}

/// Whom the client asks for a lease at its next time.
fn asked_next(client: &mut Client<V4>) -> Option<[u8; 4]> {
    let (packets, _) = client.act(client.due());
    let message = Message::decode(&mut Decoder::new(&packets[0])).unwrap();
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(server.octets()),
        _ => None,
    }
}

#[test]
fn a_no_of_another_server_is_not_heard() {
    let now = Instant::now();
    let mut asking = client(now);
    let _ = asking.act(now);
    asking.receive(&from(5, MessageType::Offer), now);
    asking.receive(&from(6, MessageType::Nak), now);
    assert_eq!(asked_next(&mut asking), Some([10, 77, 5, 1]));

    let mut bound = bound(now);
    assert!(bound.receive(&from(6, MessageType::Nak), now).is_empty());
    let own = bytes(&reply(MessageType::Nak, [0, 0, 0, 0], XID));
    assert_eq!(bound.receive(&own, now), [News::Lost]);
}

#[test]
fn a_server_that_offers_and_never_grants_is_passed_over() {
    let now = Instant::now();
    let mut client = client(now);
    let _ = client.act(now);
    client.receive(&from(5, MessageType::Offer), now);
    for _ in 0..REQUESTS {
        assert_eq!(asked_next(&mut client), Some([10, 77, 5, 1]));
    }
    assert_eq!(asked_next(&mut client), None);
    client.receive(&from(5, MessageType::Offer), now);
    client.receive(&from(6, MessageType::Offer), now);
    assert_eq!(asked_next(&mut client), Some([10, 77, 6, 1]));
}

#[test]
fn a_server_that_failed_is_asked_again_where_no_other_offers() {
    let now = Instant::now();
    let mut client = client(now);
    let _ = client.act(now);
    for server in [5, 6] {
        client.receive(&from(server, MessageType::Offer), now);
        client.receive(&from(server, MessageType::Nak), now);
        assert_eq!(asked_next(&mut client), None);
    }
    // Both failed; the one whose failure is longer ago comes first.
    client.receive(&from(6, MessageType::Offer), now);
    client.receive(&from(5, MessageType::Offer), now);
    assert_eq!(asked_next(&mut client), Some([10, 77, 5, 1]));
}

#[test]
fn a_lease_that_led_nowhere_gives_way_to_another_servers_alone() {
    let now = Instant::now();
    let mut client = bound(now);
    client.receive(&from(5, MessageType::Offer), now);
    client.led_nowhere(now);
    assert_eq!(client.due(), now);
    assert_eq!(next_sent(&mut client).1, MessageType::Discover);
    // Of the same server: kept as it is.
    let same = bytes(&reply(MessageType::Offer, [10, 77, 0, 9], XID));
    client.receive(&same, now);
    assert_eq!(client.due(), now + Duration::from_secs(300));
    client.receive(&from(5, MessageType::Offer), now);
    assert_eq!(asked_next(&mut client), Some([10, 77, 5, 1]));
    let news = client.receive(&from(5, MessageType::Ack), now);
    assert!(matches!(&news[..], [News::Leased(lease)] if lease.server.octets() == [10, 77, 5, 1]));
    // Long after the question nobody's offer changes a good lease.
    client.led_nowhere(now);
    let _ = client.act(now);
    client.receive(&same, now + ELSEWHERE);
    assert!(matches!(client.state, State::Bound { .. }));
}

#[test]
fn a_lease_that_cannot_be_set_is_given_up_and_asked_for_anew() {
    let now = Instant::now();
    let mut client = bound(now);
    client.unusable(now);
    assert_eq!(
        next_sent(&mut client),
        (now + UNUSABLE, MessageType::Discover)
    );
}

#[test]
fn where_the_known_addresses_of_the_root_failed_others_are_asked_for() {
    let now = Instant::now();
    let mut client = bound(now);
    assert_eq!(client.due(), now + Duration::from_secs(300));
    client.asks_for_root(now);
    assert_eq!(next_sent(&mut client), (now, MessageType::Discover));
    client.knows_root();
    assert_eq!(client.due(), now + Duration::from_secs(300));
}

#[test]
fn a_lease_is_renewed_at_half_time_and_given_up_at_its_end() {
    let now = Instant::now();
    let mut client = bound(now);
    let (at, kind) = next_sent(&mut client);
    assert_eq!(
        (at - now, kind),
        (Duration::from_secs(300), MessageType::Request)
    );
    let ack = reply(MessageType::Ack, [10, 77, 0, 9], XID);
    assert_eq!(client.receive(&bytes(&ack), at).len(), 1);
    let end = at + Duration::from_secs(600);
    let mut sent = 0;
    loop {
        let due = client.due();
        assert!(due <= end, "the lease was used beyond its end");
        let (_, news) = client.act(due);
        sent += 1;
        if news == Some(News::Lost) {
            assert_eq!(due, end);
            break;
        }
    }
    assert!(sent > 3, "only {sent} tries to keep the lease");
}

#[test]
fn without_the_roots_address_asking_goes_on_and_ends_with_it() {
    let now = Instant::now();
    let mut client = Client {
        wants_root: true,
        ..bound(now)
    };
    let (first, kind) = next_sent(&mut client);
    assert_eq!(kind, MessageType::Discover);
    assert!(first - now <= Duration::from_secs(1));
    let mut proxy = reply(MessageType::Offer, [0, 0, 0, 0], XID);
    for option in [
        DhcpOption::ClassIdentifier(CLASS.to_vec()),
        DhcpOption::BootfileName(b"http://10.77.0.1:8080/root.img".to_vec()),
    ] {
        proxy.opts_mut().insert(option);
    }
    let news = client.receive(&bytes(&proxy), first);
    assert!(matches!(&news[..], [News::Urls(urls)] if urls.len() == 1));
    client.knows_root();
    assert_eq!(client.due(), now + Duration::from_secs(300));
}

proptest! {
    /// Whatever arrives and however late this is called: it always has a next
    /// time, sends something within ten seconds of it, and never keeps a lease
    /// beyond its end.
    #[test]
    fn no_course_of_events_silences_it(
        steps in prop::collection::vec((0_u8..5, 0_u64..700), 0..40),
    ) {
        let mut now = Instant::now();
        let mut client = Client::new(WORDS, true, now);
        let mut end = None;
        for (what, seconds) in steps {
            now += Duration::from_secs(seconds);
            let kind = match what {
                0 => MessageType::Offer,
                1 => MessageType::Ack,
                2 => MessageType::Nak,
                _ => MessageType::Discover,
            };
            let news = match what {
                4 => client.act(now).1.into_iter().collect(),
                _ => client.receive(&bytes(&reply(kind, [10, 77, 0, 9], XID)), now),
            };
            for news in news {
                match news {
                    News::Leased(lease) => end = Some(now + lease.time),
                    News::Lost => end = None,
                    News::Urls(_) | News::NameServers(_) => {}
                }
            }
            prop_assert!(end.is_none_or(|end| client.due() <= end));
        }
        let due = client.due().max(now);
        prop_assert!(!client.act(due).0.is_empty());
    }
}
