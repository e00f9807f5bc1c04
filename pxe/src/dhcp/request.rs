//! One packet of a client, as far as an answer needs it.
//!
//! The header is read by dhcproto. The options are walked here: there anybody
//! may send anything, and of all of it eight options are of interest, as bytes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{HType, MAGIC, Message, MessageType, Opcode};
use dhcproto::{Decodable as _, Decoder};

use crate::hardware::Mac;

pub(crate) mod code {
    pub(crate) const REQUESTED_ADDRESS: u8 = 50;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const VENDOR_CLASS: u8 = 60;
    pub(crate) const USER_CLASS: u8 = 77;
    pub(crate) const RELAY: u8 = 82;
    pub(crate) const ARCHITECTURE: u8 = 93;
    pub(crate) const MACHINE: u8 = 97;
    pub(crate) const PAD: u8 = 0;
    pub(crate) const END: u8 = 255;
}

/// Header and cookie: where the options begin.
const HEADER: usize = 240;

/// A request that has the form of one.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) header: Message,
    pub mac: Mac,
    pub kind: MessageType,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Request {
    /// Reads a packet; `None` where it is no DHCP request of an Ethernet card.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (head, rest) = packet.split_at_checked(HEADER)?;
        if head[HEADER - MAGIC.len()..] != MAGIC {
            return None;
        }
        let header = Message::decode(&mut Decoder::new(head)).ok()?;
        let ethernet = header.htype() == HType::Eth && header.hlen() == 6;
        if header.opcode() != Opcode::BootRequest || !ethernet {
            return None;
        }
        let mac = Mac(header.chaddr().try_into().ok()?);
        let options = options(rest);
        let kind = match options.get(&code::MESSAGE_TYPE)?.as_slice() {
            [kind] => MessageType::from(*kind),
            _ => return None,
        };
        Some(Self {
            header,
            mac,
            kind,
            options,
        })
    }

    pub(crate) fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(code)?.try_into().ok()?;
        Some(bytes.into())
    }

    /// The server that a client chose, or asks.
    pub(crate) fn server(&self) -> Option<Ipv4Addr> {
        self.address(code::SERVER)
    }

    /// The address that the client has or is about to have.
    pub fn address_of_client(&self) -> Option<Ipv4Addr> {
        let has = self.header.ciaddr();
        if !has.is_unspecified() {
            return Some(has);
        }
        match self.kind {
            MessageType::Request => self.address(code::REQUESTED_ADDRESS),
            _ => None,
        }
    }
}

/// Every option; one that is cut off ends the walk. The parts of a long one are
/// put together (RFC 3396).
fn options(mut rest: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut found: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some((&code, after)) = rest.split_first() {
        match code {
            code::PAD => rest = after,
            code::END => break,
            _ => {
                let Some((&length, after)) = after.split_first() else {
                    break;
                };
                let Some((value, after)) = after.split_at_checked(usize::from(length)) else {
                    break;
                };
                found.entry(code).or_default().extend_from_slice(value);
                rest = after;
            }
        }
    }
    found
}
