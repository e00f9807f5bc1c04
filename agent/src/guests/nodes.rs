//! Which of the host's NUMA nodes a guest lives on.
//!
//! A guest whose processors and memory are one node's waits for no other socket. What
//! is for sale is the host's and not a node's, so that a guest that no node has room
//! for lives wherever the kernel finds place.

use std::cmp::Reverse;

use surplus_protocol::inventory::{NumaNode, Resources};

use super::overhead::footprint;

/// The emptiest node with room for a guest of this size, beside those that live
/// somewhere already. None where the host has but one.
pub fn choose(
    nodes: &[NumaNode],
    housed: impl Iterator<Item = (u32, Resources)> + Clone,
    guest: Resources,
) -> Option<u32> {
    if nodes.len() < 2 {
        return None;
    }
    let guest = footprint(guest);
    let left = |node: &NumaNode| {
        let here = housed.clone().filter(|(id, _)| *id == node.id);
        let (mut vcpus, mut memory) = (node.cpus.len(), node.memory_bytes);
        for (_, sold) in here {
            let taken = footprint(sold);
            vcpus = vcpus.checked_sub(usize::try_from(taken.vcpus).ok()?)?;
            memory = memory.checked_sub(taken.memory_bytes)?;
        }
        let vcpus = vcpus.checked_sub(usize::try_from(guest.vcpus).ok()?)?;
        let memory = memory.checked_sub(guest.memory_bytes)?;
        Some((vcpus, memory, Reverse(node.id)))
    };
    let best = nodes.iter().filter_map(left).max();
    best.map(|(_, _, Reverse(id))| id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn node(id: u32, cpus: u32, memory_gib: u64) -> NumaNode {
        NumaNode {
            id,
            memory_bytes: memory_gib * GIB,
            cpus: (id * 100..id * 100 + cpus).collect(),
        }
    }

    fn guest(vcpus: u32, memory_gib: u64) -> Resources {
        Resources {
            vcpus,
            memory_bytes: memory_gib * GIB,
            disk_bytes: 0,
            addresses: 0,
        }
    }

    fn chosen(housed: &[(u32, Resources)], guest: Resources) -> Option<u32> {
        let nodes = [node(0, 4, 8), node(1, 4, 8)];
        choose(&nodes, housed.iter().copied(), guest)
    }

    #[test]
    fn guests_take_turns_and_each_has_one_node() {
        assert_eq!(chosen(&[], guest(2, 2)), Some(0));
        assert_eq!(chosen(&[(0, guest(2, 2))], guest(2, 2)), Some(1));
        let both = [(0, guest(2, 2)), (1, guest(1, 2))];
        assert_eq!(chosen(&both, guest(2, 2)), Some(1));
    }

    #[test]
    fn a_guest_that_no_node_has_room_for_lives_anywhere() {
        assert_eq!(chosen(&[], guest(5, 2)), None);
        // QEMU's own share does not fit any more.
        assert_eq!(chosen(&[], guest(1, 8)), None);
        let both = [(0, guest(4, 1)), (1, guest(1, 7))];
        assert_eq!(chosen(&both, guest(1, 2)), None);
    }

    #[test]
    fn a_host_of_one_node_has_nothing_to_choose() {
        assert_eq!(choose(&[node(0, 4, 8)], [].into_iter(), guest(1, 1)), None);
        assert_eq!(choose(&[], [].into_iter(), guest(1, 1)), None);
    }

    proptest! {
        #[test]
        fn no_node_is_asked_for_more_than_it_has(
            sizes in proptest::collection::vec((1..6_u32, 1..6_u64), 0..12),
        ) {
            let nodes = [node(0, 8, 12), node(1, 4, 16), node(2, 8, 3)];
            let mut housed = Vec::new();
            for (vcpus, memory) in sizes {
                let guest = guest(vcpus, memory);
                if let Some(id) = choose(&nodes, housed.iter().copied(), guest) {
                    housed.push((id, guest));
                }
            }
            for node in &nodes {
                let here = housed.iter().filter(|(id, _)| *id == node.id);
                let taken = here.fold(Resources::default(), |sum, (_, sold)| {
                    sum.saturating_add(footprint(*sold))
                });
                prop_assert!(taken.vcpus as usize <= node.cpus.len());
                prop_assert!(taken.memory_bytes <= node.memory_bytes);
            }
        }
    }
}
