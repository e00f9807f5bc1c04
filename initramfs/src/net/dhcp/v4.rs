//! DHCPv4: what a port asks, and what of an answer it can use.
//!
//! Source: RFC 2131 and 2132, RFC 3442 for routes. What arrives is untrusted.
//! The client is known by its MAC (there is no option 61), as firmware does it
//! and networkd on the booted host, so that all three get the same address.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::Encodable as _;
use dhcproto::v4::{
    DhcpOption, DhcpOptions, Flags, Message, MessageType, Opcode, OptionCode, borrowed,
};

use super::client::{self, Answer, Kind, Protocol, Question};
use super::{CLASS, FOREVER, SHORTEST};
use crate::net::link::Mac;
use crate::net::url::Named;

/// What the servers are asked for.
const WANTED: [OptionCode; 8] = [
    OptionCode::SubnetMask,
    OptionCode::ClasslessStaticRoute,
    OptionCode::Router,
    OptionCode::DomainNameServer,
    OptionCode::InterfaceMtu,
    OptionCode::AddressLeaseTime,
    OptionCode::ServerIdentifier,
    OptionCode::BootfileName,
];
/// One port's side of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct V4 {
    pub(crate) mac: Mac,
    pub(crate) xid: u32,
}

/// An address for some time, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) server: Ipv4Addr,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) mtu: Option<u16>,
    pub(crate) time: Duration,
}

impl client::Lease for Lease {
    type Server = Ipv4Addr;

    fn server(&self) -> &Ipv4Addr {
        &self.server
    }

    fn time(&self) -> Duration {
        self.time
    }

    fn same_address(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// A way to other networks; on the link itself where there is no gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.to, self.prefix)?;
        match self.gateway {
            Some(gateway) => write!(f, " via {gateway}"),
            None => Ok(()),
        }
    }
}

impl Protocol for V4 {
    type Lease = Lease;

    fn xid(&self) -> u32 {
        self.xid
    }

    fn question(&self, question: Question<'_, Lease>, elapsed: Duration) -> Vec<Vec<u8>> {
        let none = Ipv4Addr::UNSPECIFIED;
        let (kind, ciaddr) = match question {
            Question::Search => (MessageType::Discover, none),
            Question::Take(_) => (MessageType::Request, none),
            // To all, from the first time on: any server that knows it may answer.
            Question::Renew(lease) | Question::Rebind(lease) => {
                (MessageType::Request, lease.address)
            }
        };
        let mut message = Message::new_with_id(self.xid, ciaddr, none, none, none, &self.mac);
        message.set_secs(u16::try_from(elapsed.as_secs()).unwrap_or(u16::MAX));
        // Without an address only what is sent to all can be heard.
        message.set_flags(Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ClassIdentifier(CLASS.to_vec()));
        options.insert(DhcpOption::MaxMessageSize(1472));
        options.insert(DhcpOption::ParameterRequestList(WANTED.to_vec()));
        if let Question::Take(offer) = question {
            options.insert(DhcpOption::RequestedIpAddress(offer.address));
            options.insert(DhcpOption::ServerIdentifier(offer.server));
        }
        // Encoding into memory fails for options that are too long; ours are not.
        vec![message.to_vec().unwrap_or_default()]
    }

    /// Only the options that are used here are decoded: the decoder of some others
    /// panics at what it does not expect.
    fn answer(&self, bytes: &[u8]) -> Option<Answer<Lease>> {
        let message = borrowed::Message::new(bytes).ok()?;
        let ours = message.opcode() == Opcode::BootReply
            && message.xid() == self.xid
            && message.hlen() == 6
            && message.chaddr() == self.mac;
        if !ours {
            return None;
        }
        let options = used_options(&message);
        let kind = match options.msg_type()? {
            MessageType::Nak => Kind::Nak(server(&options)?),
            MessageType::Offer | MessageType::Ack if message.yiaddr().is_unspecified() => {
                // Of a boot server beside the DHCP server.
                let class = options.get(OptionCode::ClassIdentifier);
                let to_us =
                    matches!(class, Some(DhcpOption::ClassIdentifier(class)) if class == CLASS);
                to_us.then_some(Kind::Other)?
            }
            MessageType::Offer => Kind::Offer(lease(message.yiaddr(), &options)?),
            MessageType::Ack => Kind::Ack(lease(message.yiaddr(), &options)?),
            _ => return None,
        };
        let urls = match options.get(OptionCode::BootfileName) {
            Some(DhcpOption::BootfileName(bytes)) => Named::in_option(bytes).urls,
            // Some servers know only the older field for it.
            _ => Named::in_option(message.fname()).urls,
        };
        Some(Answer {
            kind,
            urls,
            name_servers: Vec::new(),
        })
    }
}

