//! Addresses and routes by rtnetlink: those of a lease are set, and all are
//! taken away again before the booted host sets its own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use self::message::Message;
use crate::net::dhcp::v4::{Lease, Route};

mod message;

/// The kernel's number of its main routing table.
const MAIN: u8 = 254;

/// Gives the link of this index the lease's address and routes; answers which
/// routes the kernel refused. An error is the address's own.
pub(crate) fn configure(index: u32, lease: &Lease) -> io::Result<Vec<(Route, io::Error)>> {
    let mut kernel = Kernel::open()?;
    kernel.change(
        Message::NewAddress(address(index, lease.address.into(), lease.prefix)),
        NLM_F_CREATE | NLM_F_REPLACE,
    )?;
    Ok(set_each(routes(lease), |route| {
        kernel.change(
            Message::NewRoute(via(index, route)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }))
}

/// One that is refused costs none of the others.
fn set_each(
    routes: Vec<Route>,
    mut set: impl FnMut(Route) -> io::Result<()>,
) -> Vec<(Route, io::Error)> {
    let refused = |route| set(route).err().map(|error| (route, error));
    routes.into_iter().filter_map(refused).collect()
}

/// Takes the lease's address away, and with it the routes that use it.
pub(crate) fn remove(index: u32, lease: &Lease) -> io::Result<()> {
    let gone = address(index, lease.address.into(), lease.prefix);
    Kernel::open()?.change(Message::DelAddress(gone), 0)
}

/// Gives the link of this index an address of IPv6, with no network around it.
pub(crate) fn add_v6(index: u32, own: Ipv6Addr) -> io::Result<()> {
    let new = Message::NewAddress(address(index, own.into(), 128));
    Kernel::open()?.change(new, NLM_F_CREATE | NLM_F_REPLACE)
}

pub(crate) fn remove_v6(index: u32, own: Ipv6Addr) -> io::Result<()> {
    let gone = Message::DelAddress(address(index, own.into(), 128));
    Kernel::open()?.change(gone, 0)
}

/// Takes away every address of every link but the loopback's; the links stay
/// up, so that the booted host need not wait for them again.
pub(crate) fn flush() -> io::Result<()> {
    let mut kernel = Kernel::open()?;
    for address in kernel.addresses()? {
        kernel.change(Message::DelAddress(address), 0)?;
    }
    // Off and on again: that takes addresses, routes and neighbours of IPv6.
    let links = fs::read_dir("/proc/sys/net/ipv6/conf")?;
    for link in links.flatten() {
        let name = link.file_name();
        if ["all", "default", "lo"].iter().any(|other| name == *other) {
            continue;
        }
        toggle(&link.path().join("disable_ipv6"))?;
    }
    Ok(())
}

fn toggle(switch: &Path) -> io::Result<()> {
    fs::write(switch, "1")?;
    fs::write(switch, "0")
}

/// The lease's routes; a gateway outside the lease's own network needs a route
/// of its own first.
fn routes(lease: &Lease) -> Vec<Route> {
    let mut routes = Vec::new();
    for route in &lease.routes {
        if let Some(gateway) = route.gateway
            && !is_in(gateway, lease.address, lease.prefix)
        {
            routes.push(Route {
                to: gateway,
                prefix: 32,
                gateway: None,
            });
        }
        routes.push(*route);
    }
    routes
}

fn is_in(address: Ipv4Addr, network: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    address.to_bits() & mask == network.to_bits() & mask
}

fn address(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if let IpAddr::V4(address) = address
        && prefix < 31
    {
        let broadcast = address.to_bits() | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast.into()));
    }
    message
}

fn via(index: u32, route: Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.prefix;
    message.header.table = MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.attributes.push(RouteAttribute::Oif(index));
    if route.prefix > 0 {
        let to = RouteAddress::Inet(route.to);
        message.attributes.push(RouteAttribute::Destination(to));
    }
    if let Some(gateway) = route.gateway {
        let gateway = RouteAddress::Inet(gateway);
        message.attributes.push(RouteAttribute::Gateway(gateway));
    }
    message
}

