//! The IPv6 addresses that there are: those that the kernel made for itself from
//! what routers announce, those of DHCPv6, and each link's own.
//!
//! Source: the format of `/proc/net/if_inet6` in net/ipv6/addrconf.c, flags in
//! include/uapi/linux/if_addr.h.

use std::fs;
use std::net::Ipv6Addr;

const GLOBAL: u8 = 0;
const LINK: u8 = 0x20;
const OPTIMISTIC: u32 = 0x04;
const FAILED: u32 = 0x08;
const TENTATIVE: u32 = 0x40;

/// Interface and address of what can be used now, on its own link or beyond.
pub(crate) fn addresses() -> Vec<(String, Ipv6Addr)> {
    fs::read_to_string("/proc/net/if_inet6")
        .unwrap_or_default()
        .lines()
        .filter_map(parse)
        .collect()
}

/// Address, interface's index, prefix length, scope, flags, interface's name.
fn parse(line: &str) -> Option<(String, Ipv6Addr)> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let [address, _, _, scope, flags, name] = words[..] else {
        return None;
    };
    let scope = u8::from_str_radix(scope, 16).ok()?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let unsure = flags & TENTATIVE != 0 && flags & OPTIMISTIC == 0;
    if ![GLOBAL, LINK].contains(&scope) || unsure || flags & FAILED != 0 || address.len() != 32 {
        return None;
    }
    let bits = u128::from_str_radix(address, 16).ok()?;
    Some((name.to_owned(), Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sure_addresses_count() {
        let global = "fd770000000000005054000001020304 02 40 00 00     eth0";
        let address = "fd77::5054:0:102:304".parse().unwrap();
        assert_eq!(parse(global), Some(("eth0".into(), address)));
        let link = "fe800000000000005054000001020304 02 40 20 80     eth0";
        let address = "fe80::5054:0:102:304".parse().unwrap();
        assert_eq!(parse(link), Some(("eth0".into(), address)));
        for line in [
            "fe800000000000005054000001020304 02 40 20 c0     eth0",
            "00000000000000000000000000000001 01 80 10 80       lo",
            "fd770000000000005054000001020304 02 40 00 40     eth0",
            "fd770000000000005054000001020304 02 40 00 48     eth0",
            "fd77 02 40 00 00 eth0",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
