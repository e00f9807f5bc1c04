//! Waiting for the network: what is there, what is missing, what to do.
//!
//! networkd configures the links; this module looks at the outcome. A look is
//! the truth (interfaces and addresses from the kernel), networkd's signals are
//! hints that make the next look come sooner, and without networkd the looks
//! come by the clock alone. Waiting goes on for ever; each condition has its
//! own line on the consoles.

pub mod look;
pub mod own;
pub mod units;
pub mod way;

use std::collections::BTreeMap;
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

/// How long a linked card goes without an address before its questions start
/// over. networkd asks ever more seldom, at last once a minute; a server that
/// comes up late is to be heard within seconds. Longer than a server may think
/// about its first answer.
const ASK_ANEW: Duration = Duration::from_secs(10);

/// … and at most one with an IPv6 address and none of IPv4: asking anew costs it
/// that address for a moment, and an IPv6-only network needs no more.
const LONGEST_ASK_ANEW: Duration = Duration::from_secs(40);

/// Between looks for such cards.
const ASK_LOOK: Duration = Duration::from_secs(1);

/// An interface that may lead to the marketplace: a card, or what stands on
/// cards (VLAN, bond). Guests' bridge and taps are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    /// Switched on (`IFF_UP`); whether there is a link shows only then.
    pub up: bool,
    pub link: bool,
    /// Whether another interface stands on it (bond, VLAN), which then has the
    /// addresses; the guests' own apart.
    pub carries: bool,
    /// Whether it is the guests' alone.
    pub guests: bool,
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
    /// What the site file names is not there.
    Missing {
        wanted: Vec<String>,
        cards: Vec<String>,
    },
    NoLink {
        cards: Vec<String>,
    },
    NoAddress {
        linked: Vec<String>,
    },
}

/// How the network is configured, as far as waiting for it depends on that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The addresses that the site file gives; empty with DHCP.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that shall have the addresses; empty for any.
    pub interfaces: Vec<String>,
    /// The one that shall not, for it is the guests' own.
    pub guests: Option<String>,
}

impl Wanted {
    /// Whether this uplink is one that shall have the addresses.
    fn names(&self, uplink: &Uplink) -> bool {
        let any = self.interfaces.is_empty() && self.guests.as_ref() != Some(&uplink.name);
        any || self.interfaces.contains(&uplink.name)
    }

    /// The address by which this uplink does what is wanted.
    fn met_by(&self, uplink: &Uplink) -> Option<IpAddr> {
        let addresses = uplink.addresses.iter();
        addresses
            .filter(|_| self.names(uplink) && uplink.link)
            .filter(|address| self.addresses.is_empty() || self.addresses.contains(address))
            // A host with both is likelier to be expected by its IPv4 address.
            .min_by_key(|address| address.is_ipv6())
            .copied()
    }
}

/// What `uplinks` amount to.
pub fn judge(uplinks: &[Uplink], wanted: &Wanted) -> Network {
    let up = |uplink: &Uplink| {
        Some(Network::Up {
            interface: uplink.name.clone(),
            address: wanted.met_by(uplink)?,
        })
    };
    if let Some(up) = uplinks.iter().find_map(up) {
        return up;
    }
    let named = |of: &dyn Fn(&Uplink) -> bool| {
        uplinks
            .iter()
            .filter(|uplink| of(uplink))
            .map(|uplink| uplink.name.clone())
            .collect::<Vec<_>>()
    };
    // What a VLAN or a bond stands on has no addresses of its own.
    let meant = |uplink: &Uplink| wanted.names(uplink) && !uplink.carries;
    let linked = named(&|uplink| meant(uplink) && uplink.link);
    if uplinks.is_empty() {
        Network::NoCard
    } else if !uplinks.iter().any(|uplink| uplink.up) {
        Network::NotUp {
            cards: named(&|_| true),
        }
    } else if !uplinks.iter().any(meant) {
        Network::Missing {
            wanted: wanted.interfaces.clone(),
            cards: named(&|_| true),
        }
    } else if linked.is_empty() {
        Network::NoLink {
            cards: named(&meant),
        }
    } else {
        Network::NoAddress { linked }
    }
}

