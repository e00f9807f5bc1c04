//! DHCPv4: packets, one link's conversation, its socket.

pub(crate) mod client;
pub(crate) mod packet;
pub(crate) mod socket;
