//! Ethernet, with tags and with LLC.

use crate::mark;

pub(crate) type Mac = [u8; 6];

pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q and 802.1ad.
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const PROVIDER_VLAN: u16 = 0x88a8;

/// A frame, filled up to the least length that a network carries.
pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    tagged(to, from, &[], kind, payload)
}

/// The same with bytes behind the packet, which who takes it up cuts off.
pub(crate) fn ethernet_then(
    (to, from, kind): (Mac, Mac, u16),
    packet: &[u8],
    trailer: &[u8],
) -> Vec<u8> {
    ethernet(to, from, kind, &[packet, trailer].concat())
}

/// The same with tags, the outer one first: protocol and the tag itself.
pub(crate) fn tagged(
    to: Mac,
    from: Mac,
    tags: &[(u16, u16)],
    kind: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to);
    frame.extend(from);
    for (protocol, tag) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// IEEE 802.3 with LLC: a length in the type's place, then the service access
/// points, a configuration BPDU of the best of all bridges, and the name.
pub(crate) fn llc(to: Mac, from: Mac, service: u8, name: &str) -> Vec<u8> {
    let mut payload = vec![service, service, 0x03];
    payload.extend([0; 5]);
    payload.extend([0; 8]);
    payload.extend([0; 4]);
    payload.extend(from);
    payload.extend(mark::of(name));
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    ethernet(to, from, length, &payload)
}
