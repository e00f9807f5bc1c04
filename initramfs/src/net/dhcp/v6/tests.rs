use std::time::Instant;

use dhcproto::v6::{Status, StatusCode};
use dhcproto::{Decodable as _, Decoder};
use proptest::prelude::*;

use super::client::{Client, News};
use super::*;

const WORDS: V6 = V6 {
    mac: [0x52, 0x54, 0, 1, 2, 3],
    xid: 0xab12_3456,
};
const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 1, 2, 3];
const SERVER: &[u8] = &[0, 2, 0, 0, 0, 9, 7];

fn decoded(packet: &[u8]) -> Message {
    Message::decode(&mut Decoder::new(packet)).unwrap()
}

fn address(text: &str, valid: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr: text.parse().unwrap(),
        preferred_life: valid,
        valid_life: valid,
        opts: DhcpOptions::new(),
    })
}

fn status(status: Status) -> DhcpOption {
    let msg = "in words".to_owned();
    DhcpOption::StatusCode(StatusCode { status, msg })
}

fn association(id: u32, inside: impl IntoIterator<Item = DhcpOption>) -> DhcpOption {
    DhcpOption::IANA(IANA {
        id,
        t1: 0,
        t2: 0,
        opts: inside.into_iter().collect(),
    })
}

fn granted() -> DhcpOption {
    association(IAID, [address("fd77::9", 600)])
}

/// An answer of this server, which holds these options.
fn from(server: &[u8], kind: MessageType, inside: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [0x12, 0x34, 0x56]);
    let ids = [
        DhcpOption::ClientId(DUID.to_vec()),
        DhcpOption::ServerId(server.to_vec()),
    ];
    for option in ids.into_iter().chain(inside) {
        message.opts_mut().insert(option);
    }
    message.to_vec().unwrap()
}

fn reply(inside: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
    from(SERVER, MessageType::Reply, inside)
}

fn kind(bytes: &[u8]) -> Option<Kind<Lease>> {
    WORDS.answer(bytes).map(|answer| answer.kind)
}

#[test]
fn a_search_asks_for_an_address_and_apart_for_the_rest() {
    let sent = WORDS.question(Question::Search, Duration::from_millis(3210));
    let [solicit, rest] = [&sent[0], &sent[1]].map(|packet| decoded(packet));
    assert_eq!(
        (solicit.msg_type(), rest.msg_type()),
        (MessageType::Solicit, MessageType::InformationRequest)
    );
    for message in [&solicit, &rest] {
        assert_eq!(message.xid_num(), 0x0012_3456);
        let options = message.opts();
        for expected in [
            DhcpOption::ClientId(DUID.to_vec()),
            DhcpOption::ElapsedTime(321),
        ] {
            assert_eq!(options.get((&expected).into()), Some(&expected));
        }
        let Some(DhcpOption::ORO(wanted)) = options.get(OptionCode::ORO) else {
            panic!("nothing is asked for");
        };
        assert!(wanted.opts.contains(&OptionCode::OptBootfileUrl));
        let Some(DhcpOption::UserClass(class)) = options.get(OptionCode::UserClass) else {
            panic!("no class");
        };
        assert_eq!(class.data, [b"surplus-init"]);
    }
    assert!(solicit.opts().get(OptionCode::IANA).is_some());
    assert!(rest.opts().get(OptionCode::IANA).is_none());
}

