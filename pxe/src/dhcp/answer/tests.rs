use dhcproto::{Decodable as _, Decoder};
use proptest::prelude::*;

use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const HOST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 50), 68);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const UUID: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn responder() -> Responder {
    Responder {
        boot: Boot {
            address: SERVER,
            bios: "undionly.kpxe".into(),
            uefi: "snponly.efi".into(),
            http: "http://10.77.0.2:8080/surplus.efi".into(),
            script: "http://10.77.0.2:8080/start.ipxe".into(),
            root: "http://10.77.0.2:8080/root.img http://10.77.0.3:8080/root.img".into(),
        },
        choice: Choice::default(),
        relays: vec!["10.78.0.0/24".parse().unwrap()],
    }
}

/// A packet as clients build it: header, cookie, options in order, padding.
struct Packet {
    kind: u8,
    options: Vec<(u8, Vec<u8>)>,
    client: Ipv4Addr,
    relay: Ipv4Addr,
    broadcast: bool,
    length: usize,
}

impl Packet {
    fn discover(options: Vec<(u8, Vec<u8>)>) -> Self {
        Self {
            kind: 1,
            options,
            client: Ipv4Addr::UNSPECIFIED,
            relay: Ipv4Addr::UNSPECIFIED,
            broadcast: true,
            length: 300,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe, 0, 4];
        bytes.extend(if self.broadcast { [0x80, 0] } else { [0, 0] });
        bytes.extend(self.client.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.relay.octets());
        bytes.extend(MAC);
        bytes.resize(236, 0);
        bytes.extend(MAGIC);
        bytes.extend([53, 1, self.kind]);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(self.length), 0);
        bytes
    }
}

/// Intel's boot ROM of a BIOS: UNDI 2.1, 548 bytes, class last.
fn bios_rom() -> Packet {
    let mut packet = Packet::discover(vec![
        (
            55,
            vec![
                1, 2, 3, 5, 6, 11, 12, 13, 15, 16, 17, 18, 43, 54, 60, 67, 128, 129, 150,
            ],
        ),
        (57, vec![0x04, 0xec]),
        (97, UUID.to_vec()),
        (93, vec![0, 0]),
        (94, vec![1, 2, 1]),
        (60, b"PXEClient:Arch:00000:UNDI:002001".to_vec()),
    ]);
    packet.length = 548;
    packet
}

/// iPXE in QEMU's ROM, and undionly: its own option 175 among the others.
fn ipxe(architecture: u8) -> Packet {
    let class = format!("PXEClient:Arch:{architecture:05}:UNDI:003010");
    Packet::discover(vec![
        (57, vec![0x05, 0xc0]),
        (93, vec![0, architecture]),
        (94, vec![1, 3, 16]),
        (60, class.into_bytes()),
        (77, b"iPXE".to_vec()),
        (
            55,
            vec![
                1, 3, 6, 7, 12, 15, 17, 26, 42, 43, 60, 66, 67, 119, 121, 128, 175, 203,
            ],
        ),
        (
            175,
            vec![
                0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e, 0x13, 1, 1, 0xeb, 3, 1, 0x15, 1,
            ],
        ),
        (61, [&[1][..], &MAC].concat()),
        (97, UUID.to_vec()),
    ])
}

/// OVMF's UEFI PXE driver.
fn ovmf_pxe(architecture: u8) -> Packet {
    let class = format!("PXEClient:Arch:{architecture:05}:UNDI:003016");
    Packet::discover(vec![
        (57, vec![0x05, 0xc0]),
        (
            55,
            vec![
                1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58,
                59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135,
            ],
        ),
        (97, UUID.to_vec()),
        (94, vec![1, 3, 16]),
        (93, vec![0, architecture]),
        (60, class.into_bytes()),
    ])
}

/// OVMF's UEFI HTTP boot driver.
fn ovmf_http() -> Packet {
    Packet::discover(vec![
        (57, vec![0x05, 0xc0]),
        (55, vec![1, 3, 6, 12, 15, 28, 43, 54, 60, 66, 67]),
        (97, UUID.to_vec()),
        (94, vec![1, 3, 16]),
        (93, vec![0, 16]),
        (60, b"HTTPClient:Arch:00016:UNDI:003001".to_vec()),
    ])
}

fn init() -> Packet {
    Packet::discover(vec![
        (60, b"surplus-init".to_vec()),
        (55, vec![1, 3, 6, 42, 67]),
    ])
}

fn ask(packet: &Packet, port: Port) -> Result<(Answer, Message), Silence> {
    let from = if packet.client.is_unspecified() {
        NOBODY
    } else {
        HOST
    };
    let answer = responder().answer(&packet.bytes(), port, from)?;
    let message = Message::decode(&mut Decoder::new(&answer.packet)).unwrap();
    Ok((answer, message))
}

