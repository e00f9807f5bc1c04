//! A client of DHCP on its side of the cable.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use dhcproto::v4::{
    Architecture, DhcpOption, Flags, Message, MessageType, OptionCode, UnknownOption,
};
use dhcproto::{Decodable as _, Decoder, Encodable as _, Encoder};
use socket2::{Domain, Socket, Type};

use crate::namespace::SERVER;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const PATIENCE: Duration = Duration::from_secs(30);

/// The kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bios,
    Uefi(u16),
    Ipxe,
    Http,
    Init,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Bios,
        Self::Uefi(7),
        Self::Uefi(9),
        Self::Ipxe,
        Self::Http,
        Self::Init,
    ];

    fn options(self) -> Vec<DhcpOption> {
        let class = |text: &str| DhcpOption::ClassIdentifier(text.as_bytes().to_vec());
        let architecture =
            |number: u16| DhcpOption::ClientSystemArchitecture(Architecture::from(number));
        match self {
            Self::Bios => vec![class("PXEClient:Arch:00000:UNDI:002001"), architecture(0)],
            Self::Uefi(number) => vec![
                class(&format!("PXEClient:Arch:{number:05}:UNDI:003016")),
                architecture(number),
            ],
            Self::Ipxe => vec![
                class("PXEClient:Arch:00000:UNDI:002001"),
                architecture(0),
                DhcpOption::Unknown(UnknownOption::new(OptionCode::from(77), b"iPXE".to_vec())),
            ],
            Self::Http => vec![class("HTTPClient:Arch:00016:UNDI:003001"), architecture(16)],
            Self::Init => vec![class("surplus-init")],
        }
    }
}

/// What a client makes of an offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) file: String,
    /// Where the client looks at the class before it takes the offer.
    pub(crate) class: Option<String>,
    /// Where the file is a name: who has it.
    pub(crate) server: Option<Ipv4Addr>,
}

#[derive(Debug)]
pub(crate) struct Offer(Message);

impl Offer {
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        Some(self.0.yiaddr()).filter(|address| !address.is_unspecified())
    }

    pub(crate) fn heard(&self, kind: Kind) -> Heard {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            text.trim_end_matches('\0').to_owned()
        };
        let file = match self.0.opts().get(OptionCode::BootfileName) {
            Some(DhcpOption::BootfileName(file)) => text(file),
            _ => text(self.0.fname().unwrap_or_default()),
        };
        let class = match self.0.opts().get(OptionCode::ClassIdentifier) {
            Some(DhcpOption::ClassIdentifier(class)) => Some(text(class)),
            _ => None,
        };
        Heard {
            file,
            class: class.filter(|_| matches!(kind, Kind::Http | Kind::Init)),
            server: matches!(kind, Kind::Bios | Kind::Uefi(_)).then(|| self.0.siaddr()),
        }
    }

    fn server(&self) -> Ipv4Addr {
        match self.0.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => *server,
            other => panic!("an offer without a server: {other:?}"),
        }
    }
}

/// A network card that waits for offers.
pub(crate) struct Client(UdpSocket);

impl Client {
    pub(crate) fn plug_in(interface: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind_device(Some(interface.as_bytes())).unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        socket.bind(&any.into()).unwrap();
        Self(socket.into())
    }

    /// The one offer to a client of this kind.
    pub(crate) fn ask(&self, kind: Kind) -> Offer {
        self.ask_all(kind, 1).remove(0)
    }

    /// So many offers, from different servers.
    pub(crate) fn ask_all(&self, kind: Kind, count: usize) -> Vec<Offer> {
        let mut message = message(MessageType::Discover);
        for option in kind.options() {
            message.opts_mut().insert(option);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut offers: Vec<Offer> = Vec::new();
        while offers.len() < count {
            assert!(Instant::now() < deadline, "{kind:?}: heard only {offers:?}");
            // A server may still be starting: firmware asks again, too.
            self.send(&message, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
            let until = Instant::now() + Duration::from_secs(1);
            while let Some(offer) = self.receive(message.xid(), until) {
                let known = offers
                    .iter()
                    .any(|known| known.address().is_none() == offer.address().is_none());
                if !known {
                    offers.push(offer);
                }
                if offers.len() == count {
                    break;
                }
            }
        }
        offers
    }

    /// Takes an offered address.
    pub(crate) fn take(&self, offer: &Offer) {
        let mut message = message(MessageType::Request);
        let address = offer.address().unwrap();
        message
            .opts_mut()
            .insert(DhcpOption::RequestedIpAddress(address));
        message
            .opts_mut()
            .insert(DhcpOption::ServerIdentifier(offer.server()));
        self.send(&message, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67));
        let ack = self
            .receive(message.xid(), Instant::now() + PATIENCE)
            .unwrap();
        assert_eq!(ack.0.opts().msg_type(), Some(MessageType::Ack));
    }

    /// Renews a lease by unicast; the address that was confirmed.
    pub(crate) fn renew(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let interface = crate::namespace::HOST_SIDE;
        let line = format!("address add {address}/24 dev {interface}");
        let status = std::process::Command::new("ip")
            .args(line.split(' '))
            .status();
        assert!(status.unwrap().success());
        let mut message = message(MessageType::Request);
        message.set_ciaddr(address);
        self.send(&message, SocketAddrV4::new(SERVER, 67));
        let ack = self.receive(message.xid(), Instant::now() + PATIENCE)?;
        assert_eq!(ack.0.opts().msg_type(), Some(MessageType::Ack));
        ack.address()
    }

    fn send(&self, message: &Message, to: SocketAddrV4) {
        let mut packet = Vec::new();
        message.encode(&mut Encoder::new(&mut packet)).unwrap();
        packet.resize(packet.len().max(300), 0);
        self.0.send_to(&packet, to).unwrap();
    }

    fn receive(&self, id: u32, until: Instant) -> Option<Offer> {
        let mut packet = [0; 2048];
        loop {
            let left = until.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).unwrap();
            let Ok((length, _)) = self.0.recv_from(&mut packet) else {
                continue;
            };
            let message = Message::decode(&mut Decoder::new(&packet[..length])).unwrap();
            if message.xid() == id {
                return Some(Offer(message));
            }
        }
    }
}

fn message(kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new(none, none, none, none, &MAC);
    message.set_flags(Flags::default().set_broadcast());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    let wanted = [1, 3, 6, 43, 54, 60, 66, 67, 97].map(OptionCode::from);
    options.insert(DhcpOption::ParameterRequestList(wanted.to_vec()));
    message
}
