//! What a host has left to sell.
//!
//! Every live lease takes its resources plus the host's overhead for a guest.
//! What always holds: a host is never sold beyond `sellable`, and its last byte
//! can be sold.

use surplus_protocol::inventory::{Capacity, Resources};

/// One resource that does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub resource: &'static str,
    pub wanted: u64,
    pub free: u64,
}

/// What is sellable on a host and what of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    sellable: Resources,
    overhead: Resources,
    taken: Resources,
}

impl Room {
    /// The room on a host whose live leases were sold `leases`.
    pub fn new(capacity: &Capacity, leases: impl IntoIterator<Item = Resources>) -> Self {
        let overhead = capacity.guest_overhead;
        let taken = leases.into_iter().fold(Resources::default(), |sum, lease| {
            sum.saturating_add(lease).saturating_add(overhead)
        });
        Self {
            sellable: capacity.sellable,
            overhead,
            taken,
        }
    }

    /// The largest guest that fits now; all zero where none does. A host that
    /// lowered what it sells below what it sold has nothing free.
    pub fn free(&self) -> Resources {
        self.sellable
            .checked_sub(self.taken)
            .and_then(|left| left.checked_sub(self.overhead))
            .unwrap_or_default()
    }

    /// Each resource of which a guest wants more than is free; empty: it fits.
    pub fn why_not(&self, guest: Resources) -> Vec<Shortfall> {
        let free = self.free();
        [
            ("vCPUs", u64::from(guest.vcpus), u64::from(free.vcpus)),
            ("memory", guest.memory_bytes, free.memory_bytes),
            ("disk", guest.disk_bytes, free.disk_bytes),
            (
                "addresses",
                u64::from(guest.addresses),
                u64::from(free.addresses),
            ),
        ]
        .into_iter()
        .filter(|(_, wanted, free)| wanted > free)
        .map(|(resource, wanted, free)| Shortfall {
            resource,
            wanted,
            free,
        })
        .collect()
    }

    /// Takes the guest's share, where it fits.
    #[must_use]
    pub fn take(mut self, guest: Resources) -> Option<Self> {
        if !self.why_not(guest).is_empty() {
            return None;
        }
        self.taken = self
            .taken
            .saturating_add(guest)
            .saturating_add(self.overhead);
        Some(self)
    }
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            resource,
            wanted,
            free,
        } = self;
        match *resource {
            "vCPUs" => write!(f, "{wanted} vCPUs wanted, {free} free"),
            "addresses" => write!(f, "{wanted} own address wanted, {free} free"),
            _ => write!(
                f,
                "{} of {resource} wanted, {} free",
                amount(*wanted),
                amount(*free)
            ),
        }
    }
}

/// Bytes for people, exact: the largest unit that divides them, else bytes.
pub fn amount(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{} {unit}", bytes / size);
        }
    }
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20)] {
        if bytes >= size {
            let tenths = u128::from(bytes) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resources(max: u64) -> impl Strategy<Value = Resources> {
        (0_u32..64, 0..max, 0..max, 0_u32..9).prop_map(
            |(vcpus, memory_bytes, disk_bytes, addresses)| Resources {
                vcpus,
                memory_bytes,
                disk_bytes,
                addresses,
            },
        )
    }

    fn capacity() -> impl Strategy<Value = Capacity> {
        (resources(1 << 40), resources(1 << 30)).prop_map(|(sellable, guest_overhead)| Capacity {
            sellable,
            guest_overhead: Resources {
                vcpus: 0,
                addresses: 0,
                ..guest_overhead
            },
            ..Capacity::default()
        })
    }

    proptest! {
        #[test]
        fn a_host_is_never_oversold(
            capacity in capacity(),
            guests in prop::collection::vec(resources(1 << 39), 0..30),
        ) {
            let mut sold = Vec::new();
            for guest in guests {
                if let Some(_room) = Room::new(&capacity, sold.iter().copied()).take(guest) {
                    sold.push(guest);
                }
            }
            // The rest goes to one more guest, so that each byte counts.
            let rest = Room::new(&capacity, sold.iter().copied()).free();
            if rest != Resources::default() {
                sold.push(rest);
            }
            let overhead = capacity.guest_overhead;
            let total = |f: fn(Resources) -> u64| sold.iter().map(|g| f(*g) + f(overhead)).sum::<u64>();
            prop_assert!(total(|r| u64::from(r.vcpus)) <= u64::from(capacity.sellable.vcpus));
            prop_assert!(total(|r| r.memory_bytes) <= capacity.sellable.memory_bytes);
            prop_assert!(total(|r| r.disk_bytes) <= capacity.sellable.disk_bytes);
            prop_assert!(total(|r| u64::from(r.addresses)) <= u64::from(capacity.sellable.addresses));
        }

        #[test]
        fn the_last_byte_can_be_sold(capacity in capacity(), first in resources(1 << 39)) {
            let room = Room::new(&capacity, None);
            let room = room.take(first).unwrap_or(room);
            let rest = room.free();
            if rest != Resources::default() {
                let full = room.take(rest);
                prop_assert!(full.is_some());
                let one_more = Resources { memory_bytes: rest.memory_bytes + 1, ..rest };
                prop_assert!(room.take(one_more).is_none());
            }
        }

        #[test]
        fn a_host_that_lost_an_address_goes_on_selling_the_rest(
            capacity in capacity(),
            sold in resources(1 << 38),
        ) {
            let sold = Resources { addresses: capacity.sellable.addresses.max(1), ..sold };
            let Some(before) = Room::new(&Capacity { sellable: Resources {
                addresses: sold.addresses,
                ..capacity.sellable
            }, ..capacity.clone() }, None).take(sold) else { return Ok(()) };
            let fewer = Resources { addresses: sold.addresses - 1, ..capacity.sellable };
            let after = Room::new(&Capacity { sellable: fewer, ..capacity }, [sold]);
            prop_assert_eq!(after.free(), before.free());
        }

        #[test]
        fn a_host_that_lowers_what_it_sells_has_nothing_free(
            capacity in capacity(),
            sold in resources(1 << 39),
        ) {
            let lowered = Capacity { sellable: Resources::default(), ..capacity };
            prop_assert_eq!(Room::new(&lowered, [sold]).free(), Resources::default());
        }
    }
}