fn option(message: &Message, code: u8) -> Option<Vec<u8>> {
    let option = message.opts().get(OptionCode::from(code))?;
    let mut bytes = Vec::new();
    option.encode(&mut Encoder::new(&mut bytes)).unwrap();
    Some(bytes[2..].to_vec())
}

#[test]
fn each_kind_of_client_is_told_what_it_can_boot() {
    let urls = responder().boot;
    for (packet, client, file, class) in [
        (
            bios_rom(),
            Client::Rom(Firmware::Bios),
            &urls.bios,
            "PXEClient",
        ),
        (
            ovmf_pxe(7),
            Client::Rom(Firmware::Uefi),
            &urls.uefi,
            "PXEClient",
        ),
        (
            ovmf_pxe(9),
            Client::Rom(Firmware::Uefi),
            &urls.uefi,
            "PXEClient",
        ),
        (
            ipxe(0),
            Client::Ipxe(Firmware::Bios),
            &urls.script,
            "PXEClient",
        ),
        (
            ipxe(7),
            Client::Ipxe(Firmware::Uefi),
            &urls.script,
            "PXEClient",
        ),
        (ovmf_http(), Client::Http, &urls.http, "HTTPClient"),
        (init(), Client::Init, &urls.root, "surplus-init"),
    ] {
        let (answer, message) = ask(&packet, Port::Dhcp).unwrap();
        assert_eq!((answer.client, &answer.file), (client, file));
        assert_eq!(answer.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        assert!(answer.packet.len() >= 300);
        assert_eq!(message.opcode(), Opcode::BootReply);
        assert_eq!(message.xid(), 0xcafe_babe);
        assert_eq!(message.chaddr(), MAC);
        assert!(message.flags().broadcast());
        assert_eq!(message.opts().msg_type(), Some(MessageType::Offer));
        assert_eq!(message.siaddr(), SERVER);
        assert_eq!(option(&message, 54).unwrap(), SERVER.octets());
        assert_eq!(option(&message, 60).unwrap(), class.as_bytes());
        assert_eq!(option(&message, 67).unwrap(), file.as_bytes());
        let asked = packet.options.iter().find(|(code, _)| *code == 97);
        let echoed = option(&message, 97);
        assert_eq!(echoed.as_ref(), asked.map(|(_, value)| value), "{client:?}");
    }
}

#[test]
fn a_bios_rom_boots_what_the_offer_names_and_uefi_asks_at_port_4011() {
    let (_, offer) = ask(&bios_rom(), Port::Dhcp).unwrap();
    assert_eq!(option(&offer, 43).unwrap(), [6, 1, 8, 255]);
    assert_eq!(offer.fname(), Some(&b"undionly.kpxe\0"[..]));
    let (_, offer) = ask(&ovmf_pxe(7), Port::Dhcp).unwrap();
    assert_eq!(option(&offer, 43), None);
    let request = Packet {
        kind: 3,
        client: *HOST.ip(),
        broadcast: false,
        ..ovmf_pxe(7)
    };
    let (answer, ack) = ask(&request, Port::BootServer).unwrap();
    assert_eq!(answer.to, HOST);
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.ciaddr(), *HOST.ip());
    assert_eq!(option(&ack, 67).unwrap(), b"snponly.efi");
}

#[test]
fn no_answer_offers_an_address() {
    for packet in [bios_rom(), ovmf_pxe(7), ipxe(0), ovmf_http(), init()] {
        let (_, message) = ask(&packet, Port::Dhcp).unwrap();
        assert!(message.yiaddr().is_unspecified());
        assert_eq!(option(&message, 51), None);
        assert_eq!(option(&message, 1), None);
    }
}

#[test]
fn who_does_not_ask_to_boot_gets_no_answer() {
    for class in [
        None,
        Some("MSFT 5.0"),
        Some("udhcp 1.36"),
        Some("surplus-initial"),
    ] {
        let options = class.map(|class| (60, class.as_bytes().to_vec()));
        let packet = Packet::discover(options.into_iter().collect());
        assert_eq!(ask(&packet, Port::Dhcp).unwrap_err(), Silence::NotBooting);
    }
    let arm = ask(&ovmf_pxe(11), Port::Dhcp).unwrap_err();
    assert_eq!(arm, Silence::NothingToBoot(11));
}

