//! The kernel's neighbours (`/proc/net/arp`, proc(5)).

use std::fs;
use std::net::IpAddr;

use crate::hardware::Mac;

pub(super) fn look_up(address: IpAddr) -> Option<Mac> {
    find(&fs::read_to_string("/proc/net/arp").ok()?, address)
}

fn find(table: &str, address: IpAddr) -> Option<Mac> {
    let address = address.to_string();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [ip, _, flags, mac, ..] = fields[..] else {
            return None;
        };
        // Flags 0: asked for, and not answered yet.
        (ip == address && flags != "0x0").then(|| mac.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_found_once_it_has_answered() {
        let table = "IP address HW type Flags HW address Mask Device\n\
             10.77.0.50  0x1  0x2  52:54:00:12:34:56  *  br0\n\
             10.77.0.51  0x1  0x0  00:00:00:00:00:00  *  br0\n";
        let found = |address: &str| find(table, address.parse().unwrap());
        assert_eq!(found("10.77.0.50"), "52:54:00:12:34:56".parse().ok());
        assert_eq!(found("10.77.0.51"), None);
        assert_eq!(found("10.77.0.5"), None);
    }
}
