//! The few of rtnetlink's messages that are sent and read here. The crate's own
//! list of all of them would make a third of this program.

use netlink_packet_core::{
    DecodeError, Emitable as _, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    Parseable as _,
};
use netlink_packet_route::address::{AddressMessage, AddressMessageBuffer};
use netlink_packet_route::route::RouteMessage;
use nix::libc::{RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, RTM_NEWROUTE};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    NewAddress(AddressMessage),
    DelAddress(AddressMessage),
    GetAddress(AddressMessage),
    NewRoute(RouteMessage),
    /// Of no interest.
    Other,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::NewAddress(_) => RTM_NEWADDR,
            Self::DelAddress(_) => RTM_DELADDR,
            Self::GetAddress(_) => RTM_GETADDR,
            Self::NewRoute(_) => RTM_NEWROUTE,
            Self::Other => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::NewAddress(address) | Self::DelAddress(address) | Self::GetAddress(address) => {
                address.buffer_len()
            }
            Self::NewRoute(route) => route.buffer_len(),
            Self::Other => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::NewAddress(address) | Self::DelAddress(address) | Self::GetAddress(address) => {
                address.emit(buffer);
            }
            Self::NewRoute(route) => route.emit(buffer),
            Self::Other => {}
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        if header.message_type != RTM_NEWADDR {
            return Ok(Self::Other);
        }
        let buffer = AddressMessageBuffer::new_checked(&payload)?;
        AddressMessage::parse(&buffer).map(Self::NewAddress)
    }
}
