//! Waiting for the network: what is there, what is missing, what to do.
//!
//! networkd configures the links; this module looks at the outcome. A look is
//! the truth (interfaces and addresses from the kernel), networkd's signals are
//! hints that make the next look come sooner, and without networkd the looks
//! come by the clock alone. Waiting goes on for ever; each condition has its
//! own line on the consoles.

pub mod look;
pub mod units;

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use surplus_stage::Stage;
use tokio::time::Instant;

use crate::stages::{Announce, Repeating};

/// How long drivers and cables get before their absence is worth a line.
const LINK_PATIENCE: Duration = Duration::from_secs(5);

/// … and networkd, which starts beside the agent.
const UP_PATIENCE: Duration = Duration::from_secs(20);

/// … and a DHCP server, whose switch port may still be learning (STP).
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);

/// An interface that may lead to the marketplace: a card, or what stands on
/// cards (VLAN, bond). Guests' bridge and taps are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    /// Switched on (`IFF_UP`); whether there is a link shows only then.
    pub up: bool,
    pub link: bool,
    /// Addresses that reach further than the cable: no loopback, no link-local.
    pub addresses: Vec<IpAddr>,
}

/// The network, as far as a look shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    Up {
        interface: String,
        address: IpAddr,
    },
    NoCard,
    /// networkd has not switched any card on: only then is a link seen.
    NotUp {
        cards: Vec<String>,
    },
    NoLink {
        cards: Vec<String>,
    },
    NoAddress {
        linked: Vec<String>,
    },
}

/// What `uplinks` amount to.
pub fn judge(uplinks: &[Uplink]) -> Network {
    let up = |uplink: &Uplink| {
        // A host with both is likelier to be expected by its IPv4 address.
        let address = uplink
            .addresses
            .iter()
            .min_by_key(|address| address.is_ipv6())?;
        Some(Network::Up {
            interface: uplink.name.clone(),
            address: *address,
        })
    };
    if let Some(up) = uplinks.iter().filter(|uplink| uplink.link).find_map(up) {
        return up;
    }
    let names = |of: &dyn Fn(&Uplink) -> bool| {
        uplinks
            .iter()
            .filter(|uplink| of(uplink))
            .map(|uplink| uplink.name.clone())
            .collect::<Vec<_>>()
    };
    let linked = names(&|uplink| uplink.link);
    match (uplinks.is_empty(), linked.is_empty()) {
        (true, _) => Network::NoCard,
        (false, true) if uplinks.iter().any(|uplink| uplink.up) => Network::NoLink {
            cards: names(&|_| true),
        },
        (false, true) => Network::NotUp {
            cards: names(&|_| true),
        },
        (false, false) => Network::NoAddress { linked },
    }
}

/// How the network is configured, as far as advice depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    Dhcp,
    /// The site file gives addresses.
    Static,
}

/// Where uplinks are looked at.
pub trait Links {
    fn look(&self) -> Vec<Uplink>;

    /// Ends when another look is due.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Looks until the network is up; says what is missing meanwhile.
pub async fn wait_until_up(
    links: &mut impl Links,
    configured: Configured,
    consoles: &dyn Announce,
) -> (String, IpAddr) {
    let started = Instant::now();
    let mut repeating = Repeating::default();
    loop {
        let network = judge(&links.look());
        if let Network::Up { interface, address } = network {
            let stage = Stage::new("network")
                .with("interface", &interface)
                .with("address", address);
            consoles.say(stage);
            return (interface, address);
        }
        let patience = match network {
            Network::NoAddress { .. } => ADDRESS_PATIENCE,
            Network::NotUp { .. } => UP_PATIENCE,
            _ => LINK_PATIENCE,
        };
        if started.elapsed() >= patience {
            let now = Instant::now().into_std();
            repeating.say(consoles, complaint(&network, configured), now);
        }
        links.changed().await;
    }
}

fn complaint(network: &Network, configured: Configured) -> Stage {
    let stage = Stage::new("network");
    match network {
        Network::Up { .. } => stage,
        Network::NoCard => stage.failed(
            "this machine has no network card that the kernel knows",
            "put in a card, or switch it on in the firmware's setup; the host goes on looking",
        ),
        Network::NotUp { cards } => stage.with("cards", cards.join(",")).failed(
            "systemd-networkd has not switched any network card on",
            "wait; if it stays so, restart the host and report what the console shows; the host goes on looking",
        ),
        Network::NoLink { cards } => stage.with("cards", cards.join(",")).failed(
            "no network card has a link",
            "plug in a cable, or switch on the port at the other end; the host goes on looking",
        ),
        Network::NoAddress { linked } if configured == Configured::Static => {
            stage.with("cards", linked.join(",")).failed(
                "the addresses in the site file could not be set on any card",
                "compare [network] in the site file with the cards named here; the host goes on looking",
            )
        }
        Network::NoAddress { linked } => stage.with("cards", linked.join(",")).failed(
            "no DHCP server answers",
            "start a DHCP server on this network, or give addresses under [network] in the site file; the host goes on asking",
        ),
    }
}

#[cfg(test)]
mod tests;
