//! The host's way out: a thread that brings all network cards up, asks for
//! addresses on every port with a cable in it at once, and keeps one in use.
//!
//! It never gives up and never waits for one port: a card, a cable or a server
//! that comes late joins in. What it found is shared with whoever fetches.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use surplus_stage::Stage;

use crate::net::address;
use crate::net::choice::{Choice, Step};
use crate::net::dhcp::client::{Client, News};
use crate::net::dhcp::packet::{Lease, Mac};
use crate::net::dhcp::socket::Socket;
use crate::net::ipv6;
use crate::net::link::{self, Link};
use crate::net::roots::Roots;
use crate::net::url::{Host, RootUrl};

use self::switches::Switches;

mod switches;
mod words;

/// How often cards, cables and routers' addresses are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A DHCP server that is there has answered well before the first word.
const FIRST_WORD: Duration = Duration::from_secs(8);
const NEXT_WORD: Duration = Duration::from_secs(30);

/// What the thread found, as far as others need it.
#[derive(Debug, Default)]
struct Found {
    /// Port, hardware address and lease in use.
    lease: Option<(String, Mac, Lease)>,
    ipv6: Vec<(String, Ipv6Addr)>,
    roots: Roots,
    /// Asked of the thread.
    next: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    found: Mutex<Found>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running thread.
#[derive(Debug)]
pub(crate) struct Uplink {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Uplink {
    /// Starts it; `named` are the root's addresses, if they are known. If not,
    /// DHCP is asked for them, too.
    pub(crate) fn start(named: Vec<RootUrl>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let wants_root = named.is_empty();
        shared.lock().roots = Roots::new(named);
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || Ports::new(theirs, wants_root).run())?;
        Ok(Self { shared, thread })
    }

    /// The root's addresses that can be tried now; waits until there is one.
    pub(crate) fn urls(&self) -> Vec<RootUrl> {
        let mut found = self.shared.lock();
        loop {
            let urls: Vec<_> = found
                .roots
                .urls()
                .iter()
                .filter(|url| found.reaches(url.host()))
                .cloned()
                .collect();
            if !urls.is_empty() {
                return urls;
            }
            let woken = self.shared.changed.wait(found);
            found = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No address of the root served: another lease is used from now on, if
    /// there is one, and DHCP is asked anew for what it named.
    pub(crate) fn next_lease(&self) {
        self.shared.lock().next = true;
    }

    /// The port that leads out, its hardware address, its address.
    pub(crate) fn used(&self) -> Option<(String, Mac, IpAddr)> {
        let found = self.shared.lock();
        match (&found.lease, found.ipv6.first()) {
            (Some((name, mac, lease)), _) => Some((name.clone(), *mac, lease.address.into())),
            (None, Some((name, address))) => {
                let links = link::all();
                let link = links.iter().find(|link| link.name == *name);
                let mac = link.map_or(Mac::default(), |link| link.mac);
                Some((name.clone(), mac, (*address).into()))
            }
            (None, None) => None,
        }
    }

    /// A list of name servers that stays up to date.
    pub(crate) fn name_servers(&self) -> impl Fn() -> Vec<Ipv4Addr> + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let found = shared.lock();
            let lease = found.lease.as_ref().map(|(_, _, lease)| lease.dns.clone());
            lease.unwrap_or_default()
        }
    }

    /// Ends the thread; the addresses stay as they are.
    pub(crate) fn stop(self) {
        self.shared.lock().stop = true;
        // It ended by a panic, if at all; then there is nothing to wait for.
        let _ = self.thread.join();
    }
}

impl Found {
    fn reaches(&self, host: &Host) -> bool {
        match host {
            Host::Address(IpAddr::V4(_)) => self.lease.is_some(),
            Host::Address(IpAddr::V6(_)) => !self.ipv6.is_empty(),
            Host::Name(_) => self.lease.is_some() || !self.ipv6.is_empty(),
        }
    }
}

/// A port with a cable in it.
#[derive(Debug)]
struct Port {
    link: Link,
    socket: Socket,
    client: Client,
}

/// The thread's own.
#[derive(Debug)]
struct Ports {
    shared: Arc<Shared>,
    wants_root: bool,
    switches: Switches,
    /// To the thread that switches ports on, and from it.
    switch: mpsc::Sender<String>,
    tried: mpsc::Receiver<(String, io::Result<()>)>,
    links: Vec<Link>,
    ports: BTreeMap<String, Port>,
    choice: Choice,
    word_at: Instant,
}

impl Ports {
    fn new(shared: Arc<Shared>, wants_root: bool) -> Self {
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
            ports: BTreeMap::new(),
            choice: Choice::default(),
            word_at: Instant::now() + FIRST_WORD,
        }
    }