/// A conversation with the kernel.
#[derive(Debug)]
struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for a change and waits until it is made.
    fn change(&mut self, change: Message, flags: u16) -> io::Result<()> {
        self.send(change, NLM_F_ACK | flags)?;
        loop {
            for message in self.receive()? {
                if let NetlinkPayload::Error(error) = message.payload {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
            }
        }
    }

    /// All IPv4 addresses but the loopback's.
    fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let mut question = AddressMessage::default();
        question.header.family = AddressFamily::Inet;
        self.send(Message::GetAddress(question), NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(Message::NewAddress(address))
                        if !is_loopback(&address) =>
                    {
                        found.push(address);
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&self) -> io::Result<Vec<NetlinkMessage<Message>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(0);
            rest = rest
                .get(length.max(1).next_multiple_of(4)..)
                .unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn is_loopback(address: &AddressMessage) -> bool {
    address.attributes.iter().any(|attribute| {
        matches!(attribute, AddressAttribute::Address(address) if address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lease(prefix: u8, gateway: [u8; 4]) -> Lease {
        Lease {
            address: [10, 77, 0, 9].into(),
            prefix,
            server: [10, 77, 0, 1].into(),
            routes: vec![Route {
                to: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some(gateway.into()),
            }],
            dns: Vec::new(),
            mtu: None,
            time: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_gateway_on_another_network_gets_a_route_of_its_own() {
        assert_eq!(routes(&lease(24, [10, 77, 0, 1])).len(), 1);
        let routes = routes(&lease(32, [10, 77, 0, 1]));
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].gateway, None);
        assert_eq!(routes[0].to, Ipv4Addr::new(10, 77, 0, 1));
    }

    #[test]
    fn a_route_that_is_refused_costs_none_of_the_others() {
        let mut lease = lease(24, [10, 77, 0, 1]);
        let bad = Route {
            to: [10, 9, 0, 1].into(),
            prefix: 16,
            gateway: None,
        };
        lease.routes.insert(0, bad);
        let mut set = Vec::new();
        let refused = set_each(routes(&lease), |route| {
            set.push(route);
            match route == bad {
                true => Err(io::ErrorKind::InvalidInput.into()),
                false => Ok(()),
            }
        });
        assert_eq!(set, lease.routes);
        let refused: Vec<_> = refused.iter().map(|(route, _)| route.to_string()).collect();
        assert_eq!(refused, ["10.9.0.1/16"]);
        assert_eq!(lease.routes[1].to_string(), "0.0.0.0/0 via 10.77.0.1");
    }

    #[test]
    fn networks_of_every_size_are_told_apart() {
        let one = Ipv4Addr::new(10, 77, 0, 9);
        assert!(is_in([10, 77, 255, 1].into(), one, 16));
        assert!(!is_in([10, 78, 0, 9].into(), one, 16));
        assert!(is_in([192, 0, 2, 1].into(), one, 0));
        assert!(!is_in([10, 77, 0, 8].into(), one, 32));
    }

    #[test]
    fn the_broadcast_address_is_the_networks_last() {
        let broadcast = |prefix| {
            let message = address(1, IpAddr::from([10, 77, 0, 9]), prefix);
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Broadcast(address) => Some(*address),
                    _ => None,
                })
        };
        assert_eq!(broadcast(24), Some([10, 77, 0, 255].into()));
        assert_eq!(broadcast(30), Some([10, 77, 0, 11].into()));
        assert_eq!(broadcast(32), None);
    }

    #[test]
    fn the_kernel_answers_what_addresses_there_are() {
        let addresses = Kernel::open().unwrap().addresses().unwrap();
        assert!(!addresses.iter().any(is_loopback));
    }
}
