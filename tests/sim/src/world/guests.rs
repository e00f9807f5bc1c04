//! What goes on on a host: the agent's turns, guests, the guard.

use rand::Rng as _;
use surplus_agent::guests::Placement;
use surplus_agent::guests::clock::Clock as _;
use surplus_guard::rounds::MARGIN;
use surplus_protocol::ids::BootId;

use super::{Event, Index, SECOND, World};
use crate::agent::{ProcessId, SAMPLE};
use crate::clock::Millis;
use crate::hypervisor::Happening;
use crate::workshop::Job;

impl World {
    pub(super) fn turn_of(&mut self, host: Index, process: ProcessId) {
        let now = self.now.get();
        let Some(boot) = self.hosts[host].boot.as_mut() else {
            return;
        };
        // Another turn was due earlier, and did this one's work.
        if boot.turn_at != Some(now) {
            return;
        }
        boot.turn_at = None;
        if self.hosts[host].process(process).is_some() {
            self.turn(host);
        }
    }

    /// The agent looks, plans and acts, and what follows from it.
    pub(super) fn turn(&mut self, host: Index) {
        let now = self.now.get();
        let Some(boot) = self.hosts[host].boot.as_mut() else {
            return;
        };
        let Some(agent) = boot.agent.as_mut().filter(|agent| !agent.frozen) else {
            return;
        };
        let (wake, news) = agent.turn(&self.runtime);
        let (process, died) = (agent.id, boot.disk.is_dead());
        let sees = !boot.hypervisor.is_away();
        // What it saw in the turn that it died in, it did not write down.
        if sees && !died {
            boot.looked_at = now;
        }
        let sample = u64::try_from(SAMPLE.as_millis()).unwrap_or(u64::MAX);
        let wake = wake.map_or(Millis::MAX, |at| boot.clock.when(at));
        let wake = wake.clamp(now + 1, now + sample);
        self.happened(host);
        if died {
            return self.agent_dies(host);
        }
        let id = self.id(host);
        if sees {
            self.judge.turned(id, now);
        }
        self.schedule_turn(host, process, wake);
        if news {
            self.has_news(host);
        }
    }

    pub(super) fn schedule_turn(&mut self, host: Index, process: ProcessId, at: Millis) {
        if let Some(boot) = self.hosts[host].boot.as_mut()
            && boot.turn_at.is_none_or(|before| before > at)
        {
            boot.turn_at = Some(at);
            self.queue.push(at, Event::Turn(host, process));
        }
    }

    /// Tells the judge what the agent did, and begins what it ordered.
    fn happened(&mut self, host: Index) {
        let now = self.now.get();
        let Some(boot) = self.hosts[host].boot.as_ref() else {
            return;
        };
        let (id, happenings, jobs) = (
            boot.id,
            boot.hypervisor.take_happenings(),
            boot.workshop.take_jobs(),
        );
        for happening in happenings {
            if self.trace {
                println!("{:>10.3}   host {host}: {happening:?}", super::seconds(now));
            }
            match happening {
                Happening::Made(ticket) => {
                    self.judge.made(&self.hosts[host], &ticket, now);
                    self.plan_own_end(host, id, Placement::of(&ticket));
                }
                Happening::Asked(placement) => {
                    self.judge.stops(placement, now);
                    if self.chance(700) {
                        let wait = self.random.random_range(200..15_000);
                        self.after(wait, Event::PowersOff(host, id, placement));
                    }
                }
                Happening::Destroyed(placement) => {
                    self.judge.stops(placement, now);
                    self.judge.gone(placement, &self.hosts[host], now);
                }
            }
        }
        for job in jobs {
            let wait = self.random.random_range(100..20 * SECOND);
            self.after(wait, Event::Made(host, id, Box::new(job)));
        }
    }

    /// Now and then a guest shuts itself down.
    fn plan_own_end(&mut self, host: Index, boot: BootId, placement: Placement) {
        if !self.healed && self.chance(100) {
            let wait = self.random.random_range(SECOND..3600 * SECOND);
            self.after(wait, Event::PowersOff(host, boot, placement));
        }
    }

    pub(super) fn guest_made(&mut self, host: Index, boot: BootId, job: Job) {
        let reachable = self.hub.up && !self.hosts[host].link.cut;
        if self.hosts[host]
            .boot
            .as_ref()
            .is_some_and(|it| it.id == boot)
        {
            job.finish(reachable);
            self.turn(host);
        }
    }

    pub(super) fn guest_off(&mut self, host: Index, boot: BootId, placement: Placement) {
        let now = self.now.get();
        let Some(here) = self.hosts[host].boot.as_ref().filter(|it| it.id == boot) else {
            return;
        };
        if !here.hypervisor.vanish(placement) {
            return;
        }
        let heard = !here.hypervisor.is_away();
        self.judge.gone(placement, &self.hosts[host], now);
        if let Some((agent, _)) = self.hosts[host].agent().filter(|_| heard) {
            agent.domain_stopped(placement.domain_name());
            self.turn(host);
        }
    }

    /// The guard: ends what is past its deadline, whatever the agent does.
    pub(super) fn guard_looks(&mut self, host: Index) {
        let now = self.now.get();
        let at_work = self.hosts[host].is_at_work();
        let Some(boot) = self.hosts[host].boot.as_mut() else {
            return;
        };
        if !at_work {
            boot.impaired_at = Some(now);
        }
        let due = boot
            .deadlines
            .due(boot.clock.boot_millis().saturating_sub(MARGIN));
        let over: Vec<_> = boot
            .hypervisor
            .running()
            .into_iter()
            .map(|(placement, _)| placement)
            .filter(|placement| due.contains(placement))
            .collect();
        let id = boot.id;
        for placement in over {
            // What runs past its deadline until the guard comes is nobody's.
            self.judge.excuse(placement.lease, MARGIN + SECOND);
            self.guest_off(host, id, placement);
        }
    }

    /// The agent's watch over its fences.
    pub(super) fn fences_look(&mut self, host: Index) {
        if let Some((agent, fences)) = self.hosts[host].agent()
            && agent.enforce(fences)
        {
            self.turn(host);
        }
    }
}
