//! Which host takes a guest: deterministic, and able to say why not.

use std::collections::BTreeMap;

use jiff::Timestamp;
use surplus_protocol::api::{HostState, PriceBook};
use surplus_protocol::ids::HostId;
use surplus_protocol::inventory::{Inventory, KvmProbe, Resources};

use crate::capacity::{Room, amount};
use crate::presence::Presence;
use crate::pricing;
use crate::records::{HostRecord, LeaseRecord};

/// A host and what stands on it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    pub host: &'a HostRecord,
    pub unreachable: bool,
    /// What its live leases were sold.
    pub sold: Vec<Resources>,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub resources: Resources,
    /// Only hosts of this site.
    pub site: Option<&'a str>,
}

/// No host takes the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no host has room for the guest")]
pub struct Nowhere {
    /// One sentence for each host.
    pub reasons: Vec<String>,
    /// The change that would cost the buyer least, where one would do.
    pub cheapest: Option<String>,
}

impl Candidate<'_> {
    /// The room on this host, or the one reason why it sells nothing at all.
    ///
    /// # Errors
    ///
    /// That reason, in one sentence.
    pub fn room(&self) -> Result<Room, String> {
        match self.host.state {
            HostState::Enrolled => {}
            HostState::Quarantined => return Err("is quarantined".to_owned()),
            HostState::Pending => return Err("waits to be approved".to_owned()),
            HostState::Rejected => return Err("was turned away".to_owned()),
        }
        if self.unreachable {
            return Err("is silent".to_owned());
        }
        let (Some(inventory), Some(capacity)) = (&self.host.inventory, &self.host.capacity) else {
            return Err("has not said yet what it offers".to_owned());
        };
        if let Some(why) = &capacity.withheld {
            return Err(format!("offers nothing: {why}"));
        }
        accelerator(inventory)?;
        Ok(Room::new(capacity, self.sold.iter().copied()))
    }

    /// Whether this host calls, and may be about to offer what it does not yet.
    pub fn is_undecided(&self, wish: Wish<'_>) -> bool {
        let HostRecord {
            state,
            site,
            inventory,
            capacity,
            ..
        } = self.host;
        let asked = *state == HostState::Enrolled && wish.site.is_none_or(|wanted| wanted == site);
        let probing = |of: &Inventory| of.kvm == KvmProbe::Pending;
        let silent_on_it = capacity.is_none() || inventory.as_ref().is_none_or(probing);
        asked && !self.unreachable && silent_on_it
    }
}

/// The hosts that may be asked, each with what it sold of the `live` leases.
pub fn candidates<'a>(
    hosts: &'a [HostRecord],
    live: &[LeaseRecord],
    presence: &Presence,
    now: Timestamp,
) -> Vec<Candidate<'a>> {
    let mut sold = BTreeMap::<HostId, Vec<Resources>>::new();
    for lease in live.iter().filter(|lease| lease.reserves(now)) {
        sold.entry(lease.host).or_default().push(lease.resources);
    }
    let asked = |host: &&HostRecord| {
        use HostState::{Enrolled, Quarantined};
        matches!(host.state, Enrolled | Quarantined)
    };
    hosts
        .iter()
        .filter(asked)
        .map(|host| Candidate {
            host,
            unreachable: presence.is_unreachable(host, now),
            sold: sold.remove(&host.id).unwrap_or_default(),
        })
        .collect()
}

/// How guests run on a host: `kvm` or `emulation`.
///
/// # Errors
///
/// Why none can, in one sentence.
pub fn accelerator(inventory: &Inventory) -> Result<&'static str, String> {
    match &inventory.kvm {
        KvmProbe::Works { .. } => Ok("kvm"),
        KvmProbe::Emulated => Ok("emulation"),
        KvmProbe::Pending => Err("is still trying whether a guest runs".to_owned()),
        KvmProbe::Fails { reason } => Err(format!("cannot run a guest: {reason}")),
    }
}

/// The host that takes the guest: the one that is left with the least memory,
/// so that large room stays whole; among equals the lowest id.
///
/// # Errors
///
/// [`Nowhere`] with each host's reason.
pub fn choose(
    candidates: &[Candidate<'_>],
    wish: Wish<'_>,
    book: &PriceBook,
) -> Result<HostId, Nowhere> {
    let mut best: Option<(u64, HostId)> = None;
    let mut reasons = Vec::new();
    let mut changes = Vec::new();
    for candidate in candidates {
        let host = candidate.host;
        let named = |why: &str| format!("host {} (site {}) {why}", host.id, host.site);
        if wish.site.is_some_and(|site| site != host.site) {
            reasons.push(named("is of another site"));
            continue;
        }
        let room = match candidate.room() {
            Ok(room) => room,
            Err(why) => {
                reasons.push(named(&why));
                continue;
            }
        };
        let short = room.why_not(wish.resources);
        if short.is_empty() {
            let left = room.free().memory_bytes - wish.resources.memory_bytes;
            let this = (left, host.id);
            best = Some(best.map_or(this, |best| best.min(this)));
            continue;
        }
        let short: Vec<_> = short.iter().map(ToString::to_string).collect();
        reasons.push(named(&format!("is too small: {}", short.join("; "))));
        let would_fit = smaller(wish.resources, room.free());
        if would_fit.vcpus > 0 && would_fit.memory_bytes > 0 {
            let lost = pricing::window(book, wish.resources, 3600).0
                - pricing::window(book, would_fit, 3600).0;
            changes.push((lost, host.id, would_fit));
        }
    }
    if let Some((_, host)) = best {
        return Ok(host);
    }
    let cheapest = changes
        .into_iter()
        .min_by_key(|(lost, host, _)| (*lost, *host));
    Err(Nowhere {
        reasons,
        cheapest: cheapest.map(|(_, host, fits)| {
            format!(
                "ask for {} vCPUs, {} of memory and {} of disk{}: host {host} has room for that",
                fits.vcpus,
                amount(fits.memory_bytes),
                amount(fits.disk_bytes),
                if fits.addresses < wish.resources.addresses {
                    ", behind the host's address"
                } else {
                    ""
                }
            )
        }),
    })
}

/// The smaller of both in each resource.
fn smaller(a: Resources, b: Resources) -> Resources {
    Resources {
        vcpus: a.vcpus.min(b.vcpus),
        memory_bytes: a.memory_bytes.min(b.memory_bytes),
        disk_bytes: a.disk_bytes.min(b.disk_bytes),
        addresses: a.addresses.min(b.addresses),
    }
}

#[cfg(test)]
mod tests;
