//! The host's way out: a thread that brings all network cards up, asks for
//! addresses on every port with a cable in it at once, and keeps one in use.
//!
//! It never gives up and never waits for one port: a card, a cable or a server
//! that comes late joins in. What it found is shared with whoever fetches.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::net::dhcp::v4::Lease;
use crate::net::dns;
use crate::net::link::{self, Mac};
use crate::net::roots::Roots;
use crate::net::url::{Host, RootUrl};

use self::ports::Ports;

mod port;
mod ports;
mod switches;
mod words;

/// What the thread found, as far as others need it.
#[derive(Debug, Default)]
struct Found {
    /// Port, hardware address and lease in use.
    lease: Option<(String, Mac, Lease)>,
    ipv6: Vec<(String, Ipv6Addr)>,
    /// That DHCPv6 named; those of DHCPv4 belong to its lease.
    name_servers_v6: Vec<SocketAddr>,
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
    pub(crate) fn name_servers(&self) -> impl Fn() -> Vec<SocketAddr> + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.lock().name_servers()
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

    fn name_servers(&self) -> Vec<SocketAddr> {
        let lease = self.lease.iter();
        let four = lease.flat_map(|(_, _, lease)| &lease.dns);
        let four = four.map(|server| (*server, dns::PORT).into());
        four.chain(self.name_servers_v6.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests;