fn used_options(message: &borrowed::Message<'_>) -> DhcpOptions {
    let mut options = DhcpOptions::new();
    for option in message.opts() {
        let code = option.code();
        let used = WANTED.contains(&code)
            || [OptionCode::MessageType, OptionCode::ClassIdentifier].contains(&code);
        if used && let Ok(option) = option.into_option() {
            options.insert(option);
        }
    }
    options
}

/// A lease that can be worked with, or none.
fn lease(address: Ipv4Addr, options: &DhcpOptions) -> Option<Lease> {
    let usable = !(address.is_loopback()
        || address.is_multicast()
        || address.is_link_local()
        || address.is_broadcast()
        || address.octets()[0] == 0);
    let server = server(options)?;
    let time = match options.get(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => {
            Duration::from_secs(u64::from(*seconds)).clamp(SHORTEST, FOREVER)
        }
        _ => FOREVER,
    };
    let dns = match options.get(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => servers.iter().copied().take(4).collect(),
        _ => Vec::new(),
    };
    let mtu = match options.get(OptionCode::InterfaceMtu) {
        Some(DhcpOption::InterfaceMtu(mtu)) if (576..=9216).contains(mtu) => Some(*mtu),
        _ => None,
    };
    usable.then(|| Lease {
        address,
        prefix: prefix(options).unwrap_or(24),
        server,
        routes: routes(options),
        dns,
        mtu,
        time,
    })
}

fn server(options: &DhcpOptions) -> Option<Ipv4Addr> {
    match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
        _ => None,
    }
}

fn prefix(options: &DhcpOptions) -> Option<u8> {
    let Some(DhcpOption::SubnetMask(mask)) = options.get(OptionCode::SubnetMask) else {
        return None;
    };
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    // A mask with holes, or an empty one, is none.
    (ones > 0 && bits.count_ones() == ones).then(|| u8::try_from(ones).unwrap_or(32))
}

