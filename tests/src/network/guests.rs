//! A host's networks without the host: its guests' bridge under the appliance's
//! own packet filter, guests on it, and the site's network outside; where the guests
//! have a network of their own, that as well.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail, ensure};
use surplus_seat::{BRIDGE, HOST, HOST_LINK_LOCAL, HOST6, PREFIX, PREFIX6, Seat, floating, way};

use super::namespace::Namespace;
use super::{Station, ipv4};
use crate::lab::{Lab, run};

/// The host's address outside, 10.77.0.1, and that of who stands there: the site's
/// router, and all the world.
const UPLINK: u8 = 1;
const OUTSIDE: u8 = 2;

/// Guests' own addresses are counted from here.
const OWN: u8 = 100;

/// An address of the world (RFC 5737, RFC 3849).
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);

/// Where the world takes what guests send.
const PORT: u16 = 5001;

/// An address outside, of the site's own network.
pub fn outside6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, host.into())
}

/// On its cable alone.
fn cable6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host.into())
}

/// The same of the guests' own network, with the host's interface there.
pub const WAY: &str = "way0";

pub fn street4(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, host)
}

pub fn street6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x88, 0, 0, 0, 0, host.into())
}

/// The kinds of places, each a namespace of its own.
#[derive(Debug)]
pub struct GuestsNetwork<'a> {
    host: Station<'a>,
    guests: Vec<(Seat, Station<'a>)>,
    outside: Station<'a>,
    street: Option<Station<'a>>,
}

/// A cable from the host to one who is all the world behind it.
struct Cable {
    name: &'static str,
    at_host: &'static str,
    group: u32,
    /// As [`ip`](Station::ip) says it of the routes.
    table: &'static str,
    network4: fn(u8) -> Ipv4Addr,
    network6: fn(u8) -> Ipv6Addr,
}

/// How the host is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What nft(8) is told before there is a network, and of the seats after that.
    pub filter: String,
    pub seats: String,
    /// Whether the guests' ports are isolated by the bridge.
    pub isolated: bool,
    /// What networkd is told of routing.
    pub rules: String,
    /// Whether the guests have a network of their own.
    pub way: bool,
    /// So many seats have an address of their own.
    pub own: u16,
}

impl Setup {
    /// As it is in the image, in the repository at hand.
    pub fn of_the_image(lab: &Lab) -> Result<Self> {
        let path = lab.root().join("systemd/usr/lib/surplus/firewall.nft");
        let filter = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Ok(Self {
            filter,
            seats: surplus_seat::render::packet_filter(),
            isolated: true,
            rules: String::new(),
            way: false,
            own: 0,
        })
    }

    /// The same with a network of the guests' own, as the site file may give one.
    pub fn of_the_image_with_a_way(lab: &Lab) -> Result<Self> {
        Ok(Self {
            rules: [way::near_rules(), way::rules(), way::rule_from(WAY)].concat(),
            way: true,
            ..Self::of_the_image(lab)?
        })
    }

    /// The same with addresses of their own for the guests in the first `own` seats.
    pub fn with_own_addresses(self, own: u16) -> Self {
        let near = if self.way {
            String::new()
        } else {
            way::near_rules()
        };
        let from = floating::seats(own).map(floating::rule_from);
        let from: String = from.collect();
        Self {
            rules: self.rules + &near + &floating::rules(own) + &from,
            own,
            ..self
        }
    }

    /// Guests go out under their host's address; nothing else is done to them.
    pub fn without_isolation() -> Self {
        let filter = format!(
            "flush ruleset\n\
             table inet out {{\n\
             chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             oifname != \"{BRIDGE}\" masquerade\n\
             }}\n\
             }}\n"
        );
        Self {
            filter,
            seats: String::new(),
            isolated: false,
            rules: String::new(),
            way: false,
            own: 0,
        }
    }

    /// The same with a text in another's place, which stands there once.
    pub fn with(mut self, old: &str, new: &str) -> Result<Self> {
        let mut texts = [&mut self.filter, &mut self.seats, &mut self.rules];
        let count: usize = texts.iter().map(|text| text.matches(old).count()).sum();
        ensure!(count == 1, "{old:?} stands {count} times in the filter");
        for text in &mut texts {
            **text = text.replace(old, new);
        }
        Ok(self)
    }

