//! Whether guests get out, where the site file gives them a network of their own.
//!
//! networkd sets that up and holds it; this module looks at the outcome. What always
//! holds: where they do not get out, nothing is offered, and console and offer say
//! why. Guests that run then stay: they wait, as behind a cable that was pulled.

use std::net::IpAddr;
use std::time::Duration;

use surplus_stage::Stage;
use surplus_trial::leaving;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ADDRESS_PATIENCE, Links, Network, Uplink, Wanted, judge};
use crate::stages::{Announcer, Repeating};

/// Between looks.
const LOOK: Duration = Duration::from_secs(1);

/// Why guests do not get out, and what to do; `leaving` are the addresses that they
/// leave under.
pub fn problem(uplinks: &[Uplink], wanted: &Wanted, leaving: &[IpAddr]) -> Option<String> {
    let wanted_name = wanted.interfaces.join(" or ");
    let (what, next) = match judge(uplinks, wanted) {
        Network::Up { interface, .. } => {
            let uplink = uplinks.iter().find(|uplink| uplink.name == interface)?;
            if !uplink.guests {
                (
                    format!("networkd has not yet set {interface} apart for them"),
                    "wait; if it stays so, restart the host and report what the console shows",
                )
            } else if leaving
                .iter()
                .any(|address| uplink.addresses.contains(address))
            {
                return None;
            } else {
                (
                    format!("no router is known on {interface}"),
                    "let its DHCP server name one, or give address and gateway under [guests.network] in the site file",
                )
            }
        }
        Network::NoAddress { .. } if !wanted.addresses.is_empty() => (
            format!("the addresses under [guests.network] could not be set on {wanted_name}"),
            "compare them with the other addresses in the site file",
        ),
        Network::NoAddress { .. } => (
            format!(
                "no DHCP server answers on {wanted_name}, and no router announces an IPv6 network there"
            ),
            "compare [guests.network] in the site file with the switch's port: its VLAN, and LACP for a bond; the host goes on asking",
        ),
        Network::NoLink { .. } => (
            format!("{wanted_name} has no link"),
            "plug in a cable, or switch on the port at the other end",
        ),
        Network::NoCard | Network::NotUp { .. } | Network::Missing { .. } => (
            format!("there is no {wanted_name}"),
            "compare [guests.network] in the site file with the host's cards, and boot it again",
        ),
    };
    Some(format!("guests have no way out: {what}; {next}"))
}

/// Looks whether guests get out, and says when that changes.
#[derive(Debug)]
pub struct Watch<L> {
    pub links: L,
    pub wanted: Wanted,
    pub consoles: Announcer,
    pub say: watch::Sender<Option<String>>,
}

impl<L: Links> Watch<L> {
    /// Looks once.
    pub fn look(&self) -> Option<String> {
        let problem = problem(&self.links.look(), &self.wanted, &leaving::addresses());
        self.say.send_if_modified(|last| {
            let changed = *last != problem;
            last.clone_from(&problem);
            changed
        });
        problem
    }

    /// Looks for ever.
    pub async fn run(self) {
        let mut repeating = Repeating::default();
        let mut good = Instant::now();
        loop {
            match self.look() {
                None => good = Instant::now(),
                Some(why) if good.elapsed() >= ADDRESS_PATIENCE => {
                    let (what, next) = why.split_once("; ").unwrap_or((&why, "wait"));
                    let stage = Stage::new("network").failed(what, next);
                    repeating.say(&*self.consoles, stage, Instant::now().into_std());
                }
                Some(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests;