#[test]
fn who_is_to_be_left_alone_gets_no_answer_at_any_port() {
    let mut responder = responder();
    responder.choice.ignore = vec!["52:54:00:12:34:56".parse().unwrap()];
    for mut packet in [bios_rom(), ovmf_pxe(7), ipxe(0), ovmf_http(), init()] {
        let silence = responder.answer(&packet.bytes(), Port::Dhcp, NOBODY);
        assert_eq!(silence.unwrap_err(), Silence::Ignored);
        packet.kind = 3;
        let silence = responder.answer(&packet.bytes(), Port::BootServer, HOST);
        assert_eq!(silence.unwrap_err(), Silence::Ignored);
    }
}

#[test]
fn requests_to_the_dhcp_server_are_left_to_it() {
    for kind in [2, 3, 4, 5, 6, 7, 8, 99] {
        let packet = Packet { kind, ..ipxe(0) };
        assert_eq!(ask(&packet, Port::Dhcp).unwrap_err(), Silence::NotForUs);
    }
    let mut packet = Packet {
        kind: 3,
        ..ovmf_pxe(7)
    };
    packet.options.push((54, vec![10, 77, 0, 1]));
    let silence = ask(&packet, Port::BootServer).unwrap_err();
    assert_eq!(silence, Silence::NotForUs);
}

#[test]
fn an_answer_through_a_relay_goes_back_to_it_to_be_broadcast() {
    let mut packet = bios_rom();
    packet.broadcast = false;
    packet.relay = Ipv4Addr::new(10, 78, 0, 1);
    packet.options.push((82, vec![1, 4, 1, 2, 3, 4]));
    let (answer, message) = ask(&packet, Port::Relay).unwrap();
    assert_eq!(answer.to, SocketAddrV4::new(packet.relay, 67));
    assert_eq!(message.giaddr(), packet.relay);
    assert!(message.flags().broadcast());
    assert_eq!(option(&message, 82).unwrap(), [1, 4, 1, 2, 3, 4]);
}

#[test]
fn what_no_relay_of_a_served_network_sends_gets_no_answer() {
    let mut packet = bios_rom();
    for relay in [[0; 4], [10, 79, 0, 1]] {
        packet.relay = relay.into();
        assert_eq!(ask(&packet, Port::Relay).unwrap_err(), Silence::NotForUs);
    }
    packet.relay = Ipv4Addr::new(10, 78, 0, 1);
    packet.kind = 3;
    assert_eq!(ask(&packet, Port::Relay).unwrap_err(), Silence::NotForUs);
}

#[test]
fn a_class_says_the_architecture_where_option_93_is_missing() {
    let mut packet = ovmf_pxe(7);
    packet.options.retain(|(code, _)| *code != 93);
    let (answer, _) = ask(&packet, Port::Dhcp).unwrap();
    assert_eq!(answer.client, Client::Rom(Firmware::Uefi));
    packet.options = vec![(60, b"PXEClient".to_vec())];
    let (answer, _) = ask(&packet, Port::Dhcp).unwrap();
    assert_eq!(answer.client, Client::Rom(Firmware::Bios));
}

#[test]
fn ipxe_is_known_by_a_counted_user_class_too() {
    let mut packet = bios_rom();
    packet.options.push((77, b"\x03abc\x04iPXE".to_vec()));
    let (answer, _) = ask(&packet, Port::Dhcp).unwrap();
    assert_eq!(answer.client, Client::Ipxe(Firmware::Bios));
}

proptest! {
    #[test]
    fn garbage_never_panics(packet in prop::collection::vec(any::<u8>(), 0..700)) {
        for port in [Port::Dhcp, Port::Relay, Port::BootServer] {
            let _ = responder().answer(&packet, port, NOBODY);
        }
    }

    #[test]
    fn a_real_packet_with_bytes_changed_is_answered_in_form_or_not_at_all(
        which in 0_usize..5,
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..20),
        cut in 0_usize..600,
    ) {
        let packets = [bios_rom(), ovmf_pxe(7), ipxe(0), ovmf_http(), init()];
        let mut packet = packets[which].bytes();
        for (at, byte) in changes {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet.truncate(cut.max(200));
        if let Ok(answer) = responder().answer(&packet, Port::Dhcp, NOBODY) {
            let message = Message::decode(&mut Decoder::new(&answer.packet)).unwrap();
            prop_assert!(message.yiaddr().is_unspecified());
            prop_assert_eq!(message.opcode(), Opcode::BootReply);
            prop_assert!(answer.packet.len() < 1200);
        }
    }

    #[test]
    fn any_options_are_taken(
        options in prop::collection::vec(
            (1_u8..255, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
    ) {
        let mut packet = ovmf_pxe(7);
        packet.options.extend(options);
        let _ = responder().answer(&packet.bytes(), Port::Dhcp, NOBODY);
    }
}
