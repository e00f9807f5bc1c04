//! Power, processes, and the faults that strike them.

use std::sync::Arc;

use rand::Rng as _;
use rand::rngs::StdRng;
use surplus_agent::sync::fence::Fences;
use surplus_journal::Memory;
use surplus_journal::medium::{Fault as DiskFault, Kept, Unsynced};
use surplus_protocol::ids::BootId;

use super::{Event, Index, MINUTE, Mending, SECOND, World};
use crate::agent::{Agent, RECORD, SAMPLE};
use crate::clock::{HostClock, Millis};
use crate::host::{Boot, offer};
use crate::hypervisor::{Mood, SimHypervisor};
use crate::weather::Fault;
use crate::workshop::SimWorkshop;

/// From power-on to the agent's start.
const FIRMWARE: std::ops::Range<Millis> = 5 * SECOND..30 * SECOND;

impl World {
    pub(super) fn power_on(&mut self, host: Index) {
        if self.hosts[host].boot.is_some() {
            return;
        }
        let ahead = self.random.random_range(-120_000..120_000);
        let number = self.hosts[host].number;
        let it = &mut self.hosts[host];
        it.boots += 1;
        let mut id = [number; 16];
        id[..4].copy_from_slice(&it.boots.to_be_bytes());
        it.boot = Some(Boot {
            id: BootId::from_bytes(id),
            clock: Arc::new(HostClock::booted(&self.now, ahead)),
            hypervisor: Arc::new(SimHypervisor::default()),
            workshop: Arc::new(SimWorkshop::default()),
            deadlines: Arc::default(),
            offer: offer(number),
            fences: Fences::default(),
            agent: None,
            turn_at: None,
            looked_at: self.now.get(),
            impaired_at: None,
            disk: if it.has_disk {
                it.disk.clone()
            } else {
                Memory::new()
            },
        });
        let wait = self.random.random_range(FIRMWARE);
        self.after(wait, Event::Mends(Mending::Agent(host)));
    }

    fn power_off(&mut self, host: Index) {
        let (now, id) = (self.now.get(), self.id(host));
        self.break_off(host);
        let Some(boot) = &self.hosts[host].boot else {
            return;
        };
        let unseen = now - boot.looked_at;
        for placement in self.judge.running_on(id) {
            self.judge.gone(placement, &self.hosts[host], now);
            let stored = self.hub.stored(placement.lease);
            let loss = if self.hosts[host].has_disk {
                unseen + millis(SAMPLE) + millis(RECORD)
            } else {
                self.judge.ran(placement.lease, now).saturating_sub(stored)
            };
            self.judge.excuse(placement.lease, loss);
        }
        if !self.hosts[host].has_disk {
            self.judge.memory_lost(id);
            // What had ended and was not yet said is gone with the memory.
            for lease in self.leases.clone() {
                let stored = self.hub.stored(lease);
                let here = self.judge.was_on(lease, id);
                let ran = self.judge.ran(lease, now);
                if here && ran > stored {
                    self.judge.excuse(lease, ran - stored);
                }
            }
        }
        self.hosts[host].boot = None;
        let random = &mut self.random;
        self.hosts[host]
            .disk
            .power_cut(|at_stake| kept(random, at_stake));
    }

    pub(super) fn agent_starts(&mut self, host: Index) {
        let now = self.now.get();
        let it = &mut self.hosts[host];
        let Some(boot) = it.boot.as_mut().filter(|boot| boot.agent.is_none()) else {
            return;
        };
        it.processes += 1;
        let Some(agent) = Agent::start(it.processes, it.id, boot) else {
            let id = it.id;
            return self
                .judge
                .breaks(|| format!("the agent of host {id} cannot read its own records"));
        };
        let process = agent.id;
        boot.agent = Some(agent);
        boot.turn_at = None;
        self.schedule_turn(host, process, now + 1);
        self.after(2, Event::Ask(host, process));
    }

    /// `kill -9`, or a fuse that has blown.
    pub(super) fn agent_dies(&mut self, host: Index) {
        self.break_off(host);
        if let Some(boot) = self.hosts[host].boot.as_mut()
            && boot.agent.take().is_some()
        {
            let id = self.hosts[host].id;
            self.judge.agent_died(id);
            let wait = self.random.random_range(SECOND..20 * SECOND);
            self.after(wait, Event::Mends(Mending::Agent(host)));
        }
    }

