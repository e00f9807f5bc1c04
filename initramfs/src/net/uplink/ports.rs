//! The thread's own: the cards, what is spoken on them, and what is made of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv6Addr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use surplus_stage::Stage;

use super::port::{Port, configure};
use super::switches::Switches;
use super::{Shared, words};
use crate::net::address;
use crate::net::choice::{Choice, Step};
use crate::net::dhcp::client::News;
use crate::net::ipv6;
use crate::net::link::{self, Link};
use crate::net::url::RootUrl;

/// How often cards, cables and addresses of IPv6 are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A DHCP server that is there has answered well before the first word.
const FIRST_WORD: Duration = Duration::from_secs(8);
const NEXT_WORD: Duration = Duration::from_secs(30);

/// The thread's own.
#[derive(Debug)]
pub(super) struct Ports {
    shared: Arc<Shared>,
    wants_root: bool,
    switches: Switches,
    /// To the thread that switches ports on, and from it.
    switch: mpsc::Sender<String>,
    tried: mpsc::Receiver<(String, io::Result<()>)>,
    links: Vec<Link>,
    /// Of IPv6, with their links' names.
    addresses: Vec<(String, Ipv6Addr)>,
    ports: BTreeMap<String, Port>,
    choice: Choice,
    word_at: Instant,
}

impl Ports {
    pub(super) fn new(shared: Arc<Shared>, wants_root: bool) -> Self {
        let (switch, names) = mpsc::channel::<String>();
        let (outcome, tried) = mpsc::channel();
        // Some drivers take seconds for it, so not in this thread.
        thread::spawn(move || {
            for name in names {
                let brought = link::bring_up(&name);
                if outcome.send((name, brought)).is_err() {
                    return;
                }
            }
        });
        Self {
            shared,
            wants_root,
            switches: Switches::default(),
            switch,
            tried,
            links: Vec::new(),
            addresses: Vec::new(),
            ports: BTreeMap::new(),
            choice: Choice::default(),
            word_at: Instant::now() + FIRST_WORD,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let next = {
                let mut found = self.shared.lock();
                if found.stop {
                    return;
                }
                std::mem::take(&mut found.next)
            };
            if next {
                self.other_way();
            }
            self.look();
            self.act();
            self.share_ipv6();
            self.say_what_is_missing();
            self.wait();
            self.receive();
        }
    }

    fn other_way(&mut self) {
        let now = Instant::now();
        if self.wants_root {
            self.shared.lock().roots.failed();
            self.ports
                .values_mut()
                .for_each(|port| port.asks_for_root(now));
        }
        if let Some((link, _)) = self.choice.used()
            && let Some(port) = self.ports.get_mut(&link.name)
        {
            port.four.client.led_nowhere(now);
        }
        // All addresses of IPv6 are in use.
        for six in self.ports.values_mut().filter_map(|port| port.six.as_mut()) {
            six.led_nowhere(now);
        }
        let steps = self.choice.next();
        self.follow(steps);
    }

    /// Finds new cards and cables, and misses what is gone.
    fn look(&mut self) {
        self.links = link::all();
        self.addresses = ipv6::addresses();
        let now = Instant::now();
        for (name, outcome) in self.tried.try_iter() {
            let error = outcome.err().map(|error| error.to_string());
            self.switches.tried(name, error, now);
        }
        for name in self.switches.due(&self.links, now) {
            let _ = self.switch.send(name);
        }
        self.miss_what_is_gone();
        for link in self.links.iter().filter(|link| link.linked) {
            if !self.ports.contains_key(&link.name)
                && let Ok(port) = Port::open(link.clone(), self.wants_root)
            {
                self.ports.insert(link.name.clone(), port);
            }
        }
        for port in self.ports.values_mut() {
            let mut own = self.addresses.iter();
            if own.any(|(name, own)| *name == port.link.name && own.is_unicast_link_local()) {
                port.begin_ipv6(self.wants_root);
            }
        }
        let steps = self.choice.expire(Instant::now());
        self.follow(steps);
    }

    fn miss_what_is_gone(&mut self) {
        let gone = |port: &&Port| !self.links.contains(&port.link);
        let gone = self.ports.values().filter(gone);
        let names: Vec<_> = gone.map(|port| port.link.name.clone()).collect();
        for name in names {
            let Some(mut port) = self.ports.remove(&name) else {
                continue;
            };
            Stage::new("network")
                .with("interface", &port.link.name)
                .with("link", "lost")
                .announce();
            if let Some(six) = &mut port.six {
                six.give_up();
            }
            let steps = self.choice.unlinked(&port.link);
            self.follow(steps);
        }
    }

