//! A host: its power, its boots, its disk and its link.

use std::sync::Arc;

use surplus_agent::guests::GUEST_OVERHEAD;
use surplus_agent::sync::fence::Fences;
use surplus_journal::Memory;
use surplus_market::suite::inventory;
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::inventory::{Capacity, Inventory, Resources};

use crate::agent::{Agent, OWN_ADDRESSES, ProcessId};
use crate::clock::{HostClock, Millis};
use crate::deadlines::SimDeadlines;
use crate::hypervisor::SimHypervisor;
use crate::workshop::SimWorkshop;

/// How messages fare between a host and the marketplace.
#[derive(Clone, Debug)]
pub struct Link {
    /// Nothing passes, either way.
    pub cut: bool,
    /// Answers get lost, requests arrive.
    pub deaf: bool,
    /// Of a thousand messages, how many are lost, and how many come twice.
    pub lost: u32,
    pub doubled: u32,
    /// Under way for so long, in milliseconds: at least, and usually at most.
    pub delay: (Millis, Millis),
}

/// From power-on to power-off.
#[derive(Debug)]
pub struct Boot {
    pub id: BootId,
    pub clock: Arc<HostClock>,
    pub hypervisor: Arc<SimHypervisor>,
    pub workshop: Arc<SimWorkshop>,
    /// What the guard knows.
    pub deadlines: Arc<SimDeadlines>,
    pub offer: (Inventory, Capacity),
    /// What is kept of fence clauses over the agent's death.
    pub fences: Fences,
    pub agent: Option<Agent>,
    /// When its next turn is.
    pub turn_at: Option<Millis>,
    /// When the agent last looked at its guests, and wrote down what it saw.
    pub looked_at: Millis,
    /// When the agent or libvirt was last not at work.
    pub impaired_at: Option<Millis>,
    /// Where the ledger lies: the host's own disk, or memory.
    pub disk: Memory,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    pub id: HostId,
    pub number: u8,
    /// The ledger outlives the boot.
    pub has_disk: bool,
    pub link: Link,
    pub boot: Option<Boot>,
    pub processes: ProcessId,
    pub boots: u32,
    /// What all its boots write to, where it has one.
    pub disk: Memory,
}

impl Host {
    /// The agent that can do something now.
    pub fn agent(&mut self) -> Option<(&mut Agent, &mut Fences)> {
        let boot = self.boot.as_mut()?;
        let agent = boot.agent.as_mut().filter(|agent| !agent.frozen)?;
        Some((agent, &mut boot.fences))
    }

    /// The same, where it is this very process.
    pub fn process(&mut self, id: ProcessId) -> Option<(&mut Agent, &mut Fences)> {
        self.agent().filter(|(agent, _)| agent.id == id)
    }

    pub fn is_at_work(&self) -> bool {
        self.boot.as_ref().is_some_and(|boot| {
            let agent = boot.agent.as_ref();
            agent.is_some_and(|agent| !agent.frozen) && !boot.hypervisor.is_away()
        })
    }
}

/// What every host sells.
pub fn offer(number: u8) -> (Inventory, Capacity) {
    let gib = 1 << 30;
    let capacity = Capacity {
        generation: 1,
        sellable: Resources {
            vcpus: 4,
            memory_bytes: 6 * gib,
            disk_bytes: 20 * gib,
            addresses: OWN_ADDRESSES.into(),
        },
        guest_overhead: GUEST_OVERHEAD,
        ..Capacity::default()
    };
    (inventory(number), capacity)
}