#[test]
fn an_answer_is_understood_with_all_that_is_used() {
    let url = b"http://[fd77::1]:8080/root.img".to_vec();
    let option = UnknownOption::new(OptionCode::OptBootfileUrl, url);
    let answer = WORDS
        .answer(&reply([
            granted(),
            DhcpOption::DomainNameServers(vec![
                "ff02::1".parse().unwrap(),
                "fd77::2".parse().unwrap(),
                "fe80::2".parse().unwrap(),
            ]),
            DhcpOption::Unknown(option),
            status(Status::Success),
        ]))
        .unwrap();
    let lease = Lease {
        address: "fd77::9".parse().unwrap(),
        server: SERVER.to_vec(),
        time: Duration::from_secs(600),
    };
    assert_eq!(answer.kind, Kind::Ack(lease));
    let servers: Vec<_> = answer
        .name_servers
        .iter()
        .map(Ipv6Addr::to_string)
        .collect();
    assert_eq!(servers, ["fd77::2", "fe80::2"]);
    assert_eq!(answer.urls[0].text(), "http://[fd77::1]:8080/root.img");
}

#[test]
fn answers_to_others_are_no_answers() {
    let good = reply([granted()]);
    assert!(WORDS.answer(&good).is_some());
    let other_xid = V6 { xid: 7, ..WORDS };
    let other_mac = V6 {
        mac: [2; 6],
        ..WORDS
    };
    assert!(other_xid.answer(&good).is_none());
    assert!(other_mac.answer(&good).is_none());
    assert!(kind(&from(SERVER, MessageType::Solicit, [granted()])).is_none());
    for server in [&[][..], &[7; LONGEST_DUID + 1]] {
        assert!(kind(&from(server, MessageType::Reply, [granted()])).is_none());
    }
}

#[test]
fn an_association_without_a_usable_address_is_a_refusal() {
    let nak = Some(Kind::Nak(SERVER.to_vec()));
    for useless in ["fe80::9", "::1", "::", "ff05::9", "::ffff:192.0.2.1"] {
        let inside = association(IAID, [address(useless, 600)]);
        assert_eq!(kind(&reply([inside])), nak, "{useless}");
    }
    for inside in [
        vec![],
        vec![status(Status::NoBinding), address("fd77::9", 600)],
        vec![address("fd77::9", 0)],
    ] {
        assert_eq!(kind(&reply([association(IAID, inside)])), nak);
    }
    // Whoever offers none offers nothing; another's says nothing of ours.
    let nothing = association(IAID, [status(Status::NoAddrsAvail)]);
    let advertised = from(SERVER, MessageType::Advertise, [nothing]);
    assert_eq!(kind(&advertised), Some(Kind::Other));
    let anothers = association(IAID + 1, [address("fd77::9", 600)]);
    assert_eq!(kind(&reply([anothers])), Some(Kind::Other));
    // The second address counts where the first cannot be used.
    let both = association(IAID, [address("fe80::9", 600), address("fd77::9", 600)]);
    assert!(matches!(kind(&reply([both])), Some(Kind::Ack(_))));
}

#[test]
fn an_option_that_the_crates_decoder_cannot_take_is_passed_over() {
    let mut bytes = reply([]);
    // A status that is too short for its own code, in an association.
    bytes.extend([0, 13, 0, 1, 7]);
    assert_eq!(kind(&bytes), Some(Kind::Other));
}

fn client(now: Instant) -> Client<V6> {
    Client::new(WORDS, false, now)
}

fn next_sent(client: &mut Client<V6>) -> Message {
    let (packets, _) = client.act(client.due());
    decoded(&packets[0])
}

fn bound(now: Instant) -> Client<V6> {
    let mut client = client(now);
    let _ = client.act(now);
    let offer = from(SERVER, MessageType::Advertise, [granted()]);
    assert!(client.receive(&offer, now).is_empty());
    let request = next_sent(&mut client);
    assert_eq!(request.msg_type(), MessageType::Request);
    let server = request.opts().get(OptionCode::ServerId);
    assert_eq!(server, Some(&DhcpOption::ServerId(SERVER.to_vec())));
    let news = client.receive(&reply([granted()]), now);
    assert!(matches!(&news[..], [News::Leased(_)]), "{news:?}");
    client
}

