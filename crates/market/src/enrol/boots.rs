//! Which of a host's boots speaks for it, and when two are alive at once.

use std::net::IpAddr;

use surplus_protocol::api::HostState;
use surplus_protocol::ids::BootId;

use crate::records::{FormerBoot, HostRecord};

/// How many former boots are remembered.
const FORMER_BOOTS: usize = 16;

/// A former boot that spoke up this often is alive beside the present one. One
/// sighting may be a request that a proxy held back.
const SIGHTINGS_OF_A_LIVE_BOOT: u32 = 2;

/// Whose boot a sync comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSeen {
    /// The one that speaks for the host.
    Same,
    /// A new one: the host was restarted.
    New,
    /// One that another took over from: an old request, or a second machine.
    Former,
    /// It keeps speaking up beside the present one: two machines are alive.
    Double,
}

/// Takes in the boot id of a sync that comes from `from`. Two boots alive
/// under one identity quarantine the host; both are named.
pub fn see_boot(host: &mut HostRecord, boot: BootId, from: IpAddr) -> BootSeen {
    let from = from.to_canonical();
    if host.boot == Some(boot) {
        return BootSeen::Same;
    }
    if let Some(former) = host
        .former_boots
        .iter_mut()
        .find(|former| former.boot == boot)
    {
        former.sightings = former.sightings.saturating_add(1);
        if former.sightings < SIGHTINGS_OF_A_LIVE_BOOT {
            return BootSeen::Former;
        }
        former.address = Some(from);
        host.state = HostState::Quarantined;
        host.detail = format!(
            "two machines are alive under this identity: one at {from} (boot {boot}) and one at {} \
             (boot {}); stop the one that should not be there, then approve the host",
            host.address
                .map_or_else(|| "an unknown address".to_owned(), |at| at.to_string()),
            host.boot
                .map_or_else(|| "unknown".to_owned(), |boot| boot.to_string())
        );
        return BootSeen::Double;
    }
    if let Some(old) = host.boot.replace(boot) {
        host.former_boots.push(FormerBoot {
            boot: old,
            address: host.address,
            sightings: 0,
        });
        let surplus = host.former_boots.len().saturating_sub(FORMER_BOOTS);
        host.former_boots.drain(..surplus);
    }
    host.address = Some(from);
    host.inventory = None;
    host.capacity = None;
    BootSeen::New
}
