//! What a guest may do with the owner's disks, so that its neighbours have their part:
//! so much a second for each vCPU, and more of it for a while, as a guest that boots
//! wants it.

use surplus_site::DiskRate;

/// How much faster a guest may be that was slow before, …
const BURST: u64 = 4;
/// … and for how long.
const BURST_SECONDS: u64 = 10;

/// Reads and writes of all of a guest's disks together, and their bytes: in a second,
/// and in each second of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskLimit {
    pub(super) ops: u64,
    pub(super) bytes: u64,
    pub(super) burst_ops: u64,
    pub(super) burst_bytes: u64,
    pub(super) burst_seconds: u64,
}

impl DiskLimit {
    pub(super) fn new(rate: DiskRate, vcpus: u32) -> Self {
        let vcpus = u64::from(vcpus);
        let ops = vcpus * u64::from(rate.ops);
        let bytes = vcpus * u64::from(rate.mbytes) * 1_000_000;
        Self {
            ops,
            bytes,
            burst_ops: ops * BURST,
            burst_bytes: bytes * BURST,
            burst_seconds: BURST_SECONDS,
        }
    }
}
