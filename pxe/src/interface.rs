//! The interface that is served: its address and the network behind it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// An interface and the address that hosts shall know us by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: Ipv4Addr,
    /// The network that the address lies in.
    pub network: Ipv4Net,
}

/// Why an interface cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("cannot list this machine's interfaces")]
    List(#[source] nix::Error),
    #[error("there is no interface {name:?}; give one of these with --interface: {there}")]
    Missing { name: String, there: String },
    #[error(
        "interface {name} is this machine's loopback, which no host is connected to; give the \
         interface to the hosts' network with --interface: {there}"
    )]
    Loopback { name: String, there: String },
    #[error(
        "interface {name} has no IPv4 address, so hosts could not reach this server; \
         give it one (ip address add ADDRESS/LENGTH dev {name})"
    )]
    NoAddress { name: String },
    #[error("interface {name} does not have the address {wanted}; it has: {there}")]
    OtherAddress {
        name: String,
        wanted: Ipv4Addr,
        there: String,
    },
}

impl Interface {
    /// Looks at interface `name`: `wanted` among its addresses, or else the
    /// first one that is not link-local.
    ///
    /// # Errors
    ///
    /// Where it does not exist or has no such address.
    pub fn find(name: &str, wanted: Option<Ipv4Addr>) -> Result<Self, InterfaceError> {
        let mut names = BTreeSet::new();
        let mut networks = Vec::new();
        for entry in getifaddrs().map_err(InterfaceError::List)? {
            names.insert(entry.interface_name.clone());
            if entry.interface_name != name {
                continue;
            }
            let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
                address.and_then(|address| address.as_sockaddr_in().map(|inet| inet.ip()))
            };
            if let (Some(address), Some(mask)) = (ip(entry.address), ip(entry.netmask)) {
                networks.extend(Ipv4Net::with_netmask(address, mask));
            }
        }
        if !names.contains(name) {
            return Err(InterfaceError::Missing {
                name: name.to_owned(),
                there: join(names.iter()),
            });
        }
        let found = match wanted {
            Some(wanted) => networks.iter().find(|network| network.addr() == wanted),
            None => networks
                .iter()
                .find(|network| !network.addr().is_link_local()),
        };
        match (found, wanted) {
            (Some(network), _) => Ok(Self {
                name: name.to_owned(),
                address: network.addr(),
                network: network.trunc(),
            }),
            (None, Some(wanted)) if !networks.is_empty() => Err(InterfaceError::OtherAddress {
                name: name.to_owned(),
                wanted,
                there: join(networks.iter().map(Ipv4Net::addr)),
            }),
            _ => Err(InterfaceError::NoAddress {
                name: name.to_owned(),
            }),
        }
    }

    /// The name of an interface that hosts may be connected to, or of one that is
    /// not there.
    ///
    /// # Errors
    ///
    /// Where it is a loopback.
    pub fn of_hosts(name: String) -> Result<String, InterfaceError> {
        let loopback = InterfaceFlags::IFF_LOOPBACK;
        let all: Vec<_> = getifaddrs().map_err(InterfaceError::List)?.collect();
        let (loopbacks, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|entry| entry.flags.contains(loopback));
        if loopbacks.iter().all(|entry| entry.interface_name != name) {
            return Ok(name);
        }
        let others: BTreeSet<_> = others.iter().map(|entry| &entry.interface_name).collect();
        let there = join(others.iter());
        Err(InterfaceError::Loopback { name, there })
    }

    /// Whether `address` is on the interface's own network.
    pub fn is_near(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.network.contains(&address),
            IpAddr::V6(_) => false,
        }
    }
}

fn join(all: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<_> = all.map(|one| one.to_string()).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_its_name_and_address() {
        let lo = Interface::find("lo", None).unwrap();
        assert_eq!(lo.address, Ipv4Addr::LOCALHOST);
        assert!(lo.is_near("127.1.2.3".parse().unwrap()));
        assert!(lo.is_near("::ffff:127.1.2.3".parse().unwrap()));
        assert!(!lo.is_near("192.0.2.1".parse().unwrap()));
        let missing = Interface::find("none9", None).unwrap_err().to_string();
        assert!(
            missing.contains("none9") && missing.contains("lo"),
            "{missing}"
        );
        let other = Interface::find("lo", Some("192.0.2.7".parse().unwrap()));
        let other = other.unwrap_err().to_string();
        assert!(other.contains("192.0.2.7") && other.contains("127.0.0.1"));
    }

    #[test]
    fn no_host_is_on_the_loopback() {
        let error = Interface::of_hosts("lo".into()).unwrap_err().to_string();
        assert!(error.contains("lo is this machine's loopback"), "{error}");
        assert!(error.contains("--interface"), "{error}");
        assert_eq!(Interface::of_hosts("eth7".into()).unwrap(), "eth7");
    }
}