#[test]
fn a_lease_is_renewed_by_its_server_first_and_then_by_any() {
    let now = Instant::now();
    let mut client = bound(now);
    assert_eq!(client.due(), now + Duration::from_secs(300));
    let renew = next_sent(&mut client);
    assert_eq!(renew.msg_type(), MessageType::Renew);
    assert!(renew.opts().get(OptionCode::ServerId).is_some());
    let rebind = next_sent(&mut client);
    assert_eq!(rebind.msg_type(), MessageType::Rebind);
    assert!(rebind.opts().get(OptionCode::ServerId).is_none());
    let Some(DhcpOption::IANA(kept)) = rebind.opts().get(OptionCode::IANA) else {
        panic!("no address in {rebind:?}");
    };
    assert!(kept.opts.get(OptionCode::IAAddr).is_some());
    let due = client.due();
    let news = client.receive(&from(b"another", MessageType::Reply, [granted()]), due);
    assert!(matches!(&news[..], [News::Leased(_)]), "{news:?}");
    assert_eq!(next_sent(&mut client).msg_type(), MessageType::Renew);
}

#[test]
fn an_address_that_its_server_takes_back_is_lost() {
    let now = Instant::now();
    let gone = || reply([association(IAID, [address("fd77::9", 0)])]);
    assert_eq!(bound(now).receive(&gone(), now), [News::Lost]);
    let anothers = from(b"another", MessageType::Reply, [association(IAID, [])]);
    assert_eq!(bound(now).receive(&anothers, now), []);
}

#[test]
fn a_server_without_addresses_tells_the_rest_and_asking_goes_on() {
    let now = Instant::now();
    let mut client = client(now);
    let _ = client.act(now);
    let nothing = association(IAID, [status(Status::NoAddrsAvail)]);
    let news = client.receive(&from(SERVER, MessageType::Advertise, [nothing]), now);
    assert_eq!(news, []);
    let server: Ipv6Addr = "fd77::2".parse().unwrap();
    let rest = reply([DhcpOption::DomainNameServers(vec![server])]);
    assert_eq!(
        client.receive(&rest, now),
        [News::NameServers(vec![server])]
    );
    assert_eq!(next_sent(&mut client).msg_type(), MessageType::Solicit);
}

proptest! {
    #[test]
    fn no_packet_breaks_the_reader(
        noise in prop::collection::vec(any::<u8>(), 0..600), at in 0_usize..400,
    ) {
        let _ = WORDS.answer(&noise);
        // A good one with noise over part of it reaches further.
        let mut good = reply([granted(), status(Status::Success)]);
        good.resize(good.len().max(at) + noise.len(), 0);
        good[at..at + noise.len()].copy_from_slice(&noise);
        let _ = WORDS.answer(&good);
    }

    #[test]
    fn every_lease_has_a_sound_address_and_time(octets in any::<[u8; 16]>(), valid in any::<u32>()) {
        let addr = Ipv6Addr::from(octets);
        let inside = address(&addr.to_string(), valid);
        if let Some(Kind::Ack(lease)) = kind(&reply([association(IAID, [inside])])) {
            prop_assert!(!lease.address.is_multicast() && !lease.address.is_loopback());
            prop_assert!((SHORTEST..=FOREVER).contains(&lease.time));
        }
    }

    /// Whatever arrives and however late this is called: it always has something to
    /// send next, and never keeps a lease beyond its end.
    #[test]
    fn no_course_of_events_silences_it(
        steps in prop::collection::vec((0_u8..5, 0_u64..700), 0..40),
    ) {
        let mut now = Instant::now();
        let mut client = Client::new(WORDS, true, now);
        let mut end = None;
        for (what, seconds) in steps {
            now += Duration::from_secs(seconds);
            let news = match what {
                0 => client.receive(&from(SERVER, MessageType::Advertise, [granted()]), now),
                1 => client.receive(&reply([granted()]), now),
                2 => client.receive(&reply([association(IAID, [])]), now),
                3 => client.receive(&reply([]), now),
                _ => client.act(now).1.into_iter().collect(),
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
