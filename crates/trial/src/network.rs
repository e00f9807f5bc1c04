//! What a hostile guest sends, sent on this very host, and who hears it.
//!
//! Two guests' interfaces are made whose cables end here instead of in a QEMU, on
//! the bridge and in seats of real guests: what holds them is what will hold those.
//! All frames of the crate are sent but the ones that are allowed and would leave
//! the host; who should hear nothing listens. An honest question to the host, which
//! has to be answered before and after, shows that silence means something.
//!
//! What always holds: the interfaces are gone when this is over, or its process is.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use surplus_protocol::inventory::SelfCheck;
use surplus_seat::{BRIDGE, Seat};
use surplus_tap::Tap;

use crate::packet::Wire;
use crate::{Attack, Cast, Kind, all, flooded, leaving, mark, netlink};

/// The last seats, which guests get last of all.
const ME: u16 = surplus_seat::SEATS;
const VICTIM: u16 = ME - 1;
const EMPTY: u16 = ME - 2;

/// Where frames for the host go.
const PORT: u16 = 4242;

/// How long the bridge may take to come up, and whoever answers to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions, and how long what was sent may be under way.
const MOMENT: Duration = Duration::from_millis(50);

/// The honest question.
const QUESTION: &str = "arp-request";

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
enum TrialError {
    #[error("the guests' bridge {BRIDGE} could not be listened to: {0}")]
    Bridge(io::Error),
    #[error("the interface {name} could not be made: {source}")]
    Interface { name: String, source: io::Error },
    #[error("nobody could listen in the host's place: {0}")]
    Host(io::Error),
    #[error("the host's interfaces could not be listened to: {0}")]
    Uplinks(io::Error),
    #[error("{name} could not be sent: {source}")]
    Send {
        name: &'static str,
        source: io::Error,
    },
    #[error("a guest's own question to the host was not answered within {} s", PATIENCE.as_secs())]
    Deaf,
}

/// Tries it, and says for each whom it is about what came through.
pub fn checks() -> Vec<SelfCheck> {
    let trial = match Trial::begin() {
        Ok(trial) => trial,
        Err(error) => return vec![honest(Err(error))],
    };
    let attempts = trial.attempts();
    if let Err(error) = trial.send(&attempts) {
        return vec![honest(Err(error))];
    }
    let heard = trial.listen();
    let tried = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
    let check = |name: &str, what: &str, heard: &Names| SelfCheck {
        name: name.to_owned(),
        attempts: tried,
        failure: (!heard.is_empty()).then(|| format!("{what}: {}", list(heard))),
    };
    vec![
        honest(Ok(())),
        check("forged-frames", "came to the bridge", &heard.bridge),
        check("neighbour", "came to another guest", &heard.victim),
        check("host", "came to the host, or was answered", &heard.host),
        check("site-network", "left the host", &heard.outside),
    ]
}

fn honest(outcome: Result<(), TrialError>) -> SelfCheck {
    SelfCheck {
        name: "honest-frames".to_owned(),
        attempts: 2,
        failure: outcome.err().map(|error| error.to_string()),
    }
}

type Names = BTreeSet<String>;

fn list(names: &Names) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What was heard where it should not be.
#[derive(Debug, Default)]
struct Heard {
    bridge: Names,
    victim: Names,
    host: Names,
    outside: Names,
}

struct Trial {
    cast: Cast,
    empty: Seat,
    me: Tap,
    victim: Tap,
    bridge: Wire,
    host: UdpSocket,
    uplinks: Vec<Wire>,
}

