//! What a guest costs the host beyond what was sold.

use surplus_protocol::inventory::Resources;

const MIB: u64 = 1 << 20;

/// What each guest costs beyond its [`Resources`], whatever its size.
///
/// Memory: QEMU's own code and heap, its device models, virtio queues, vhost and
/// I/O threads (some 60 MiB resident for this machine type), page tables, and
/// the page cache of its log. Disk: seed 1 MiB, UEFI variables, console log of
/// virtlogd (four files of at most 2 MiB by its defaults), qcow2's tables.
pub const GUEST_OVERHEAD: Resources = Resources {
    vcpus: 0,
    memory_bytes: 128 * MIB,
    disk_bytes: 16 * MIB,
    addresses: 0,
};

/// What a guest of this size takes from the host: what was sold and
/// [`GUEST_OVERHEAD`].
pub fn footprint(sold: Resources) -> Resources {
    sold.saturating_add(GUEST_OVERHEAD)
}

/// What a guest costs beyond `sold`. The same for every size, so that it can be
/// announced as one figure.
pub fn guest_overhead(_sold: &Resources) -> Resources {
    GUEST_OVERHEAD
}
