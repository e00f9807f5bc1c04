//! The host's table of connections with the outside, as far as a seat's are in it, for
//! conntrack(8).

use crate::Seat;

/// Forgets all of a seat's, one command a line (`--load-file`): a guest is the sender of
/// those that it began, and the one who answers in those that were handed on to it.
pub fn forget(seat: Seat) -> String {
    let (ipv4, ipv6) = (seat.ipv4(), seat.ipv6());
    format!(
        "--delete --family ipv4 --orig-src {ipv4}\n\
         --delete --family ipv4 --reply-src {ipv4}\n\
         --delete --family ipv6 --orig-src {ipv6}\n\
         --delete --family ipv6 --reply-src {ipv6}\n"
    )
}
