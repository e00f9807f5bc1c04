//! Records as the interface shows them.

use jiff::Timestamp;
use surplus_protocol::api::{self, Offer, PriceBook, Quote};
use surplus_protocol::inventory::Resources;

use crate::lease::FormerPlacement;
use crate::placement::{self, Candidate};
use crate::presence::Presence;
use crate::pricing;
use crate::records::{HostRecord, ImageRecord, KeyRecord, LeaseRecord};

const MIB: u64 = 1 << 20;

/// A host, with what is left of it beside its `live` leases.
pub fn host(
    host: &HostRecord,
    live: &[LeaseRecord],
    presence: &Presence,
    now: Timestamp,
) -> api::Host {
    let candidate = candidate(host, live, presence, now);
    let leases = candidate.sold.len();
    api::Host {
        id: host.id,
        state: host.state,
        detail: host.detail.clone(),
        site: host.site.clone(),
        rack: host.rack.clone(),
        key_storage: host.key_storage.clone(),
        identity: host.identity.clone(),
        cpu_model: host.cpu_model.clone(),
        memory_bytes: host.memory_bytes,
        address: host.address,
        admitted_by: host.admitted_by.clone(),
        enrolled_at: host.enrolled_at,
        certificate_expires_at: host.certificate_expires_at,
        last_seen_at: presence.last_seen(host),
        unreachable: candidate.unreachable,
        inventory: host.inventory.clone(),
        capacity: host.capacity.clone(),
        free: free(&candidate),
        leases: u32::try_from(leases).unwrap_or(u32::MAX),
    }
}

/// What a host offers now; none where it sells nothing.
pub fn offer(
    host: &HostRecord,
    live: &[LeaseRecord],
    presence: &Presence,
    now: Timestamp,
    book: &PriceBook,
) -> Option<Offer> {
    let free = free(&candidate(host, live, presence, now));
    let inventory = host.inventory.as_ref()?;
    if free.vcpus == 0 || free.memory_bytes == 0 {
        return None;
    }
    Some(Offer {
        host: host.id,
        site: host.site.clone(),
        free,
        cpu_model: inventory.cpu.model.clone(),
        accelerator: placement::accelerator(inventory).ok()?.to_owned(),
        guest_mbits: host.capacity.as_ref()?.guest_mbits,
        guest_disk: host.capacity.as_ref()?.guest_disk,
        price_per_hour: pricing::window(book, free, 3600),
        currency: book.currency.clone(),
    })
}

fn candidate<'a>(
    host: &'a HostRecord,
    live: &[LeaseRecord],
    presence: &Presence,
    now: Timestamp,
) -> Candidate<'a> {
    let mine = live
        .iter()
        .filter(|lease| lease.host == host.id && lease.reserves(now));
    Candidate {
        host,
        unreachable: presence.is_unreachable(host, now),
        sold: mine.map(|lease| lease.resources).collect(),
    }
}

/// The largest guest that can be bought: memory is sold in whole MiB.
fn free(candidate: &Candidate<'_>) -> Resources {
    let free = candidate.room().map(|room| room.free()).unwrap_or_default();
    Resources {
        memory_bytes: free.memory_bytes / MIB * MIB,
        ..free
    }
}

/// A quote that was just made.
pub fn quote(lease: &LeaseRecord) -> Quote {
    Quote {
        id: lease.quote,
        host: lease.host,
        site: lease.site.clone(),
        resources: lease.resources,
        seconds: lease.seconds,
        price: lease.price,
        currency: lease.currency.clone(),
        price_book: lease.price_book,
        expires_at: lease.quote_expires_at,
    }
}

/// A lease; none for a mere quote.
pub fn lease(lease: &LeaseRecord, unreachable: bool) -> Option<api::Lease> {
    let guest = lease.guest.as_ref()?;
    Some(api::Lease {
        id: lease.id,
        name: guest.name.clone(),
        state: lease.life.state,
        epoch: lease.life.epoch,
        host: lease.host,
        site: lease.site.clone(),
        former: lease.life.former.iter().map(former).collect(),
        resources: lease.resources,
        image: guest.image,
        on_lost_link: lease.on_lost_link,
        phase: lease.phase.filter(|_| lease.life.is_live()),
        detail: lease.detail.clone(),
        addresses: lease.addresses.clone(),
        forwards: if lease.life.is_placed() {
            lease.forwards.clone()
        } else {
            Vec::new()
        },
        unreachable: unreachable && lease.life.is_live() && lease.life.lost.is_none(),
        end_reason: lease.life.end_reason,
        disk: lease.disk.filter(|_| !lease.life.is_live()),
        created_at: lease.created_at,
        started_at: lease.life.started_at,
        ends_at: lease.ends_at,
        ended_at: lease.life.ended_at,
        price: lease.price,
        currency: lease.currency.clone(),
    })
}

fn former(placement: &FormerPlacement) -> api::FormerPlacement {
    api::FormerPlacement {
        epoch: placement.epoch,
        host: placement.host,
        reason: placement.reason,
        gone_at: placement.gone_at,
    }
}

/// An image.
pub fn image(image: &ImageRecord) -> api::Image {
    api::Image {
        digest: image.digest,
        name: image.name.clone(),
        format: image.format,
        size_bytes: image.size_bytes,
        virtual_bytes: image.virtual_bytes,
        added_at: image.added_at,
    }
}

/// An API key, without its hash.
pub fn key(key: &KeyRecord) -> api::Key {
    api::Key {
        id: key.id,
        name: key.name.clone(),
        role: key.role,
        created_at: key.created_at,
    }
}
