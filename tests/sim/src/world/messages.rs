//! What goes over the network between hosts and marketplace.

use rand::Rng as _;
use surplus_protocol::agent::{SyncRequest, SyncResponse};
use surplus_protocol::ids::HostId;

use super::{Caller, Event, Index, MINUTE, SECOND, World};
use crate::agent::ProcessId;
use crate::clock::Millis;
use crate::hub::{Reply, RequestId};

/// Beyond its wait, how long a request may be silent, as in the agent.
const POLL_MARGIN: Millis = 20 * SECOND;
/// Between two syncs at least.
const SHORTEST_GAP: Millis = 200;

impl World {
    pub(super) fn ask_of(&mut self, host: Index, process: ProcessId) {
        let ready = |(agent, _): &(&mut crate::agent::Agent, _)| agent.flight.is_none();
        if self.hosts[host].process(process).filter(ready).is_some() {
            self.ask(host);
        }
    }

    /// There is news: a held poll is dropped for it.
    pub(super) fn has_news(&mut self, host: Index) {
        let Some((agent, _)) = self.hosts[host].agent() else {
            return;
        };
        let process = agent.id;
        match &agent.flight {
            None => return,
            // It is said once the answer has come.
            Some(flight) if !flight.is_poll() => return,
            Some(flight) => {
                let id = flight.id;
                agent.flight = None;
                self.hang_up(host, id);
            }
        }
        self.after(SHORTEST_GAP, Event::Ask(host, process));
    }

    fn hang_up(&mut self, host: Index, id: RequestId) {
        if !self.link(host).cut {
            let delay = self.delay(host);
            self.after(delay, Event::HangsUp(id));
        }
    }

    /// The agent's connections end with it.
    pub(super) fn break_off(&mut self, host: Index) {
        let flight = self.hosts[host]
            .boot
            .as_mut()
            .and_then(|boot| boot.agent.as_mut()?.flight.take());
        if let Some(flight) = flight {
            self.hang_up(host, flight.id);
        }
    }

    fn ask(&mut self, host: Index) {
        self.requests += 1;
        let (id, asked) = (self.requests, self.now.get());
        let Some((agent, fences)) = self.hosts[host].agent() else {
            return;
        };
        let process = agent.id;
        let request = agent.ask(id, fences);
        let wait = agent
            .flight
            .as_ref()
            .map_or(0, crate::agent::Flight::wait_millis);
        self.after(wait + POLL_MARGIN, Event::TimesOut(host, process, id));
        let link = self.link(host);
        if link.cut || self.chance(link.lost) {
            return;
        }
        let copies = if self.chance(link.doubled) { 2 } else { 1 };
        for copy in 0..copies {
            let event = Event::Arrives {
                from: host,
                process,
                id,
                asked,
                request: Box::new(request.clone()),
                again: copy > 0,
            };
            let mut delay = self.delay(host);
            // A proxy may hold a copy back for long.
            if copy > 0 && self.chance(500) {
                delay += self.random.random_range(0..10 * MINUTE);
            }
            self.after(delay, event);
        }
    }

    fn delay(&mut self, host: Index) -> Millis {
        let (least, most) = self.hosts[host].link.delay;
        // Now and then something is stuck for long.
        if self.chance(5) {
            return self.random.random_range(most..most + 30 * SECOND);
        }
        self.random.random_range(least..=most)
    }

    pub(super) fn arrives(&mut self, caller: Caller, id: RequestId, request: SyncRequest) {
        if self.hosts[caller.host].link.cut {
            return;
        }
        if !self.hub.up {
            return self.reply(caller, id, None);
        }
        let host = self.id(caller.host);
        let reply = self.hub.sync(id, host, request);
        // What it says without showing its tickets counts for nothing.
        let asks = matches!(&reply, Reply::Answer(answer) if answer.want_tickets);
        if !asks {
            self.judge.speaks(host, self.now.get());
        }
        self.check_placed();
        match reply {
            Reply::Answer(answer) => self.reply(caller, id, Some(answer)),
            Reply::Refused(_) => self.reply(caller, id, None),
            Reply::Held(until) => {
                self.callers.insert(id, caller);
                self.queue.push(until, Event::HeldLongEnough(id));
            }
        }
    }

    /// Hosts whose desired state changed: what is held of them is looked at.
    pub(super) fn wake(&mut self, hosts: &[HostId]) {
        for id in self.hub.held_of(hosts) {
            self.look_at(id, false);
        }
    }

    pub(super) fn look_at(&mut self, id: RequestId, over: bool) {
        let Some(reply) = self.hub.look(id, over) else {
            return;
        };
        let Some(caller) = self.callers.remove(&id) else {
            return;
        };
        match reply {
            Reply::Answer(answer) => self.reply(caller, id, Some(answer)),
            Reply::Refused(_) | Reply::Held(_) => self.reply(caller, id, None),
        }
    }

    /// Every held request breaks off: the marketplace's process is gone.
    pub(super) fn marketplace_stops(&mut self) {
        for id in self.hub.stop() {
            if let Some(caller) = self.callers.remove(&id) {
                self.reply(caller, id, None);
            }
        }
    }

    fn reply(&mut self, caller: Caller, id: RequestId, answer: Option<Box<SyncResponse>>) {
        let link = self.link(caller.host);
        if link.cut || link.deaf || self.chance(link.lost) {
            return;
        }
        let event = Event::Answered {
            to: caller.host,
            process: caller.process,
            id,
            asked: caller.asked,
            answer,
        };
        let delay = self.delay(caller.host);
        self.after(delay, event);
    }

    pub(super) fn answered(
        &mut self,
        host: Index,
        process: ProcessId,
        id: RequestId,
        asked: Millis,
        answer: Option<Box<SyncResponse>>,
    ) {
        let (of, now) = (self.id(host), self.now.get());
        if self.hosts[host].link.cut {
            return;
        }
        let Some((agent, fences)) = self.hosts[host].process(process) else {
            return;
        };
        if agent.flight.as_ref().is_none_or(|flight| flight.id != id) {
            return;
        }
        let Some(answer) = answer else {
            agent.flight = None;
            return self.try_again(host, process);
        };
        if agent.answered(&answer, fences) {
            self.judge.hears(of, asked, now, &answer);
        }
        let gap = SHORTEST_GAP.saturating_sub(now - asked).max(1);
        self.after(gap, Event::Ask(host, process));
        self.turn(host);
    }

    pub(super) fn timed_out(&mut self, host: Index, process: ProcessId, id: RequestId) {
        let Some((agent, _)) = self.hosts[host].process(process) else {
            return;
        };
        if agent.flight.as_ref().is_some_and(|flight| flight.id == id) {
            agent.flight = None;
            self.hang_up(host, id);
            self.try_again(host, process);
        }
    }

    fn try_again(&mut self, host: Index, process: ProcessId) {
        let wait = self.random.random_range(400..30 * SECOND);
        self.after(wait, Event::Ask(host, process));
    }
}