/// Option 121 where it is given, else the first router (RFC 3442).
fn routes(options: &DhcpOptions) -> Vec<Route> {
    let given = |gateway: Ipv4Addr| (!gateway.is_unspecified()).then_some(gateway);
    if let Some(DhcpOption::ClasslessStaticRoute(routes)) =
        options.get(OptionCode::ClasslessStaticRoute)
    {
        return routes
            .iter()
            .take(32)
            .map(|(network, gateway)| Route {
                to: network.network(),
                prefix: network.prefix_len(),
                gateway: given(*gateway),
            })
            .collect();
    }
    let router = match options.get(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers.first().copied().and_then(given),
        _ => None,
    };
    router
        .map(|router| Route {
            to: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(router),
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use dhcproto::{Decodable as _, Decoder};
    use proptest::prelude::*;

    use super::*;

    pub(crate) const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];

    fn answer(bytes: &[u8], mac: Mac, xid: u32) -> Option<Answer<Lease>> {
        V4 { mac, xid }.answer(bytes)
    }

    /// A server's answer to `xid`.
    pub(crate) fn reply(kind: MessageType, address: [u8; 4], xid: u32) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(xid, none, address.into(), none, none, &MAC);
        message.set_opcode(Opcode::BootReply);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier([10, 77, 0, 1].into()));
        options.insert(DhcpOption::SubnetMask([255, 255, 255, 0].into()));
        options.insert(DhcpOption::AddressLeaseTime(600));
        message
    }

    pub(crate) fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().unwrap()
    }

    #[test]
    fn a_question_names_the_vendor_class_and_no_client_id() {
        let asking = V4 { mac: MAC, xid: 7 };
        let sent = asking.question(Question::Search, Duration::from_secs(3));
        let message = Message::decode(&mut Decoder::new(&sent[0])).unwrap();
        assert_eq!((message.xid(), message.secs()), (7, 3));
        assert_eq!(message.chaddr(), MAC);
        assert!(message.flags().broadcast());
        let options = message.opts();
        assert_eq!(
            options.get(OptionCode::ClassIdentifier),
            Some(&DhcpOption::ClassIdentifier(b"surplus-init".to_vec()))
        );
        assert!(options.get(OptionCode::ClientIdentifier).is_none());
        let Some(DhcpOption::ParameterRequestList(list)) =
            options.get(OptionCode::ParameterRequestList)
        else {
            panic!("no list");
        };
        assert!(list.contains(&OptionCode::BootfileName));
    }

    #[test]
    fn an_offer_is_understood_with_its_routes() {
        let mut message = reply(MessageType::Offer, [10, 77, 0, 9], 7);
        let options = message.opts_mut();
        options.insert(DhcpOption::Router(vec![[10, 77, 0, 1].into()]));
        options.insert(DhcpOption::DomainNameServer(vec![[10, 77, 0, 2].into()]));
        options.insert(DhcpOption::InterfaceMtu(1400));
        let answer = answer(&bytes(&message), MAC, 7).unwrap();
        let Kind::Offer(lease) = answer.kind else {
            panic!("{answer:?}");
        };
        assert_eq!((lease.prefix, lease.mtu), (24, Some(1400)));
        assert_eq!(lease.time, Duration::from_secs(600));
        assert_eq!(
            lease.routes,
            [Route {
                to: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
                gateway: Some([10, 77, 0, 1].into())
            }]
        );
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let mut message = reply(MessageType::Ack, [10, 77, 0, 9], 7);
        let options = message.opts_mut();
        options.insert(DhcpOption::Router(vec![[10, 77, 0, 1].into()]));
        options.insert(DhcpOption::ClasslessStaticRoute(vec![(
            "10.9.0.0/16".parse().unwrap(),
            [0, 0, 0, 0].into(),
        )]));
        let Some(Answer {
            kind: Kind::Ack(lease),
            ..
        }) = answer(&bytes(&message), MAC, 7)
        else {
            panic!("no ack");
        };
        assert_eq!(
            lease.routes,
            [Route {
                to: [10, 9, 0, 0].into(),
                prefix: 16,
                gateway: None
            }]
        );
    }

    #[test]
    fn answers_to_others_and_useless_leases_are_no_answers() {
        let good = reply(MessageType::Offer, [10, 77, 0, 9], 7);
        assert!(answer(&bytes(&good), MAC, 7).is_some());
        assert!(answer(&bytes(&good), MAC, 8).is_none());
        assert!(answer(&bytes(&good), [0; 6], 7).is_none());
        let mut request = good.clone();
        request.set_opcode(Opcode::BootRequest);
        assert!(answer(&bytes(&request), MAC, 7).is_none());
        for address in [
            [169, 254, 1, 1],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [0, 1, 0, 0],
        ] {
            let useless = reply(MessageType::Offer, address, 7);
            assert!(answer(&bytes(&useless), MAC, 7).is_none(), "{address:?}");
        }
        let mut nobodys = good;
        nobodys.opts_mut().remove(OptionCode::ServerIdentifier);
        assert!(answer(&bytes(&nobodys), MAC, 7).is_none());
    }

    #[test]
    fn a_boot_server_beside_the_dhcp_server_names_the_root() {
        let mut proxy = reply(MessageType::Offer, [0, 0, 0, 0], 7);
        let url = "http://10.77.0.1:8080/root.img";
        proxy
            .opts_mut()
            .insert(DhcpOption::BootfileName(url.as_bytes().to_vec()));
        // For another kind of client.
        assert_eq!(answer(&bytes(&proxy), MAC, 7), None);
        proxy
            .opts_mut()
            .insert(DhcpOption::ClassIdentifier(CLASS.to_vec()));
        let answer = answer(&bytes(&proxy), MAC, 7).unwrap();
        assert_eq!(answer.kind, Kind::Other);
        assert_eq!(answer.urls[0].text(), url);
    }

    #[test]
    fn the_older_field_for_a_file_counts_where_the_option_is_missing() {
        let mut offer = reply(MessageType::Offer, [10, 77, 0, 9], 7);
        offer.set_fname_str("http://10.77.0.1/root.img");
        let answer = answer(&bytes(&offer), MAC, 7).unwrap();
        assert_eq!(answer.urls[0].text(), "http://10.77.0.1/root.img");
    }

    #[test]
    fn an_option_that_the_decoder_cannot_take_is_passed_over() {
        let mut bytes = bytes(&reply(MessageType::Offer, [10, 77, 0, 9], 7));
        let end = bytes.iter().rposition(|byte| *byte == 255).unwrap();
        // Options of lease queries, too short for what they should hold.
        bytes.splice(end..end, [151, 0, 152, 1, 7, 155, 0, 81, 1, 0]);
        assert!(answer(&bytes, MAC, 7).is_some());
    }

    proptest! {
        #[test]
        fn no_packet_breaks_the_reader(
            noise in prop::collection::vec(any::<u8>(), 0..600), at in 0_usize..400,
        ) {
            let _ = answer(&noise, MAC, 7);
            // A good one with noise over part of it reaches further.
            let mut good = bytes(&reply(MessageType::Offer, [10, 77, 0, 9], 7));
            good.resize(good.len().max(at) + noise.len(), 0);
            good[at..at + noise.len()].copy_from_slice(&noise);
            let _ = answer(&good, MAC, 7);
        }

        #[test]
        fn every_lease_has_a_sound_prefix_and_time(mask in any::<u32>(), time in any::<u32>()) {
            let mut message = reply(MessageType::Ack, [10, 77, 0, 9], 7);
            message.opts_mut().insert(DhcpOption::SubnetMask(mask.into()));
            message.opts_mut().insert(DhcpOption::AddressLeaseTime(time));
            let Some(Answer { kind: Kind::Ack(lease), .. }) = answer(&bytes(&message), MAC, 7) else {
                return Err(TestCaseError::fail("no lease"));
            };
            prop_assert!((1..=32).contains(&lease.prefix));
            prop_assert!((SHORTEST..=FOREVER).contains(&lease.time));
        }
    }
}
