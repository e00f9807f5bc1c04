//! What the host's packet filter and DHCP server are told of the seats.

use crate::{Seat, floating};

/// Elements of the sets of the table that guards the guests' ports, for nft(8):
/// `seats` (interface and MAC address), `addresses` (interface and IPv4 address),
/// `addresses6` (interface and both IPv6 addresses), `cards` (interface and MAC
/// address, as a number).
pub fn packet_filter() -> String {
    let seats = Seat::all().map(|seat| format!("{} . {}", seat.interface(), seat.mac()));
    let addresses = Seat::all().map(|seat| format!("{} . {}", seat.interface(), seat.ipv4()));
    let addresses6 = Seat::all().flat_map(|seat| {
        let both = [seat.ipv6(), seat.link_local()];
        both.map(|address| format!("{} . {address}", seat.interface()))
    });
    let cards = Seat::all().map(|seat| {
        let mac = seat.mac().replace(':', "");
        format!("{} . 0x{mac}", seat.interface())
    });
    let mut text = String::from("# Every seat of a guest. Made when the image is built.\n");
    for (set, elements) in [
        ("seats", seats.collect::<Vec<_>>()),
        ("addresses", addresses.collect()),
        ("addresses6", addresses6.collect()),
        ("cards", cards.collect()),
    ] {
        let elements = elements.join(",\n\t");
        text.push_str(&format!(
            "add element bridge surplus_guests {set} {{\n\t{elements}\n}}\n"
        ));
    }
    text + &floating::packet_filter()
}

/// Each seat's address, for the DHCP server of systemd-networkd
/// (systemd.network(5)).
pub fn dhcp_leases() -> String {
    let mut text = String::from("# Every seat of a guest. Made when the image is built.\n");
    for seat in Seat::all() {
        text.push_str(&format!(
            "\n[DHCPServerStaticLease]\nMACAddress={}\nAddress={}\n",
            seat.mac(),
            seat.ipv4()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seat_is_told_to_both() {
        let filter = packet_filter();
        for told in [
            "sg1 . 02:53:55:52:00:01,",
            "sg250 . 10.121.1.250\n",
            "sg250 . fdc9:50a5:3ed9::1:fa,",
            "sg250 . fe80::53:55ff:fe52:fa\n",
            "sg2 . 0x025355520002,",
        ] {
            assert!(filter.contains(told), "{told}");
        }
        assert!(dhcp_leases().ends_with("MACAddress=02:53:55:52:00:fa\nAddress=10.121.1.250\n"));
    }
}
