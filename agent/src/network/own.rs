//! Guests' own addresses: which seats have one.
//!
//! networkd asks for them and holds them; this module looks at the outcome. What
//! always holds: an address is offered only while it is there. A guest whose address
//! went away keeps its seat and waits, as behind a cable that was pulled.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use surplus_seat::Seat;
use surplus_stage::Stage;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ADDRESS_PATIENCE, look};
use crate::stages::{Announcer, Repeating};

/// Between looks.
const LOOK: Duration = Duration::from_secs(1);

/// The seats that have addresses of their own now, and which.
pub fn addresses() -> BTreeMap<Seat, Vec<IpAddr>> {
    let all = look::addresses().into_iter();
    all.filter_map(|(name, addresses)| Some((Seat::of_own_interface(&name)?, addresses)))
        .collect()
}

/// Says how many of the `wanted` there are, whenever that changes, and on the consoles
/// while any is missing; for ever.
pub async fn watch(wanted: u16, consoles: Announcer, say: watch::Sender<u32>) {
    let mut repeating = Repeating::default();
    let mut good = Instant::now();
    loop {
        let there = u32::try_from(addresses().len()).unwrap_or(u32::MAX);
        say.send_if_modified(|last| std::mem::replace(last, there) != there);
        if there >= wanted.into() {
            good = Instant::now();
        } else if good.elapsed() >= ADDRESS_PATIENCE {
            let stage = missing(there, wanted);
            repeating.say(&*consoles, stage, Instant::now().into_std());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn missing(there: u32, wanted: u16) -> Stage {
    Stage::new("network").failed(
        format!("{there} of guests' {wanted} own addresses are there"),
        "compare the DHCP server's free addresses, and what the switch's port lets through, \
         with `addresses` under [guests] in the site file; the host goes on asking and offers \
         those that it has",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let line = missing(2, 4).line(0.0);
        assert!(line.contains("2 of guests' 4 own addresses"), "{line}");
        assert!(line.contains("`addresses` under [guests]"), "{line}");
    }
}