    /// The same with several texts.
    pub fn with_all(self, texts: &[(&str, &str)]) -> Result<Self> {
        let mut texts = texts.iter();
        texts.try_fold(self, |setup, (old, new)| setup.with(old, new))
    }

    /// Loads it as a host does, in two transactions.
    pub fn load(&self, host: &Station<'_>) -> Result<()> {
        for (name, text) in [("firewall", &self.filter), ("seats", &self.seats)] {
            transaction(host, name, text)?;
        }
        Ok(())
    }
}

/// Tells nft(8) on the host something, which it does as a whole or not at all.
pub fn transaction(host: &Station<'_>, name: &str, text: &str) -> Result<()> {
    let file = host.lab().scratch().join(format!("{name}.nft"));
    fs::write(&file, text)?;
    run(host.tool("nft").arg("--file").arg(&file))
        .with_context(|| format!("nft did not take {name}"))
        .map(drop)
}

/// Sets rules of routing as networkd does.
fn route_by(host: &Station<'_>, rules: &str) -> Result<()> {
    for rule in rules.split("[RoutingPolicyRule]\n").skip(1) {
        let mut words = Vec::new();
        let mut families = vec!["-4"];
        for line in rule.lines() {
            let (key, value) = line.split_once('=').context("no setting: {line}")?;
            match key {
                "Priority" => words.extend(["priority", value]),
                "To" => words.extend(["to", value]),
                "FirewallMark" => words.extend(["fwmark", value]),
                "OutgoingInterface" => words.extend(["oif", value]),
                "Table" => words.extend(["lookup", value]),
                "Type" => words.push(value),
                "Family" => families.push("-6"),
                _ => bail!("{key} is not known here"),
            }
        }
        if words.iter().any(|word| word.contains(':')) {
            families = vec!["-6"];
        }
        for family in families {
            run(host.tool("ip").args([family, "rule", "add"]).args(&words))?;
        }
    }
    Ok(())
}

/// Sets the kernel's network as in the image, in the shell's words.
fn kernel(lab: &Lab) -> Result<String> {
    let path = lab.root().join("systemd/usr/lib/sysctl.d/50-surplus.conf");
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let mut script = String::from("set -e; cd /proc/sys");
    for line in text.lines().filter(|line| line.starts_with("net.")) {
        let (name, value) = line.split_once(" = ").context("no sysctl: {line}")?;
        let name = name.replace('.', "/");
        script.push_str(&format!("; echo {value} >{name}"));
    }
    // Where containers run, bridged packets pass the routed ones' filter too. The
    // appliance has no such module.
    script.push_str(
        "; for f in net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 0 >$f; done",
    );
    Ok(script)
}