    /// Sends what is due.
    fn act(&mut self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for port in self.ports.values_mut() {
            if port.four.act(now) == Some(News::Lost) {
                lost.push(port.link.clone());
            }
            if let Some(six) = &mut port.six {
                six.act(now);
            }
        }
        for link in lost {
            let steps = self.choice.lost(&link);
            self.follow(steps);
        }
    }

    /// Until something arrives, or there is something to do.
    fn wait(&self) {
        let now = Instant::now();
        let due = self.ports.values().map(Port::due).min();
        let until = due.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        let mut sockets: Vec<_> = self.ports.values().flat_map(Port::sockets).collect();
        let _ = poll(
            &mut sockets,
            PollTimeout::try_from(until).unwrap_or(PollTimeout::ZERO),
        );
    }

    fn receive(&mut self) {
        let now = Instant::now();
        let mut all = Vec::new();
        let mut urls = Vec::new();
        for port in self.ports.values_mut() {
            let news = port.four.receive(now);
            all.extend(news.into_iter().map(|news| (port.link.clone(), news)));
            if let Some(six) = &mut port.six {
                urls.extend(six.receive(now));
            }
        }
        for (link, news) in all {
            match news {
                News::Leased(lease) => {
                    let steps = self.choice.leased(&link, lease, now);
                    self.follow(steps);
                }
                News::Lost => {
                    let steps = self.choice.lost(&link);
                    self.follow(steps);
                }
                News::Urls(more) => urls.extend(more),
                // Those of DHCPv4 are the lease's.
                News::NameServers(_) => {}
            }
        }
        if !urls.is_empty() {
            self.learn(urls);
        }
    }

    fn learn(&mut self, urls: Vec<RootUrl>) {
        if !self.wants_root {
            return;
        }
        self.ports.values_mut().for_each(Port::knows_root);
        let mut found = self.shared.lock();
        for url in urls {
            if found.roots.learn(&url) {
                Stage::new("network")
                    .with("root", &url)
                    .with("from", "dhcp")
                    .announce();
            }
        }
        self.shared.changed.notify_all();
    }

    fn follow(&mut self, steps: Vec<Step>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                // Gone already, perhaps with its card.
                Step::Remove(link, lease) => _ = address::remove(link.index, &lease),
                Step::Use(link, lease) => {
                    if !configure(&link, &lease) {
                        if let Some(port) = self.ports.get_mut(&link.name) {
                            port.four.client.unusable(Instant::now());
                        }
                        steps.extend(self.choice.lost(&link));
                    }
                }
            }
        }
        let used = self.choice.used();
        self.shared.lock().lease =
            used.map(|(link, lease)| (link.name.clone(), link.mac, lease.clone()));
        self.shared.changed.notify_all();
    }

    fn share_ipv6(&self) {
        let addresses: Vec<_> = self
            .addresses
            .iter()
            .filter(|(name, address)| {
                self.ports.contains_key(name) && !address.is_unicast_link_local()
            })
            .cloned()
            .collect();
        let sixes = self.ports.values().filter_map(|port| port.six.as_ref());
        let name_servers: Vec<_> = sixes.flat_map(|six| six.name_servers()).collect();
        let mut found = self.shared.lock();
        for (name, address) in &addresses {
            if !found.ipv6.iter().any(|(_, known)| known == address) {
                self.announce(name, *address);
            }
        }
        if found.ipv6 != addresses || found.name_servers_v6 != name_servers {
            found.ipv6 = addresses;
            found.name_servers_v6 = name_servers;
            self.shared.changed.notify_all();
        }
    }

    fn announce(&self, name: &str, address: Ipv6Addr) {
        let mut stage = Stage::new("network")
            .with("interface", name)
            .with("address", address);
        let port = self.ports.get(name);
        if let Some(server) = port.and_then(|port| port.six.as_ref()?.server_of(address)) {
            stage = stage.with("dhcp", server);
        }
        stage.announce();
    }

    /// Says now and then what an address, or the root's address, is waited for.
    fn say_what_is_missing(&mut self) {
        let now = Instant::now();
        if now < self.word_at {
            return;
        }
        self.word_at = now + NEXT_WORD;
        if let Some(missing) = words::missing(&self.shared.lock(), &self.links, &self.switches) {
            missing.announce();
        }
    }
}
