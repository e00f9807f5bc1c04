//! What a switch reads of an Ethernet frame: its VLAN tag (IEEE 802.1Q), whether
//! it is a question to a DHCP server, or who has an address.

use std::net::Ipv4Addr;

/// The two addresses before the type, or the tag.
const ADDRESSES: usize = 12;
const TAG: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const UDP: u8 = 17;
const DHCP_SERVER: [u8; 2] = [0, 67];

/// Who gets a frame, and who sent it.
pub(super) fn receiver(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(..6)?.try_into().ok()
}

pub(super) fn sender(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(6..ADDRESSES)?.try_into().ok()
}

/// Whether it is for everybody, or for a group.
pub(super) fn is_for_all(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 == 1)
}

/// The VLAN that a frame is tagged with. Priority tags, of VLAN 0, are none.
pub(super) fn tag(frame: &[u8]) -> Option<u16> {
    let tag = frame.get(ADDRESSES..ADDRESSES + 4)?;
    let vlan = u16::from_be_bytes([tag[2], tag[3]]) & 0x0fff;
    (tag[..2] == TAG && vlan != 0).then_some(vlan)
}

/// A tagged frame without its tag.
pub(super) fn untagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..ADDRESSES], &frame[ADDRESSES + 4..]].concat()
}

/// An untagged frame with a tag.
pub(super) fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(ADDRESSES.min(frame.len()));
    [addresses, &TAG, &vlan.to_be_bytes(), rest].concat()
}

/// Whether an untagged frame asks a DHCP server (RFC 2131: UDP to port 67).
pub(super) fn asks_dhcp(frame: &[u8]) -> bool {
    let Some((ethernet, packet)) = frame.split_at_checked(ADDRESSES + 2) else {
        return false;
    };
    let Some(first) = packet.first() else {
        return false;
    };
    // The low half of the first byte is the header's length in words.
    let header = usize::from(first & 0x0f) * 4;
    ethernet[ADDRESSES..] == IPV4
        && packet.get(9) == Some(&UDP)
        && packet.get(header + 2..header + 4) == Some(&DHCP_SERVER)
}

/// Whether an untagged frame is for this address: IPv4, or ARP about it.
pub(super) fn is_for(frame: &[u8], address: Ipv4Addr) -> bool {
    let target = match frame.get(ADDRESSES..ADDRESSES + 2) {
        Some([0x08, 0x00]) => frame.get(30..34),
        Some([0x08, 0x06]) => frame.get(38..42),
        _ => None,
    };
    target == Some(&address.octets())
}

/// ARP over Ethernet for IPv4 (RFC 826): a question, and an answer.
const QUESTION: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1];
const ANSWER: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 2];

/// The answer to an untagged frame that asks who has `address`: `mac` has.
pub(super) fn arp_answer(frame: &[u8], address: Ipv4Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    let asker = frame.get(22..32)?;
    let asks = frame.get(12..22)? == QUESTION && frame.get(38..42)? == address.octets();
    asks.then(|| {
        let to = &asker[..6];
        [to, &mac, &ANSWER, &mac, &address.octets(), asker].concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_put_on_is_read_and_taken_off() {
        let plain: Vec<u8> = (0..60).collect();
        assert_eq!(tag(&plain), None);
        let with_tag = tagged(&plain, 4094);
        assert_eq!(tag(&with_tag), Some(4094));
        assert_eq!(untagged(&with_tag), plain);
        assert_eq!(tag(&tagged(&plain, 0)), None);
        assert_eq!(tag(&plain[..13]), None);
        assert_eq!(receiver(&plain), Some([0, 1, 2, 3, 4, 5]));
        assert_eq!(sender(&plain), Some([6, 7, 8, 9, 10, 11]));
        assert_eq!(sender(&plain[..11]), None);
        assert!(is_for_all(&plain[1..]) && !is_for_all(&plain) && !is_for_all(&[]));
    }

    #[test]
    fn who_asks_for_the_address_is_told_whose_it_is() {
        let (asker, router) = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 2, 9));
        let asked = |address: Ipv4Addr| {
            let from = [10, 0, 2, 10];
            let to = address.octets();
            [
                &[0xff; 6][..],
                &asker,
                &QUESTION,
                &asker,
                &from,
                &[0; 6],
                &to,
            ]
            .concat()
        };
        let mac = [2, 0, 0, 0, 0, 9];
        let answer = arp_answer(&asked(router), router, mac).unwrap();
        assert_eq!(answer.len(), 42);
        assert_eq!((&answer[..6], &answer[6..12]), (&asker[..], &mac[..]));
        assert_eq!(answer[12..22], ANSWER);
        assert_eq!(answer[28..32], router.octets());
        assert!(is_for(&asked(router), router) && is_for(&answer, [10, 0, 2, 10].into()));
        assert!(!is_for(&answer, router) && !is_for(&answer[..40], [10, 0, 2, 10].into()));
        assert_eq!(arp_answer(&asked([10, 0, 2, 3].into()), router, mac), None);
        assert_eq!(arp_answer(&answer, router, mac), None);
    }

    #[test]
    fn questions_to_a_dhcp_server_are_told_from_other_packets() {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&IPV4);
        frame[14] = 0x45;
        frame[23] = UDP;
        frame[36..38].copy_from_slice(&DHCP_SERVER);
        assert!(asks_dhcp(&frame));
        frame[37] = 68;
        assert!(!asks_dhcp(&frame));
        assert!(!asks_dhcp(&frame[..20]));
        assert!(!asks_dhcp(&[]));
    }
}
