//! DHCPv6: what a port asks, and what of an answer it can use.
//!
//! Source: RFC 8415; RFC 3646 for name servers, RFC 5970 for the boot file's
//! address. What arrives is untrusted. Routes, and with them networks beyond the
//! address itself, come by router advertisements alone, which the kernel hears.
//!
//! Not every network gives addresses by DHCPv6: a question for one goes out
//! together with one for the rest, which a server without addresses answers.
//! A server's wish to be asked less often (`SOL_MAX_RT`) is not asked for: a host
//! that waits for its root may be somebody's whole rack.

use std::net::Ipv6Addr;
use std::time::Duration;

use dhcproto::Encodable as _;
use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, ORO, OptionCode, UnknownOption,
};

use super::client::{self, Answer, Kind, Protocol, Question};
use super::{CLASS, FOREVER, SHORTEST};
use crate::net::link::Mac;
use crate::net::url::Named;

/// The port's only address is this one of the client's. networkd on the booted
/// host says the same (80-uplink.network).
const IAID: u32 = 1;
/// Ethernet, in a DUID.
const HARDWARE: u16 = 1;
const LINK_LAYER: u16 = 3;
const LONGEST_DUID: usize = 130;
const MOST_NAME_SERVERS: usize = 4;

/// One port's side of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct V6 {
    pub(crate) mac: Mac,
    /// The upper 8 of its 32 bits are not sent.
    pub(crate) xid: u32,
}

/// An address for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv6Addr,
    /// The server's DUID.
    pub(crate) server: Vec<u8>,
    pub(crate) time: Duration,
}

impl client::Lease for Lease {
    type Server = Vec<u8>;

    fn server(&self) -> &Vec<u8> {
        &self.server
    }

    fn time(&self) -> Duration {
        self.time
    }