    fn run(mut self) {
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
            for port in self.ports.values_mut() {
                port.client.asks_for_root(now);
            }
        }
        if let Some((link, _)) = self.choice.used()
            && let Some(port) = self.ports.get_mut(&link.name)
        {
            port.client.led_nowhere(now);
        }
        let steps = self.choice.next();
        self.follow(steps);
    }

    /// Finds new cards and cables, and misses what is gone.
    fn look(&mut self) {
        self.links = link::all();
        let now = Instant::now();
        for (name, outcome) in self.tried.try_iter() {
            let error = outcome.err().map(|error| error.to_string());
            self.switches.tried(name, error, now);
        }
        for name in self.switches.due(&self.links, now) {
            let _ = self.switch.send(name);
        }
        let gone: Vec<_> = self
            .ports
            .values()
            .filter(|port| !self.links.contains(&port.link))
            .map(|port| port.link.clone())
            .collect();
        for link in gone {
            self.ports.remove(&link.name);
            Stage::new("network")
                .with("interface", &link.name)
                .with("link", "lost")
                .announce();
            let steps = self.choice.unlinked(&link);
            self.follow(steps);
        }
        let linked: Vec<_> = self
            .links
            .iter()
            .filter(|link| link.linked)
            .cloned()
            .collect();
        for link in linked {
            if !self.ports.contains_key(&link.name)
                && let Ok(socket) = Socket::open(&link.name)
            {
                let xid = u32::from_ne_bytes([link.mac[2], link.mac[3], link.mac[4], link.mac[5]]);
                let xid = xid ^ elapsed_bits();
                let client = Client::new(link.mac, xid, self.wants_root, Instant::now());
                self.ports.insert(
                    link.name.clone(),
                    Port {
                        link,
                        socket,
                        client,
                    },
                );
            }
        }
        let steps = self.choice.expire(Instant::now());
        self.follow(steps);
    }

    /// Sends what is due.
    fn act(&mut self) {
        let now = Instant::now();
        let mut lost = Vec::new();
        for port in self.ports.values_mut() {
            let (packet, news) = port.client.act(now);
            if let Some(packet) = packet {
                // Not sent is like lost on the way: it is sent again.
                let _ = port.socket.send(&packet);
            }
            if news == Some(News::Lost) {
                lost.push(port.link.clone());
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
        let due = self.ports.values().map(|port| port.client.due()).min();
        let until = due.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        let mut sockets: Vec<_> = self
            .ports
            .values()
            .map(|port| PollFd::new(port.socket.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(
            &mut sockets,
            PollTimeout::try_from(until).unwrap_or(PollTimeout::ZERO),
        );
    }

    fn receive(&mut self) {
        let now = Instant::now();
        let mut all = Vec::new();
        for port in self.ports.values_mut() {
            while let Ok(Some(packet)) = port.socket.receive() {
                let news = port.client.receive(&packet, now);
                all.extend(news.into_iter().map(|news| (port.link.clone(), news)));
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
                News::Urls(urls) => self.learn(urls),
            }
        }
    }

    fn learn(&mut self, urls: Vec<RootUrl>) {
        if !self.wants_root {
            return;
        }
        for port in self.ports.values_mut() {
            port.client.knows_root();
        }
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
                            port.client.unusable(Instant::now());
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
        let ours = |name: &str| {
            self.links
                .iter()
                .any(|link| link.linked && link.name == name)
        };
        let addresses: Vec<_> = ipv6::addresses()
            .into_iter()
            .filter(|(name, _)| ours(name))
            .collect();
        let mut found = self.shared.lock();
        for (name, address) in &addresses {
            if !found.ipv6.iter().any(|(_, known)| known == address) {
                Stage::new("network")
                    .with("interface", name)
                    .with("address", address)
                    .announce();
            }
        }
        if found.ipv6 != addresses {
            found.ipv6 = addresses;
            self.shared.changed.notify_all();
        }
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

/// Whether the lease's address could be set.
fn configure(link: &Link, lease: &Lease) -> bool {
    if let Some(mtu) = lease.mtu {
        // A card that cannot do it goes on with what it has.
        let _ = link::set_mtu(&link.name, mtu);
    }
    let stage = || Stage::new("network").with("interface", &link.name);
    match address::configure(link.index, lease) {
        Ok(refused) => {
            stage()
                .with("address", lease.address)
                .with("mac", link::mac_text(link.mac))
                .with("dhcp", lease.server)
                .announce();
            for (route, error) in refused {
                stage()
                    .failed(
                        format!("setting the route {route}: {error}"),
                        "check the routes that the DHCP server hands out; the host goes on \
                         without it",
                    )
                    .announce();
            }
            true
        }
        Err(error) => {
            stage()
                .failed(
                    format!("setting the address {}: {error}", lease.address),
                    "check what the DHCP server hands out; the host goes on asking",
                )
                .announce();
            false
        }
    }
}

/// Differs from one conversation to the next.
fn elapsed_bits() -> u32 {
    let micros = surplus_stage::elapsed() * 1000.0;
    // Seconds since the kernel's start in thousandths: positive, and small.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "any bits will do"
    )]
    let bits = micros as u32;
    bits.rotate_left(16)
}

#[cfg(test)]
mod tests;
