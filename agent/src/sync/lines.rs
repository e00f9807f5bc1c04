//! What syncing says on the consoles: what is offered, and how leases fare.

use std::collections::BTreeMap;

use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::inventory::KvmProbe;
use surplus_protocol::lease::{GuestPhase, LeaseStatus};
use surplus_stage::Stage;

use super::Offer;
use crate::stages::Announce;

/// The line on what is for sale; none while the KVM probe runs.
pub fn offering(offer: &Offer) -> Option<Stage> {
    let stage = Stage::new("offering");
    match (&offer.inventory.kvm, &offer.capacity.withheld) {
        (KvmProbe::Pending, _) => None,
        (_, Some(why)) => {
            let (what, next) = why.rsplit_once("; ").unwrap_or((why, "ask the operator"));
            Some(stage.failed(format!("nothing is offered: {what}"), next))
        }
        (_, None) => {
            let sellable = offer.capacity.sellable;
            let stage = stage
                .with("vcpus", sellable.vcpus)
                .with("memory", format!("{}MiB", sellable.memory_bytes >> 20))
                .with("disk", format!("{}MB", sellable.disk_bytes / 1_000_000));
            let stage = match sellable.addresses {
                0 => stage,
                some => stage.with("addresses", some),
            };
            let kvm = if offer.inventory.kvm == KvmProbe::Emulated {
                "emulated"
            } else {
                "works"
            };
            Some(stage.with("kvm", kvm))
        }
    }
}

/// Says each lease's phase when it changes, and that it is gone.
#[derive(Debug, Default)]
pub struct LeaseLines {
    said: BTreeMap<(LeaseId, Epoch), (GuestPhase, String)>,
}

impl LeaseLines {
    pub fn say(&mut self, leases: &[LeaseStatus], consoles: &dyn Announce) {
        for status in leases {
            let now = (status.phase, status.detail.clone());
            let said = self.said.insert((status.lease, status.epoch), now.clone());
            // A retry's reason matters each time; a fetch's progress does not.
            let changed = said.is_none_or(|said| {
                said.0 != now.0 || (now.0 == GuestPhase::Retrying && said.1 != now.1)
            });
            if changed {
                consoles.say(line(status));
            }
        }
        let known: Vec<_> = leases
            .iter()
            .map(|status| (status.lease, status.epoch))
            .collect();
        self.said.retain(|(lease, epoch), _| {
            let stays = known.contains(&(*lease, *epoch));
            if !stays {
                consoles.say(
                    Stage::new("lease")
                        .with("lease", lease)
                        .with("epoch", epoch)
                        .with("phase", "ended"),
                );
            }
            stays
        });
    }
}

fn line(status: &LeaseStatus) -> Stage {
    let stage = Stage::new("lease")
        .with("lease", status.lease)
        .with("epoch", status.epoch)
        .with("phase", phase(status.phase));
    match status.phase {
        GuestPhase::Retrying => stage.failed(
            &status.detail,
            "the host goes on trying until the ticket runs out",
        ),
        GuestPhase::Running if !status.addresses.is_empty() => {
            stage.with("addresses", status.addresses.join(","))
        }
        _ => stage,
    }
}

fn phase(phase: GuestPhase) -> &'static str {
    match phase {
        GuestPhase::Fetching => "fetching",
        GuestPhase::Preparing => "preparing",
        GuestPhase::Running => "running",
        GuestPhase::Retrying => "retrying",
        GuestPhase::Stopping => "stopping",
    }
}

#[cfg(test)]
mod tests {
    use newtype_uuid::GenericUuid as _;
    use surplus_protocol::inventory::{Capacity, Inventory, Resources};

    use super::*;
    use crate::stages::Recorded;

    fn status(phase: GuestPhase, detail: &str) -> LeaseStatus {
        LeaseStatus {
            lease: LeaseId::from_untyped_uuid(uuid::Uuid::nil()),
            epoch: 1,
            phase,
            detail: detail.to_owned(),
            addresses: Vec::new(),
            forwards: Vec::new(),
        }
    }

    #[test]
    fn a_lease_is_said_when_its_phase_changes_and_when_it_is_gone() {
        let recorded = Recorded::default();
        let mut lines = LeaseLines::default();
        for (phase, detail) in [
            (GuestPhase::Fetching, "1 %"),
            (GuestPhase::Fetching, "2 %"),
            (GuestPhase::Retrying, "a"),
            (GuestPhase::Retrying, "a"),
            (GuestPhase::Retrying, "b"),
            (GuestPhase::Running, ""),
        ] {
            lines.say(&[status(phase, detail)], &recorded);
        }
        lines.say(&[], &recorded);
        let phases: Vec<_> = recorded
            .lines()
            .iter()
            .map(|line| {
                line.split("phase=")
                    .nth(1)
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(
            phases,
            ["fetching", "retrying", "retrying", "running", "ended"]
        );
    }

    #[test]
    fn the_offer_is_said_in_figures_and_its_absence_with_what_to_do() {
        let sellable = Resources {
            vcpus: 1,
            memory_bytes: 512 << 20,
            disk_bytes: 256_000_000,
            addresses: 0,
        };
        let kvm = KvmProbe::Works { millis: 1 };
        let mut offer = Offer {
            inventory: Inventory {
                kvm,
                ..Inventory::default()
            },
            capacity: Capacity {
                sellable,
                ..Capacity::default()
            },
        };
        assert_eq!(
            offering(&offer).unwrap().line(0.0),
            "surplus: stage=offering elapsed=0.00 vcpus=1 memory=512MiB disk=256MB kvm=works"
        );
        offer.capacity.withheld = Some("no guest runs; switch it on".to_owned());
        let line = offering(&offer).unwrap().line(0.0);
        assert!(
            line.contains("error=\"nothing is offered: no guest runs\" next=\"switch it on\""),
            "{line}"
        );
        offer.inventory.kvm = KvmProbe::Pending;
        assert_eq!(offering(&offer), None);
    }
}
