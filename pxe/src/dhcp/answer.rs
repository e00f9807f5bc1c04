//! The answer to one packet.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{
    DhcpOption, MAGIC, Message, MessageType, Opcode, OptionCode, SERVER_PORT, UnknownOption,
};
use dhcproto::{Encodable as _, Encoder};
use ipnet::IpNet;

use super::client::{Client, Firmware};
use super::request::{Request, code};
use crate::hardware::Choice;

/// Where each kind of client boots from.
#[derive(Clone, Debug)]
pub struct Boot {
    /// This server: named in every answer, asked for the first stage.
    pub address: Ipv4Addr,
    /// By TFTP.
    pub bios: String,
    pub uefi: String,
    /// The rest: URLs.
    pub http: String,
    pub script: String,
    /// Several are separated by a space.
    pub root: String,
}

/// The port that a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// 67, by broadcast: the DHCP server is asked, and we beside it.
    Dhcp,
    /// 67, by unicast: a relay asks the DHCP server, and us beside it (RFC 1542).
    Relay,
    /// 4011, by unicast: we are asked (PXE 2.1, 2.2.3).
    BootServer,
}

/// What is sent, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub packet: Vec<u8>,
    pub to: SocketAddrV4,
    pub client: Client,
    /// What the client was told to boot.
    pub file: String,
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// No DHCP packet of a client.
    NotARequest,
    /// A client that does not ask to boot.
    NotBooting,
    /// To be left alone.
    Ignored,
    /// Not ours to answer: it goes to the DHCP server, or to another one.
    NotForUs,
    /// We have nothing for this architecture.
    NothingToBoot(u16),
    /// The answer would not fit.
    TooLong,
}

/// Answers packets.
#[derive(Clone, Debug)]
pub struct Responder {
    pub boot: Boot,
    pub choice: Choice,
    /// The networks in which a relay that asks has to have its address.
    pub relays: Vec<IpNet>,
}

/// PXE_DISCOVERY_CONTROL (PXE 2.1, table 2-1), bit 3: boot the file that is
/// named here, do not look for boot servers.
const BOOT_WHAT_IS_NAMED: [u8; 4] = [6, 1, 8, 255];

/// Old ROMs take nothing shorter (RFC 951).
const SHORTEST: usize = 300;

impl Responder {
    /// The answer to `packet`, which came from `from` to `port`.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn answer(&self, packet: &[u8], port: Port, from: SocketAddrV4) -> Result<Answer, Silence> {
        let request = Request::read(packet).ok_or(Silence::NotARequest)?;
        self.answer_to(&request, port, from)
    }

    /// The same for a packet that was read.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub fn answer_to(
        &self,
        request: &Request,
        port: Port,
        from: SocketAddrV4,
    ) -> Result<Answer, Silence> {
        let client = Client::of(request).ok_or(Silence::NotBooting)?;
        if !self.choice.takes(request.mac) {
            return Err(Silence::Ignored);
        }
        let kind = match (port, request.kind) {
            (Port::Dhcp, MessageType::Discover) => MessageType::Offer,
            (Port::Relay, MessageType::Discover) if self.knows_relay(request) => MessageType::Offer,
            (Port::BootServer, MessageType::Request | MessageType::Inform) => MessageType::Ack,
            _ => return Err(Silence::NotForUs),
        };
        let another = |server: Ipv4Addr| server != self.boot.address;
        if port == Port::BootServer && request.server().is_some_and(another) {
            return Err(Silence::NotForUs);
        }
        let file = match client {
            Client::Rom(Firmware::Bios) => &self.boot.bios,
            Client::Rom(Firmware::Uefi) => &self.boot.uefi,
            Client::Ipxe(_) => &self.boot.script,
            Client::Http => &self.boot.http,
            Client::Init => &self.boot.root,
            Client::Other(architecture) => return Err(Silence::NothingToBoot(architecture)),
        };
        Ok(Answer {
            packet: self.compose(request, client, kind, file)?,
            to: destination(request, port, from),
            client,
            file: file.clone(),
        })
    }

    fn knows_relay(&self, request: &Request) -> bool {
        let relay = IpAddr::V4(request.header.giaddr());
        self.relays.iter().any(|network| network.contains(&relay))
    }

    fn compose(
        &self,
        request: &Request,
        client: Client,
        kind: MessageType,
        file: &str,
    ) -> Result<Vec<u8>, Silence> {
        let header = &request.header;
        let mut answer = Message::new_with_id(
            header.xid(),
            header.ciaddr(),
            Ipv4Addr::UNSPECIFIED,
            self.boot.address,
            header.giaddr(),
            &request.mac.0,
        );
        let flags = match header.giaddr().is_unspecified() {
            true => header.flags(),
            // Where an answer offers no address a relay has none to send it to.
            false => header.flags().set_broadcast(),
        };
        answer.set_opcode(Opcode::BootReply).set_flags(flags);
        // ROMs look into the header, UEFI into the option; the header has room
        // for 127 bytes and a zero.
        if matches!(client, Client::Rom(_) | Client::Ipxe(_)) && file.len() < 128 {
            answer.set_fname_str(file);
        }
        let options = answer.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.boot.address));
        options.insert(DhcpOption::ClassIdentifier(client.class().to_vec()));
        options.insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
        if client == Client::Rom(Firmware::Bios) {
            // Not for UEFI: EDK II drops proxy offers with it, and asks at port
            // 4011 without it.
            options.insert(DhcpOption::VendorExtensions(BOOT_WHAT_IS_NAMED.to_vec()));
        }
        if matches!(client, Client::Rom(_)) {
            let name = self.boot.address.to_string();
            options.insert(DhcpOption::TFTPServerName(name.into_bytes()));
        }
        for echoed in [code::MACHINE, code::RELAY] {
            // An option has room for 255 bytes.
            if let Some(value) = request.option(echoed).filter(|value| value.len() <= 255) {
                let option = UnknownOption::new(OptionCode::from(echoed), value.to_vec());
                options.insert(DhcpOption::Unknown(option));
            }
        }
        let mut packet = Vec::with_capacity(SHORTEST + MAGIC.len());
        answer
            .encode(&mut Encoder::new(&mut packet))
            .map_err(|_| Silence::TooLong)?;
        packet.resize(packet.len().max(SHORTEST), code::PAD);
        Ok(packet)
    }
}

/// To the relay, to the address that a client has, or to all.
fn destination(request: &Request, port: Port, from: SocketAddrV4) -> SocketAddrV4 {
    let relay = request.header.giaddr();
    if !relay.is_unspecified() {
        return SocketAddrV4::new(relay, SERVER_PORT);
    }
    match port {
        Port::BootServer if !from.ip().is_unspecified() => from,
        _ => SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcproto::v4::CLIENT_PORT),
    }
}

#[cfg(test)]
mod tests;