impl Trial {
    fn begin() -> Result<Self, TrialError> {
        let seat = |number| {
            Seat::try_from(number).map_err(|error| TrialError::Host(io::Error::other(error)))
        };
        let (me, victim, empty) = (seat(ME)?, seat(VICTIM)?, seat(EMPTY)?);
        the_bridge()?;
        let ports = [plugged(me)?, plugged(victim)?];
        // A bridge may take its address from its ports.
        let bridge = the_bridge()?;
        let uplinks = Uplinks::find().map_err(TrialError::Uplinks)?;
        // Which hears IPv4 as well.
        let host = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).map_err(TrialError::Host)?;
        host.set_nonblocking(true).map_err(TrialError::Host)?;
        let cast = Cast {
            me,
            victim,
            host: bridge.mac().unwrap_or_default(),
            uplink: uplinks.address.unwrap_or(Ipv4Addr::LOCALHOST),
            // Somebody whom the host would go by its router for.
            management: Ipv4Addr::new(10, 66, 66, 66),
            uplink6: uplinks.address6.unwrap_or(Ipv6Addr::LOCALHOST),
            // … and somebody on its cable.
            management6: uplinks.address6.map_or(UNROUTED, neighbour),
        };
        let [me, victim] = ports;
        Ok(Self {
            cast,
            empty,
            me,
            victim,
            bridge,
            host,
            uplinks: uplinks.wires,
        })
    }

    /// Everything that should come nowhere.
    fn attempts(&self) -> Vec<Attack> {
        let sent = all(&self.cast).into_iter();
        sent.filter(|attack| attack.kind != Kind::Allowed).collect()
    }

    /// Sends them between two questions, both of which have to be answered.
    fn send(&self, attempts: &[Attack]) -> Result<(), TrialError> {
        self.ask()?;
        let failed = |name| move |source| TrialError::Send { name, source };
        for attack in attempts {
            self.me.send(&attack.frame).map_err(failed(attack.name))?;
        }
        for attack in flooded(&self.cast, self.empty) {
            self.bridge
                .send(&attack.frame)
                .map_err(failed(attack.name))?;
        }
        self.ask()
    }

    /// Asks the host for its address until it says it.
    fn ask(&self) -> Result<(), TrialError> {
        let all = all(&self.cast);
        let question = all.iter().find(|attack| attack.name == QUESTION);
        let question = question.ok_or(TrialError::Deaf)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Down, until the kernel has switched it on.
            let _ = self.me.send(&question.frame);
            let moment = Instant::now() + MOMENT;
            while Instant::now() < moment {
                match self.me.receive() {
                    Ok(frame) if self.is_answer(&frame) => return Ok(()),
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(MOMENT / 50),
                }
            }
        }
        Err(TrialError::Deaf)
    }

    /// An ARP reply to the guest (RFC 826).
    fn is_answer(&self, frame: &[u8]) -> bool {
        frame.get(..6) == Some(&self.cast.me.mac_bytes())
            && frame.get(12..14) == Some(&[0x08, 0x06])
            && frame.get(20..22) == Some(&[0, 2])
    }

    /// What the others heard meanwhile.
    fn listen(&self) -> Heard {
        std::thread::sleep(MOMENT);
        let forged: Names = names(&all(&self.cast), Kind::Forged);
        let bridge = marks(|| self.bridge.heard());
        let mut heard = Heard {
            bridge: bridge.intersection(&forged).cloned().collect(),
            victim: marks(|| self.victim.receive()),
            host: marks(|| {
                let mut datagram = vec![0; 2048];
                let (length, _) = self.host.recv_from(&mut datagram)?;
                datagram.truncate(length);
                Ok(datagram)
            }),
            outside: Names::new(),
        };
        // What the host sends to its guest's face. That there is no way, which it says
        // of IPv6 where it has none, is no answer.
        heard.host.extend(marks(|| {
            let frame = self.me.receive()?;
            Ok(if is_no_way(&frame) { Vec::new() } else { frame })
        }));
        for uplink in &self.uplinks {
            heard.outside.extend(marks(|| uplink.heard()));
        }
        // What should not have come to the bridge is said of the bridge.
        for further in [&mut heard.host, &mut heard.outside] {
            further.retain(|name| !heard.bridge.contains(name));
        }
        heard
    }
}

fn names(attacks: &[Attack], kind: Kind) -> Names {
    let of_kind = attacks.iter().filter(|attack| attack.kind == kind);
    of_kind.map(|attack| attack.name.to_owned()).collect()
}

/// Whether it says that a target is out of reach, whyever (RFC 792, RFC 4443).
fn is_no_way(frame: &[u8]) -> bool {
    let at = |place: usize, bytes: &[u8]| frame.get(place..place + bytes.len()) == Some(bytes);
    let over_ipv4 = at(12, &[0x08, 0x00]) && at(23, &[1]) && at(34, &[3, 0]);
    let over_ipv6 = at(12, &[0x86, 0xdd]) && at(20, &[58]) && at(54, &[1, 0]);
    over_ipv4 || over_ipv6
}

/// The names that frames carry, to the last that is there.
fn marks(mut next: impl FnMut() -> io::Result<Vec<u8>>) -> Names {
    let mut names = Names::new();
    while let Ok(frame) = next() {
        names.extend(mark::find(&frame).map(str::to_owned));
    }
    names
}

/// networkd may still be making it.
fn the_bridge() -> Result<Wire, TrialError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Wire::tap(BRIDGE) {
            Ok(wire) => return Ok(wire),
            Err(error) if Instant::now() >= deadline => return Err(TrialError::Bridge(error)),
            Err(_) => std::thread::sleep(MOMENT),
        }
    }
}

fn plugged(seat: Seat) -> Result<Tap, TrialError> {
    let name = seat.interface();
    let made = Tap::open(&name).and_then(|tap| {
        netlink::plug(&name, BRIDGE)?;
        Ok(tap)
    });
    made.map_err(|source| TrialError::Interface { name, source })
}

/// Nobody's (RFC 6666): where there is no network, nobody is on it.
const UNROUTED: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Another address of the same network.
fn neighbour(address: Ipv6Addr) -> Ipv6Addr {
    (u128::from(address) ^ 0xff).into()
}

/// What leads out of the host, and its addresses where guests leave it.
struct Uplinks {
    wires: Vec<Wire>,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
}

impl Uplinks {
    fn find() -> io::Result<Self> {
        let is_inside = |name: &str| name == "lo" || name == BRIDGE || name.starts_with("sg");
        let mut all = Self {
            wires: Vec::new(),
            address: None,
            address6: None,
        };
        for interface in getifaddrs()?.filter(|it| !is_inside(&it.interface_name)) {
            let Some(found) = interface.address else {
                continue;
            };
            if found.as_link_addr().is_some() {
                all.wires.push(Wire::tap(&interface.interface_name)?);
            } else if let Some(ipv4) = found.as_sockaddr_in() {
                all.address.get_or_insert(ipv4.ip());
            } else if let Some(ipv6) = found.as_sockaddr_in6()
                && !ipv6.ip().is_unicast_link_local()
            {
                all.address6.get_or_insert(ipv6.ip());
            }
        }
        // Guests may leave by one of several.
        for address in leaving::addresses() {
            match address {
                IpAddr::V4(ipv4) => all.address = Some(ipv4),
                IpAddr::V6(ipv6) => all.address6 = Some(ipv6),
            }
        }
        Ok(all)
    }
}
