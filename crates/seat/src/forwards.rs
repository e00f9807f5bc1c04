//! The map of forwarded ports in the host's packet filter, for nft(8).
//!
//! The map is written as a whole or changed piece by piece, each in one transaction,
//! so that no connection sees half of it. What was written has a number, which lies
//! beside the map: a change names the one that it stands on, and where that is not
//! there (another filter was loaded meanwhile, another hand wrote the map) all of it is
//! refused.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::Ipv4Addr;

/// A guest's port by the host's: transport and number to address and number.
pub type PortMap<T> = BTreeMap<(T, u16), (Ipv4Addr, u16)>;

const FORWARDS: &str = "inet surplus_forwards forwards";
const WRITTEN: &str = "inet surplus_forwards written";

/// The map in place of whatever there is, under this number.
pub fn whole<T: Display>(map: &PortMap<T>, number: u32) -> String {
    let mut text = format!("flush set {WRITTEN}\nflush map {FORWARDS}\n");
    elements(&mut text, "add", FORWARDS, map.iter().map(forward));
    elements(&mut text, "add", WRITTEN, [number.to_string()]);
    text
}

/// What makes the map `to` of the map `from`, which was written under this number,
/// and gives it the next one.
pub fn changes<T: Display + Ord>(from: &PortMap<T>, to: &PortMap<T>, number: u32) -> String {
    let only = |one: &PortMap<T>, other: &PortMap<T>| {
        let differ = one.iter().filter(|(key, to)| other.get(key) != Some(to));
        differ.map(forward).collect::<Vec<_>>()
    };
    let mut text = String::new();
    elements(&mut text, "delete", WRITTEN, [number.to_string()]);
    elements(&mut text, "delete", FORWARDS, only(from, to));
    elements(&mut text, "add", FORWARDS, only(to, from));
    elements(&mut text, "add", WRITTEN, [next(number).to_string()]);
    text
}

/// The number that follows this one.
pub fn next(number: u32) -> u32 {
    number.wrapping_add(1)
}

fn forward<T: Display>(entry: (&(T, u16), &(Ipv4Addr, u16))) -> String {
    let ((transport, host), (address, guest)) = entry;
    format!("{transport} . {host} : {address} . {guest}")
}

fn elements(text: &mut String, verb: &str, of: &str, all: impl IntoIterator<Item = String>) {
    let all: Vec<_> = all.into_iter().collect();
    if !all.is_empty() {
        _ = writeln!(text, "{verb} element {of} {{ {} }}", all.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(u16, u16)]) -> PortMap<&'static str> {
        let entries = entries.iter();
        entries
            .map(|(host, guest)| (("tcp", *host), (Ipv4Addr::new(10, 121, 1, 2), *guest)))
            .collect()
    }

    #[test]
    fn the_whole_map_replaces_what_was_there() {
        let begins = "flush set inet surplus_forwards written\n\
                      flush map inet surplus_forwards forwards\n";
        assert_eq!(
            whole(&map(&[]), 7),
            format!("{begins}add element inet surplus_forwards written {{ 7 }}\n")
        );
        assert_eq!(
            whole(&map(&[(16_400, 22), (16_401, 80)]), 7),
            format!(
                "{begins}add element inet surplus_forwards forwards {{ \
                 tcp . 16400 : 10.121.1.2 . 22, tcp . 16401 : 10.121.1.2 . 80 }}\n\
                 add element inet surplus_forwards written {{ 7 }}\n"
            )
        );
    }

    #[test]
    fn a_change_is_what_differs_and_stands_on_its_number() {
        let from = map(&[(16_400, 22), (16_401, 80), (16_402, 81)]);
        let to = map(&[(16_400, 22), (16_401, 8080), (16_403, 53)]);
        assert_eq!(
            changes(&from, &to, u32::MAX),
            "delete element inet surplus_forwards written { 4294967295 }\n\
             delete element inet surplus_forwards forwards { \
             tcp . 16401 : 10.121.1.2 . 80, tcp . 16402 : 10.121.1.2 . 81 }\n\
             add element inet surplus_forwards forwards { \
             tcp . 16401 : 10.121.1.2 . 8080, tcp . 16403 : 10.121.1.2 . 53 }\n\
             add element inet surplus_forwards written { 0 }\n"
        );
    }
}