    fn same_address(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl V6 {
    /// A client is known by its port's hardware address, as in DHCPv4, here and
    /// by networkd on the booted host, so that both get the same address: a
    /// DUID-LL, which is meant for what has no memory of its own. networkd's
    /// default is made from the machine id, another one at each boot. UEFI and iPXE
    /// take the system's UUID, which several machines may share, some without
    /// their byte order; they get their addresses over IPv4 where they boot us.
    fn duid(&self) -> Vec<u8> {
        [
            &LINK_LAYER.to_be_bytes()[..],
            &HARDWARE.to_be_bytes(),
            &self.mac,
        ]
        .concat()
    }

    fn packet(
        &self,
        kind: MessageType,
        options: impl IntoIterator<Item = DhcpOption>,
        elapsed: Duration,
    ) -> Vec<u8> {
        let [_, xid @ ..] = self.xid.to_be_bytes();
        let mut message = Message::new_with_id(kind, xid);
        let hundredths = u16::try_from(elapsed.as_millis() / 10).unwrap_or(u16::MAX);
        let wanted = vec![OptionCode::DomainNameServers, OptionCode::OptBootfileUrl];
        let usual = [
            DhcpOption::ClientId(self.duid()),
            DhcpOption::ElapsedTime(hundredths),
            DhcpOption::ORO(ORO { opts: wanted }),
            user_class(),
        ];
        for option in usual.into_iter().chain(options) {
            message.opts_mut().insert(option);
        }
        // Encoding into memory fails for options that are too long; ours are not.
        message.to_vec().unwrap_or_default()
    }
}

/// Written here: the crate's own encoder leaves the inner lengths out of the
/// option's length.
fn user_class() -> DhcpOption {
    let length = u16::try_from(CLASS.len()).unwrap_or(0).to_be_bytes();
    DhcpOption::Unknown(UnknownOption::new(
        OptionCode::UserClass,
        [&length, CLASS].concat(),
    ))
}

/// The question for an address: for any, or for this one.
fn association(address: Option<Ipv6Addr>) -> DhcpOption {
    let mut opts = DhcpOptions::new();
    if let Some(addr) = address {
        opts.insert(DhcpOption::IAAddr(IAAddr {
            addr,
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        }));
    }
    DhcpOption::IANA(IANA {
        id: IAID,
        t1: 0,
        t2: 0,
        opts,
    })
}

impl Protocol for V6 {
    type Lease = Lease;

    fn xid(&self) -> u32 {
        self.xid
    }

    fn question(&self, question: Question<'_, Lease>, elapsed: Duration) -> Vec<Vec<u8>> {
        let of = |lease: &Lease| association(Some(lease.address));
        let to = |lease: &Lease| DhcpOption::ServerId(lease.server.clone());
        match question {
            Question::Search => vec![
                self.packet(MessageType::Solicit, [association(None)], elapsed),
                self.packet(MessageType::InformationRequest, [], elapsed),
            ],
            Question::Take(offer) => {
                vec![self.packet(MessageType::Request, [to(offer), of(offer)], elapsed)]
            }
            Question::Renew(lease) => {
                vec![self.packet(MessageType::Renew, [to(lease), of(lease)], elapsed)]
            }
            Question::Rebind(lease) => {
                vec![self.packet(MessageType::Rebind, [of(lease)], elapsed)]
            }
        }
    }

    /// Only the options that are used here are read, and none by the crate's
    /// decoder: it takes nested ones as they come, and panics at some.
    fn answer(&self, bytes: &[u8]) -> Option<Answer<Lease>> {
        let (&[kind, xid @ ..], all) = bytes.split_first_chunk::<4>()?;
        let [_, ours @ ..] = self.xid.to_be_bytes();
        if xid != ours || option(all, OptionCode::ClientId)? != self.duid() {
            return None;
        }
        let server = option(all, OptionCode::ServerId)?;
        let sound = !server.is_empty() && server.len() <= LONGEST_DUID;
        let server = sound.then(|| server.to_vec())?;
        let granted = options(all)
            .filter(|(code, _)| *code == OptionCode::IANA)
            .find_map(|(_, data)| addresses(data));
        let lease = granted.and_then(|inside| lease(inside, &server));
        let (kind, name_servers) = match MessageType::from(kind) {
            MessageType::Advertise => (lease.map_or(Kind::Other, Kind::Offer), Vec::new()),
            MessageType::Reply => {
                let kind = match (granted, lease) {
                    (None, _) => Kind::Other,
                    (Some(_), None) => Kind::Nak(server),
                    (Some(_), Some(lease)) => Kind::Ack(lease),
                };
                (kind, name_servers(all))
            }
            _ => return None,
        };
        let url = option(all, OptionCode::OptBootfileUrl).unwrap_or_default();
        Some(Answer {
            kind,
            urls: Named::in_option(url).urls,
            name_servers,
        })
    }
}

/// The options in `bytes`, up to the first that is cut short.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (OptionCode, &[u8])> {
    std::iter::from_fn(move || {
        let (&[code @ .., _, _], _) = bytes.split_first_chunk::<4>()?;
        let (&[_, _, length @ ..], rest) = bytes.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(u16::from_be_bytes(length).into())?;
        bytes = rest;
        Some((u16::from_be_bytes(code).into(), data))
    })
}

fn option(bytes: &[u8], code: OptionCode) -> Option<&[u8]> {
    options(bytes).find_map(|(found, data)| (found == code).then_some(data))
}

/// What is inside of an association, if it is ours.
fn addresses(association: &[u8]) -> Option<&[u8]> {
    let (id, rest) = association.split_first_chunk()?;
    // Two times, at which to ask again: we have our own.
    let (_, inside) = rest.split_first_chunk::<8>()?;
    (u32::from_be_bytes(*id) == IAID).then_some(inside)
}

/// The first address that can be worked with.
fn lease(association: &[u8], server: &[u8]) -> Option<Lease> {
    if refused(association) {
        return None;
    }
    options(association)
        .filter(|(code, _)| *code == OptionCode::IAAddr)
        .find_map(|(_, data)| {
            let (&address, rest) = data.split_first_chunk::<16>()?;
            let (_preferred, rest) = rest.split_first_chunk::<4>()?;
            let (valid, inside) = rest.split_first_chunk()?;
            let address = Ipv6Addr::from(address);
            let valid = u32::from_be_bytes(*valid);
            let usable = is_usable(address) && !address.is_unicast_link_local();
            (usable && valid > 0 && !refused(inside)).then(|| Lease {
                address,
                server: server.to_vec(),
                time: Duration::from_secs(valid.into()).clamp(SHORTEST, FOREVER),
            })
        })
}

/// Whether there is a status among the options, and it is none of success.
fn refused(bytes: &[u8]) -> bool {
    option(bytes, OptionCode::StatusCode).is_some_and(|status| !status.starts_with(&[0, 0]))
}

fn name_servers(bytes: &[u8]) -> Vec<Ipv6Addr> {
    let data = option(bytes, OptionCode::DomainNameServers).unwrap_or_default();
    let (servers, _) = data.as_chunks::<16>();
    let servers = servers.iter().copied().map(Ipv6Addr::from);
    servers
        .filter(|server| is_usable(*server))
        .take(MOST_NAME_SERVERS)
        .collect()
}

fn is_usable(address: Ipv6Addr) -> bool {
    let nobodys = address.is_unspecified() || address.is_loopback();
    !nobodys && !address.is_multicast() && address.to_ipv4_mapped().is_none()
}

#[cfg(test)]
mod tests;