/// Where uplinks are looked at.
pub trait Links {
    fn look(&self) -> Vec<Uplink>;

    /// Ends when another look is due.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether addresses come by DHCP, as far as the site file is known.
    fn by_dhcp(&self) -> bool;

    /// Has an interface ask for its addresses anew, from the beginning.
    fn ask_anew(&self, interface: &str) -> impl Future<Output = ()> + Send;
}

/// Has linked cards that stay without an address ask anew, for ever; with DHCP
/// also those that stay without an IPv4 address, ever more seldom. Other cards
/// are left alone, and so is what a bond or a VLAN stands on.
pub async fn keep_asking(links: &impl Links) {
    // Since when, and for how long until it asks anew.
    let mut waiting = BTreeMap::<String, (Instant, Duration)>::new();
    loop {
        let now = Instant::now();
        let mut lacking = links.look();
        lacking.retain(|uplink| {
            uplink.link && !uplink.carries && !uplink.addresses.iter().any(IpAddr::is_ipv4)
        });
        waiting.retain(|name, _| lacking.iter().any(|uplink| uplink.name == *name));
        for uplink in lacking {
            let bare = uplink.addresses.is_empty();
            let (since, patience) = waiting
                .entry(uplink.name.clone())
                .or_insert((now, ASK_ANEW));
            if bare {
                *patience = ASK_ANEW;
            }
            if now.duration_since(*since) < *patience || !(bare || links.by_dhcp()) {
                continue;
            }
            *since = now;
            if !bare {
                *patience = LONGEST_ASK_ANEW.min(*patience * 2);
            }
            links.ask_anew(&uplink.name).await;
        }
        tokio::time::sleep(ASK_LOOK).await;
    }
}

/// Looks until the network is up; says what is missing meanwhile.
pub async fn wait_until_up(
    links: &mut impl Links,
    wanted: &Wanted,
    consoles: &dyn Announce,
) -> (String, IpAddr) {
    let started = Instant::now();
    let mut repeating = Repeating::default();
    loop {
        let network = judge(&links.look(), wanted);
        if let Network::Up { interface, address } = network {
            let stage = Stage::new("network")
                .with("interface", &interface)
                .with("address", address);
            consoles.say(stage);
            return (interface, address);
        }
        let patience = match network {
            Network::NoAddress { .. } => ADDRESS_PATIENCE,
            Network::NotUp { .. } | Network::Missing { .. } => UP_PATIENCE,
            _ => LINK_PATIENCE,
        };
        if started.elapsed() >= patience {
            let now = Instant::now().into_std();
            repeating.say(consoles, complaint(&network, wanted), now);
        }
        links.changed().await;
    }
}

fn complaint(network: &Network, wanted: &Wanted) -> Stage {
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
        Network::Missing { wanted, cards } => stage.with("cards", cards.join(",")).failed(
            format!("there is no {}, which the site file's network stands on", wanted.join(" and no ")),
            "compare [network] in the site file with the cards named here; the host goes on looking",
        ),
        Network::NoLink { cards } => stage.with("cards", cards.join(",")).failed(
            "no network card has a link",
            "plug in a cable, or switch on the port at the other end; the host goes on looking",
        ),
        Network::NoAddress { linked } if !wanted.addresses.is_empty() => {
            stage.with("cards", linked.join(",")).failed(
                "the addresses in the site file could not be set on any card",
                "compare [network] in the site file with the cards named here; the host goes on looking",
            )
        }
        Network::NoAddress { linked } if !wanted.interfaces.is_empty() => {
            stage.with("cards", linked.join(",")).failed(
                format!(
                    "no DHCP server answers on {}, and no router announces an IPv6 network there",
                    linked.join(" or ")
                ),
                "compare [network] in the site file with the switch's port: its VLAN, and LACP for a bond; the host goes on asking",
            )
        }
        Network::NoAddress { linked } => stage.with("cards", linked.join(",")).failed(
            "no DHCP server answers, and no router announces an IPv6 network",
            "start a DHCP server on this network, or give addresses under [network] in the site file; the host goes on asking",
        ),
    }
}

#[cfg(test)]
mod tests;
