//! What the host can surely deliver: its total after reserve.
//!
//! Where the owner gives no disks, guests' disks lie on a tmpfs and everything is
//! carved out of memory. Where he does, they lie on a volume. The same page and
//! the same block are promised once:
//!
//! ```text
//!                     without a volume              with one
//! MemTotal = reserve + sellable memory              + sellable memory
//!                    + 2 × sellable disk
//! volume   =                                kept back + 2 × sellable disk
//! ```
//!
//! Where the owner reserved huge pages, guests' memory comes from them alone: they are
//! what is sellable, and both sums are those of the rest, with what guests cost beyond
//! their memory in its place.
//!
//! Disk counts twice because beside a guest's disk the image that it was made
//! from stays in the cache, and an image is never larger than the disk that it
//! unfolds to. Each guest's own overhead (QEMU) is paid out of what is
//! sellable, by the marketplace, per guest. Kept back of a volume is a 32nd, for
//! the file system's own growth and the tables of growing disks.
//!
//! What always holds: neither sum exceeds what there is; what is sellable
//! is zero while KVM has not been seen to run a guest, QEMU is not confined, the host's
//! own test of its isolation has not passed or guests have no way out, and then
//! `withheld` says why; the generation grows with each change and only then.

use surplus_protocol::inventory::{Capacity, DiskRate, KvmProbe, Resources};

use crate::inventory::HugePages;

const MIB: u64 = 1 << 20;

/// Memory kept for the host, whatever the owner keeps beside: what an idle host
/// uses (128 MiB with agent and libvirtd), the root's pages that QEMU and
/// libvirt run from (another 128 MiB, or each step of theirs is read from the
/// medium again), and head room for the kernel's own peaks while guests start.
pub const RESERVED_MEMORY: u64 = 320 * MIB;

/// … and this part of all memory beside, for what grows with the machine: page
/// tables, slabs, per-CPU memory.
const RESERVED_PART: u64 = 32;

/// … and this part of a volume.
const RESERVED_VOLUME_PART: u64 = 32;

/// The smallest guest worth offering, overhead apart.
const SMALLEST_MEMORY: u64 = 64 * MIB;

/// What the capacity is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub threads: u32,
    pub memory_bytes: u64,
    pub huge_pages: HugePages,
    /// The volume on the owner's disks, where he gives some.
    pub volume_bytes: Option<u64>,
    pub kvm: KvmProbe,
    /// What each guest costs beyond what it was sold.
    pub guest_overhead: Resources,
    pub reserve: Reserve,
    /// Why guests do not get out by the network that they have of their own, and what
    /// to do.
    pub no_way_out: Option<String>,
    /// libvirt does not answer: nothing can be started.
    pub libvirt_hangs: bool,
    /// Threads of one core run, which the site file does not want.
    pub shares_cores: bool,
    /// The kernel holds QEMU to what QEMU may do.
    pub confined: bool,
    pub self_test: SelfTest,
    /// Addresses that are there for guests to have as their own.
    pub own_addresses: u32,
    /// What each guest may send and receive, million bits a second; none where the
    /// packet filter does not hold it to that.
    pub guest_mbits: Option<u32>,
    /// … and do with the volume.
    pub guest_disk: DiskRate,
}

/// What came of the host's attacks on itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfTest {
    Pending,
    Passed,
    /// What came through.
    Failed(String),
}

/// What the owner keeps back, besides what the host itself needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    pub vcpus: u32,
    pub memory_bytes: u64,
}

/// What is offered from `facts`, in generation 0.
pub fn plan(facts: &Facts) -> Capacity {
    let needed = RESERVED_MEMORY.saturating_add(facts.memory_bytes / RESERVED_PART);
    let reserve = Resources {
        vcpus: reserved_vcpus(facts.threads).saturating_add(facts.reserve.vcpus),
        memory_bytes: needed.saturating_add(facts.reserve.memory_bytes),
        disk_bytes: 0,
        addresses: 0,
    };
    let vcpus = facts.threads.saturating_sub(reserve.vcpus);
    let usual = facts.memory_bytes.saturating_sub(facts.huge_pages.reserved);
    let spare = usual.saturating_sub(reserve.memory_bytes);
    // Of the usual pages, for guests' memory or what QEMU needs beside it.
    let for_memory = match facts.volume_bytes {
        None => spare / 2,
        Some(_) => spare,
    };
    let (memory_bytes, taken) = if facts.huge_pages.for_guests == 0 {
        (for_memory, for_memory)
    } else {
        in_huge_pages(facts, vcpus, for_memory)
    };
    let disk_bytes = match facts.volume_bytes {
        None => (spare - taken) / 2,
        Some(volume) => (volume - volume / RESERVED_VOLUME_PART) / 2,
    };
    let sellable = Resources {
        vcpus,
        memory_bytes: whole_mib(memory_bytes),
        disk_bytes: whole_mib(disk_bytes),
        addresses: facts.own_addresses,
    };
    let withheld = withheld(facts, sellable, reserve);
    Capacity {
        generation: 0,
        sellable: if withheld.is_some() {
            Resources::default()
        } else {
            sellable
        },
        guest_overhead: facts.guest_overhead,
        reserve,
        guest_mbits: facts.guest_mbits,
        // Guests that live in memory wait for nobody.
        guest_disk: facts.volume_bytes.map(|_| facts.guest_disk),
        withheld,
    }
}