    pub(super) fn strikes(&mut self, fault: &Fault) {
        if self.healed {
            return;
        }
        match *fault {
            Fault::Cut { host, time } => {
                self.hosts[host].link.cut = true;
                self.after(time, Event::Mends(Mending::Link(host)));
            }
            Fault::Deaf { host, time } => {
                self.hosts[host].link.deaf = true;
                self.after(time, Event::Mends(Mending::Ears(host)));
            }
            Fault::Kill { host } => self.agent_dies(host),
            Fault::Fuse { host, left } => {
                if let Some(boot) = &self.hosts[host].boot {
                    boot.disk.fail(left, usize::MAX, DiskFault::Death);
                }
            }
            Fault::Freeze { host, time } => {
                if let Some((agent, _)) = self.hosts[host].agent() {
                    agent.frozen = true;
                    let process = agent.id;
                    self.after(time, Event::Mends(Mending::Thaw(host, process)));
                }
            }
            Fault::LibvirtAway { host, time } => {
                if let Some(boot) = &self.hosts[host].boot {
                    boot.hypervisor.set_away(true);
                    self.after(time, Event::Mends(Mending::Libvirt(host)));
                }
            }
            Fault::Mood { host, refuses } => {
                if let Some(boot) = &self.hosts[host].boot {
                    let mood = if refuses {
                        Mood::Refuses
                    } else {
                        Mood::Complains
                    };
                    boot.hypervisor.set_mood(mood);
                }
            }
            Fault::Power { host, time } => {
                self.power_off(host);
                let boots = self.hosts[host].boots;
                if time > 2 * MINUTE && self.chance(300) {
                    self.after(MINUTE, Event::ConfirmsOff(host, boots));
                }
                self.after(time, Event::Mends(Mending::Power(host)));
            }
            Fault::Clock { host, ahead } => {
                if let Some(boot) = &self.hosts[host].boot {
                    boot.clock.jump(ahead);
                }
            }
            Fault::Marketplace { time } => {
                if self.hub.up {
                    self.marketplace_stops();
                    self.after(time, Event::Mends(Mending::Marketplace));
                }
            }
            Fault::Restore { time } => {
                self.marketplace_stops();
                if let Some(backup) = &self.backup {
                    let present = self.hub.leases().into_iter();
                    let present = present.map(|lease| {
                        let stored = self.hub.stored(lease.id);
                        (lease, stored)
                    });
                    let present: Vec<_> = present.collect();
                    self.hub.restore(backup);
                    self.judge.restored(&present, &self.hub);
                }
                self.after(time, Event::Mends(Mending::Marketplace));
            }
        }
    }

    pub(super) fn mends(&mut self, mending: &Mending) {
        match *mending {
            Mending::Link(host) => self.hosts[host].link.cut = false,
            Mending::Ears(host) => self.hosts[host].link.deaf = false,
            Mending::Agent(host) => self.agent_starts(host),
            Mending::Thaw(host, process) => self.thaws(host, process),
            Mending::Libvirt(host) => {
                if let Some(boot) = &self.hosts[host].boot {
                    boot.hypervisor.set_away(false);
                }
            }
            Mending::Power(host) => self.power_on(host),
            Mending::Marketplace => {
                if !self.hub.up {
                    self.hub.start();
                }
            }
        }
    }

    fn thaws(&mut self, host: Index, process: u64) {
        let Some(boot) = self.hosts[host].boot.as_mut() else {
            return;
        };
        if let Some(agent) = boot.agent.as_mut().filter(|agent| agent.id == process) {
            agent.frozen = false;
            boot.turn_at = None;
            // Its connection has timed out meanwhile.
            self.break_off(host);
            self.turn(host);
            self.after(1, Event::Ask(host, process));
        }
    }

    /// The storm is over: everything works from now on.
    pub(super) fn heals(&mut self) {
        self.healed = true;
        if !self.hub.up {
            self.hub.start();
        }
        for host in 0..self.hosts.len() {
            let link = &mut self.hosts[host].link;
            (link.cut, link.deaf, link.lost, link.doubled) = (false, false, 0, 0);
            self.power_on(host);
            if let Some(boot) = self.hosts[host].boot.as_ref() {
                boot.hypervisor.set_away(false);
                boot.hypervisor.set_mood(Mood::Willing);
                boot.disk.heal();
                if let Some(agent) = &boot.agent {
                    let process = agent.id;
                    self.thaws(host, process);
                } else {
                    self.after(SECOND, Event::Mends(Mending::Agent(host)));
                }
            }
        }
    }
}

/// A power cut may leave any part of what was not synced.
fn kept(random: &mut StdRng, at_stake: Unsynced<'_>) -> Kept {
    let count = match at_stake {
        Unsynced::Bytes { count, .. } => count,
        Unsynced::Name(_) => 0,
    };
    match random.random_range(0..4) {
        0 => Kept::All,
        1 => Kept::Nothing,
        2 => Kept::Bytes(random.random_range(0..=count)),
        _ => Kept::Garbled(random.random_range(0..=count)),
    }
}

fn millis(duration: std::time::Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
