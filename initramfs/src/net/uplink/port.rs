//! A port with a cable in it: what is spoken on it, in both internet protocols.
//!
//! Of DHCPv4's leases one is in use ([`super::ports`]). The address of DHCPv6 is
//! set here, at each port, beside those that the kernel makes for itself.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd as _;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use surplus_stage::Stage;

use crate::net::address;
use crate::net::dhcp::client::{Client, News, Protocol};
use crate::net::dhcp::socket::Socket;
use crate::net::dhcp::v4::{self, V4};
use crate::net::dhcp::v6::{self, V6};
use crate::net::dns;
use crate::net::link::{self, Link};
use crate::net::url::RootUrl;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) link: Link,
    pub(super) four: Talk<V4>,
    /// Once the link has its own address.
    pub(super) six: Option<Six>,
}

impl Port {
    pub(super) fn open(link: Link, wants_root: bool) -> io::Result<Self> {
        let words = V4 {
            mac: link.mac,
            xid: xid(&link),
        };
        let four = Talk::begin(Socket::v4(&link)?, words, wants_root);
        Ok(Self {
            link,
            four,
            six: None,
        })
    }

    /// Speaks DHCPv6, too, if it does not yet.
    pub(super) fn begin_ipv6(&mut self, wants_root: bool) {
        if self.six.is_none() {
            self.six = Six::open(self.link.clone(), wants_root).ok();
        }
    }

    pub(super) fn asks_for_root(&mut self, now: Instant) {
        self.four.client.asks_for_root(now);
        if let Some(six) = &mut self.six {
            six.talk.client.asks_for_root(now);
        }
    }

    pub(super) fn knows_root(&mut self) {
        self.four.client.knows_root();
        if let Some(six) = &mut self.six {
            six.talk.client.knows_root();
        }
    }

    pub(super) fn due(&self) -> Instant {
        let four = self.four.client.due();
        let six = self.six.as_ref().map(|six| six.talk.client.due());
        six.map_or(four, |six| six.min(four))
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = PollFd<'_>> {
        let six = self.six.as_ref().map(|six| &six.talk.socket);
        let sockets = [Some(&self.four.socket), six].into_iter().flatten();
        sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
    }
}

/// A conversation and its socket.
#[derive(Debug)]
pub(super) struct Talk<P: Protocol> {
    socket: Socket,
    pub(super) client: Client<P>,
}

impl<P: Protocol> Talk<P> {
    fn begin(socket: Socket, words: P, wants_root: bool) -> Self {
        Self {
            socket,
            client: Client::new(words, wants_root, Instant::now()),
        }
    }

    /// Sends what is due.
    pub(super) fn act(&mut self, now: Instant) -> Option<News<P::Lease>> {
        let (packets, news) = self.client.act(now);
        for packet in packets {
            // Not sent is like lost on the way: it is sent again.
            let _ = self.socket.send(&packet);
        }
        news
    }

    pub(super) fn receive(&mut self, now: Instant) -> Vec<News<P::Lease>> {
        let mut news = Vec::new();
        while let Ok(Some(packet)) = self.socket.receive() {
            news.extend(self.client.receive(&packet, now));
        }
        news
    }
}

/// DHCPv6 on a port.
#[derive(Debug)]
pub(super) struct Six {
    link: Link,
    talk: Talk<V6>,
    /// The address that is set.
    held: Option<v6::Lease>,
    name_servers: Vec<Ipv6Addr>,
}

impl Six {
    fn open(link: Link, wants_root: bool) -> io::Result<Self> {
        let words = V6 {
            mac: link.mac,
            xid: xid(&link),
        };
        Ok(Self {
            talk: Talk::begin(Socket::v6(&link)?, words, wants_root),
            link,
            held: None,
            name_servers: Vec::new(),
        })
    }

    pub(super) fn act(&mut self, now: Instant) {
        if self.talk.act(now) == Some(News::Lost) {
            self.give_up();
        }
    }

    /// Addresses of the root that were named.
    pub(super) fn receive(&mut self, now: Instant) -> Vec<RootUrl> {
        let mut urls = Vec::new();
        for news in self.talk.receive(now) {
            match news {
                News::Leased(lease) => self.take(lease, now),
                News::Lost => self.give_up(),
                News::Urls(more) => urls.extend(more),
                News::NameServers(servers) => self.name_servers = servers,
            }
        }
        urls
    }

    pub(super) fn led_nowhere(&mut self, now: Instant) {
        self.talk.client.led_nowhere(now);
    }

    fn take(&mut self, lease: v6::Lease, now: Instant) {
        let address = lease.address;
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.address != address)
        {
            self.give_up();
        }
        match address::add_v6(self.link.index, address) {
            Ok(()) => self.held = Some(lease),
            Err(error) => {
                cannot_set(&self.link, address, &error).announce();
                self.give_up();
                self.talk.client.unusable(now);
            }
        }
    }

    /// Takes the address away again.
    pub(super) fn give_up(&mut self) {
        if let Some(held) = self.held.take() {
            // Gone already, perhaps with its card.
            let _ = address::remove_v6(self.link.index, held.address);
        }
    }

    pub(super) fn name_servers(&self) -> impl Iterator<Item = SocketAddr> {
        let on_link = |server: &Ipv6Addr| match server.is_unicast_link_local() {
            true => self.link.index,
            false => 0,
        };
        let servers = self.name_servers.iter();
        servers.map(move |server| SocketAddrV6::new(*server, dns::PORT, 0, on_link(server)).into())
    }

    /// Who gave this address, as DHCP servers write it in their logs.
    pub(super) fn server_of(&self, address: Ipv6Addr) -> Option<String> {
        let held = self.held.as_ref().filter(|held| held.address == address)?;
        let bytes = held.server.iter().map(|byte| format!("{byte:02x}"));
        Some(bytes.collect::<Vec<_>>().join(":"))
    }
}

/// Whether the lease's address could be set.
pub(super) fn configure(link: &Link, lease: &v4::Lease) -> bool {
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
            cannot_set(link, lease.address, &error).announce();
            false
        }
    }
}

fn cannot_set(link: &Link, address: impl fmt::Display, error: &io::Error) -> Stage {
    Stage::new("network").with("interface", &link.name).failed(
        format!("setting the address {address}: {error}"),
        "check what the DHCP server hands out; the host goes on asking",
    )
}

fn xid(link: &Link) -> u32 {
    let [_, _, mac @ ..] = link.mac;
    u32::from_ne_bytes(mac) ^ elapsed_bits()
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