impl<'a> GuestsNetwork<'a> {
    /// Guests in these seats.
    pub fn new(lab: &'a Lab, setup: &Setup, seats: &[Seat]) -> Result<Self> {
        let host = Station {
            lab,
            name: "host".to_owned(),
            namespace: Namespace::new(lab, "host")?,
            host: UPLINK,
            interface: "up0",
        };
        setup.load(&host)?;
        let mut shell = Command::new("sh");
        run(&mut host.enter(shell.args(["-c", &kernel(lab)?])))
            .context("could not set the kernel's network as the image does")?;
        host.ip(&[
            "link set lo up".to_owned(),
            format!("link add {BRIDGE} type bridge mcast_snooping 0"),
            format!("link set {BRIDGE} addrgenmode none"),
            format!("address add {HOST}/{PREFIX} dev {BRIDGE}"),
            format!("address add {HOST6}/{PREFIX6} dev {BRIDGE} nodad"),
            format!("address add {HOST_LINK_LOCAL}/64 dev {BRIDGE} nodad"),
            format!("link set {BRIDGE} up"),
        ])
        .context("could not make a bridge in a network namespace")?;
        route_by(&host, &setup.rules)?;
        let group = if setup.way { 0 } else { way::SHARED };
        let outside = Self::lay(
            &host,
            Cable {
                name: "outside",
                at_host: "up0",
                group,
                table: "main",
                network4: ipv4,
                network6: outside6,
            },
        )?;
        let street = Self::lay_street(&host, setup)?;
        floating::seats(setup.own).try_for_each(|seat| own_address(&host, setup.way, seat))?;
        let guests = seats
            .iter()
            .map(|seat| Ok((*seat, Self::seat_guest(&host, *seat, setup.isolated)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            host,
            guests,
            outside,
            street,
        })
    }

    fn beside(host: &Station<'a>, name: &str, number: u8) -> Result<Station<'a>> {
        Ok(Station {
            lab: host.lab,
            name: name.to_owned(),
            namespace: host.namespace.beside(host.lab, name)?,
            host: number,
            interface: "eth0",
        })
    }

    fn lay_street(host: &Station<'a>, setup: &Setup) -> Result<Option<Station<'a>>> {
        if !setup.way {
            return Ok(None);
        }
        let cable = Cable {
            name: "street",
            at_host: WAY,
            group: way::OWN,
            table: "121",
            network4: street4,
            network6: street6,
        };
        Self::lay(host, cable).map(Some)
    }

    fn lay(host: &Station<'a>, cable: Cable) -> Result<Station<'a>> {
        let Cable { at_host, table, .. } = cable;
        let outside = Self::beside(host, cable.name, OUTSIDE)?;
        let pid = outside.namespace.pid();
        let (network4, network6) = (cable.network4, cable.network6);
        // Whose routes stand where is said below.
        let addresses = |number: u8, interface: &str| {
            [
                format!("link set {interface} addrgenmode none"),
                format!(
                    "address add {}/24 dev {interface} noprefixroute",
                    network4(number)
                ),
                format!(
                    "address add {}/64 dev {interface} nodad noprefixroute",
                    network6(number)
                ),
                format!("address add {}/64 dev {interface} nodad", cable6(number)),
                format!("link set {interface} up"),
            ]
        };
        let networks = |interface: &str, table: &str| {
            [
                format!("route add {}/24 dev {interface} table {table}", network4(0)),
                format!("route add {}/64 dev {interface} table {table}", network6(0)),
            ]
        };
        host.ip(&[
            format!("link add {at_host} type veth peer name eth0 netns {pid}"),
            format!("link set {at_host} group {}", cable.group),
        ])?;
        host.ip(&addresses(UPLINK, at_host))?;
        host.ip(&networks(at_host, table))?;
        outside.ip(&addresses(OUTSIDE, "eth0"))?;
        outside.ip(&networks("eth0", "main"))?;
        outside.ip(&[
            "link set lo up".to_owned(),
            format!("address add {WORLD}/32 dev lo"),
            format!("address add {WORLD6}/128 dev lo nodad"),
        ])?;
        host.ip(&[
            format!("route add default via {} table {table}", network4(OUTSIDE)),
            format!(
                "route add default via {} dev {at_host} table {table}",
                cable6(OUTSIDE)
            ),
        ])?;
        Ok(outside)
    }

    fn seat_guest(host: &Station<'a>, seat: Seat, isolated: bool) -> Result<Station<'a>> {
        let guest = Self::beside(host, &format!("guest{seat}"), 0)?;
        attach(host, seat, isolated, (&guest, "eth0"))?;
        guest.ip(&[
            "link set lo up".to_owned(),
            "link set eth0 addrgenmode none".to_owned(),
            format!("link set eth0 address {} up", seat.mac()),
            format!("address add {}/{PREFIX} dev eth0", seat.ipv4()),
            format!("address add {}/{PREFIX6} dev eth0 nodad", seat.ipv6()),
            format!("address add {}/64 dev eth0 nodad", seat.link_local()),
            format!("route add default via {HOST}"),
            format!("route add default via {HOST6}"),
        ])?;
        Ok(guest)
    }

    /// Bytes a second that the guest in this seat sends to the world over TCP, as
    /// they arrive there.
    pub fn throughput(&self, seat: Seat, world: IpAddr, span: Duration) -> Result<f64> {
        let program = |words: &[&str]| -> Result<Command> {
            let mut program = self.host.lab.program("surplus-attack")?;
            program.args(words);
            Ok(program)
        };
        let drain = program(&["drain", &PORT.to_string()])?;
        let mut drain = self.outside.enter(&drain);
        let mut drain = drain.stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(drain.stdout.take().context("nothing to read")?).lines();
        let mut line = || {
            said.next()
                .context("whoever takes it has ended")?
                .map_err(Error::from)
        };
        ensure!(line()? == "listening", "nobody listens outside");
        let (to, span) = (SocketAddr::new(world, PORT), span.as_secs_f64());
        let pour = program(&["pour", &to.to_string(), &span.to_string()])?;
        let poured = run(&mut self.guest_in(seat)?.enter(&pour));
        if poured.is_err() {
            drain.kill()?;
        }
        drain.wait()?;
        poured?;
        let line = line()?;
        let (bytes, seconds) = line.split_once(' ').context("no two figures")?;
        Ok(bytes.parse::<f64>()? / seconds.parse::<f64>()?)
    }

    /// Another guest takes the place of the one in this seat.
    pub fn seat_anew(&mut self, seat: Seat) -> Result<()> {
        detach(&self.host, seat)?;
        self.guests.retain(|(taken, _)| *taken != seat);
        let guest = Self::seat_guest(&self.host, seat, true)?;
        self.guests.push((seat, guest));
        Ok(())
    }

    pub fn host(&self) -> &Station<'a> {
        &self.host
    }

    pub fn outside(&self) -> &Station<'a> {
        &self.outside
    }

    /// Where the guests' own network leads, if they have one.
    pub fn street(&self) -> Option<&Station<'a>> {
        self.street.as_ref()
    }

    pub fn guest_in(&self, seat: Seat) -> Result<&Station<'a>> {
        let found = self.guests.iter().find(|(taken, _)| *taken == seat);
        let (_, guest) = found.with_context(|| format!("nobody is in seat {seat}"))?;
        Ok(guest)
    }
}

/// The address that is the guest's alone, on the network that guests leave by.
pub fn own4(way: bool, seat: Seat) -> Ipv4Addr {
    let network = if way { street4 } else { ipv4 };
    network(own(seat))
}

/// The same of IPv6.
pub fn own6(way: bool, seat: Seat) -> Ipv6Addr {
    let network = if way { street6 } else { outside6 };
    network(own(seat))
}

fn own(seat: Seat) -> u8 {
    OWN + u8::try_from(seat.number()).expect("one of the first seats")
}

/// Gives a seat its own address, as networkd does.
fn own_address(host: &Station<'_>, way: bool, seat: Seat) -> Result<()> {
    let (interface, table) = (seat.own_interface(), seat.table());
    let (parent, network4, network6) = if way {
        (WAY, street4 as fn(u8) -> _, street6 as fn(u8) -> _)
    } else {
        ("up0", ipv4 as fn(u8) -> _, outside6 as fn(u8) -> _)
    };
    let (group, router) = (floating::GROUP, cable6(OUTSIDE));
    host.ip(&[
        format!("link add {interface} link {parent} type macvlan mode private"),
        format!("link set {interface} group {group} addrgenmode none"),
        format!(
            "address add {}/24 dev {interface} noprefixroute",
            own4(way, seat)
        ),
        format!(
            "address add {}/64 dev {interface} nodad noprefixroute",
            own6(way, seat)
        ),
        format!("address add {}/64 dev {interface} nodad", cable6(own(seat))),
        format!("link set {interface} up"),
        format!("route add {}/24 dev {interface} table {table}", network4(0)),
        format!("route add {}/64 dev {interface} table {table}", network6(0)),
        format!(
            "route add default via {} dev {interface} table {table}",
            network4(OUTSIDE)
        ),
        format!("route add default via {router} dev {interface} table {table}"),
    ])
}

/// Plugs a cable into a seat as libvirt does, whose other end lies with somebody.
pub fn attach(
    host: &Station<'_>,
    seat: Seat,
    isolated: bool,
    (other, name): (&Station<'_>, &str),
) -> Result<()> {
    let (pid, interface) = (other.namespace.pid(), seat.interface());
    let isolated = if isolated { "on" } else { "off" };
    host.ip(&[
        format!("link add {interface} type veth peer name {name} netns {pid}"),
        format!("link set {interface} master {BRIDGE}"),
        format!("link set {interface} type bridge_slave isolated {isolated}"),
        format!("link set {interface} up"),
    ])
}

/// Takes it out again.
pub fn detach(host: &Station<'_>, seat: Seat) -> Result<()> {
    host.ip(&[format!("link delete {}", seat.interface())])
}