/// What is sellable of the huge pages, and what guests may then take of the usual ones,
/// of which there are `spare`. Each guest has a vCPU and pays its cost out of what is
/// sellable: neither more costs than vCPUs fall due, nor more than is sellable.
fn in_huge_pages(facts: &Facts, vcpus: u32, spare: u64) -> (u64, u64) {
    let pool = facts.huge_pages.for_guests;
    let costs = u64::from(vcpus).saturating_mul(facts.guest_overhead.memory_bytes);
    if costs <= spare {
        (pool, costs)
    } else {
        (pool.min(spare), spare)
    }
}

/// One thread in 32, at least one; the only thread of a machine is shared (the
/// agent's and libvirt's cgroups have the larger weight).
fn reserved_vcpus(threads: u32) -> u32 {
    if threads < 2 {
        0
    } else {
        (threads / 32).max(1)
    }
}

fn whole_mib(bytes: u64) -> u64 {
    bytes / MIB * MIB
}

fn withheld(facts: &Facts, sellable: Resources, reserve: Resources) -> Option<String> {
    let needed = facts
        .guest_overhead
        .memory_bytes
        .saturating_add(SMALLEST_MEMORY);
    // Nothing is tried before.
    if facts.no_way_out.is_some() {
        return facts.no_way_out.clone();
    }
    match &facts.kvm {
        KvmProbe::Pending => {
            return Some("the probe that starts a guest under KVM has not finished".to_owned());
        }
        KvmProbe::Fails { reason } => {
            return Some(format!("no guest runs under KVM here: {reason}"));
        }
        KvmProbe::Works { .. } | KvmProbe::Emulated => {}
    }
    if !facts.confined {
        return Some(
            "the kernel does not confine QEMU: it has no AppArmor profile surplus-guest; boot with apparmor among the parts of lsm=, and look at surplus-confinement.service"
                .to_owned(),
        );
    }
    match &facts.self_test {
        SelfTest::Pending => {
            return Some("the host has not yet tried whether it keeps guests apart".to_owned());
        }
        SelfTest::Failed(what) => {
            return Some(format!(
                "the host does not keep guests apart, as its own test found: {what}; do not use it, and report this with the version of the image"
            ));
        }
        SelfTest::Passed => {}
    }
    if facts.shares_cores {
        return Some(
            "tenants would share cores: the kernel leaves SMT on; switch it off in the firmware, or allow it by `share_cores = true` under `[guests]` in the site file"
                .to_owned(),
        );
    }
    if facts.guest_mbits.is_none() {
        return Some(
            "the packet filter does not limit what guests send; look at the agent's log for what nft said, then boot again"
                .to_owned(),
        );
    }
    if facts.libvirt_hangs {
        return Some(
            "libvirt hangs and starts no guest; it is restarted, and the offer comes back by itself"
                .to_owned(),
        );
    }
    if sellable.vcpus == 0 {
        return Some(format!(
            "all {} CPU threads are reserved for the host; lower the reserve in the site file",
            facts.threads
        ));
    }
    let disk_is_short = sellable.disk_bytes <= facts.guest_overhead.disk_bytes;
    if let Some(volume) = facts.volume_bytes.filter(|_| disk_is_short) {
        return Some(format!(
            "the disks that are used hold {} MiB, too little for a guest; give more by `storage` in the site file",
            volume / MIB
        ));
    }
    if facts.huge_pages.for_guests > 0 && sellable.memory_bytes < needed {
        return Some(format!(
            "guests would live in {} MiB of huge pages, and what can be sold of them is too little for a guest; reserve more by hugepages= on the kernel's command line, or none, and leave memory beside them",
            facts.huge_pages.for_guests / MIB
        ));
    }
    if sellable.memory_bytes < needed || disk_is_short {
        return Some(format!(
            "of {} MiB of memory {} MiB are kept for the host, and the rest is too little for a guest; add memory or lower the reserve in the site file",
            facts.memory_bytes / MIB,
            reserve.memory_bytes / MIB
        ));
    }
    None
}

/// Counts the generations of what is offered.
#[derive(Clone, Debug, Default)]
pub struct Offered(Capacity);

impl Offered {
    /// Counts on from `generation`, which an earlier agent of this boot cannot
    /// have reached.
    pub fn after(generation: u64) -> Self {
        Self(Capacity {
            generation,
            ..Capacity::default()
        })
    }

    /// Takes a new plan in; the capacity in its new generation where it differs
    /// from the last.
    pub fn update(&mut self, planned: Capacity) -> Option<&Capacity> {
        let planned = Capacity {
            generation: self.0.generation,
            ..planned
        };
        if planned == self.0 {
            return None;
        }
        self.0 = Capacity {
            generation: planned.generation.saturating_add(1),
            ..planned
        };
        Some(&self.0)
    }

    pub fn current(&self) -> &Capacity {
        &self.0
    }
}

#[cfg(test)]
mod tests;
