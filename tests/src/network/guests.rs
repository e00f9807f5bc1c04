//! A host's networks without the host: its guests' bridge under the appliance's
//! own packet filter, two guests on it, and the site's network outside.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use surplus_seat::{BRIDGE, HOST, PREFIX, Seat};

use super::namespace::Namespace;
use super::{Station, ipv4};
use crate::lab::{Lab, run};

/// The host's address outside, 10.77.0.1, and that of who stands there.
const UPLINK: u8 = 1;
const OUTSIDE: u8 = 2;

/// The three kinds of places, each a namespace of its own.
#[derive(Debug)]
pub struct GuestsNetwork<'a> {
    host: Station<'a>,
    guests: Vec<(Seat, Station<'a>)>,
    outside: Station<'a>,
}

/// How the host is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What nft(8) is told.
    pub filter: String,
    /// Whether the guests' ports are isolated by the bridge.
    pub isolated: bool,
}

impl Setup {
    /// As it is in the image, in the repository at hand.
    pub fn of_the_image(lab: &Lab) -> Result<Self> {
        let path = lab.root().join("systemd/usr/lib/surplus/firewall.nft");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Ok(Self {
            filter: text + &surplus_seat::render::packet_filter(),
            isolated: true,
        })
    }

    /// The same with a text in another's place, which stands there once.
    pub fn with(mut self, old: &str, new: &str) -> Result<Self> {
        let count = self.filter.matches(old).count();
        anyhow::ensure!(count == 1, "{old:?} stands {count} times in the filter");
        self.filter = self.filter.replace(old, new);
        Ok(self)
    }
}

/// Sets the kernel's network as in the image, in the shell's words, and as
/// networkd does where it masquerades.
fn kernel(lab: &Lab) -> Result<String> {
    let path = lab.root().join("systemd/usr/lib/sysctl.d/50-surplus.conf");
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let mut script = String::from("set -e; cd /proc/sys; echo 1 >net/ipv4/ip_forward");
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
        let filter = lab.scratch().join("firewall.nft");
        fs::write(&filter, &setup.filter)?;
        run(host.tool("nft").arg("--file").arg(&filter))
            .context("nft did not take the packet filter")?;
        let mut shell = Command::new("sh");
        run(&mut host.enter(shell.args(["-c", &kernel(lab)?])))
            .context("could not set the kernel's network as the image does")?;
        host.ip(&[
            "link set lo up".to_owned(),
            format!("link add {BRIDGE} type bridge mcast_snooping 0"),
            format!("address add {HOST}/{PREFIX} dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
        ])
        .context("could not make a bridge in a network namespace")?;
        let outside = Self::lay_outside(&host)?;
        let guests = seats
            .iter()
            .map(|seat| Ok((*seat, Self::seat_guest(&host, *seat, setup.isolated)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            host,
            guests,
            outside,
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

    fn lay_outside(host: &Station<'a>) -> Result<Station<'a>> {
        let outside = Self::beside(host, "outside", OUTSIDE)?;
        let pid = outside.namespace.pid();
        host.ip(&[
            format!("link add up0 type veth peer name eth0 netns {pid}"),
            format!("address add {}/24 dev up0", ipv4(UPLINK)),
            "link set up0 up".to_owned(),
        ])?;
        outside.ip(&[
            "link set lo up".to_owned(),
            format!("address add {}/24 dev eth0", ipv4(OUTSIDE)),
            "link set eth0 up".to_owned(),
        ])?;
        host.ip(&[format!("route add default via {}", ipv4(OUTSIDE))])?;
        Ok(outside)
    }

    fn seat_guest(host: &Station<'a>, seat: Seat, isolated: bool) -> Result<Station<'a>> {
        let guest = Self::beside(host, &format!("guest{seat}"), 0)?;
        let (pid, interface) = (guest.namespace.pid(), seat.interface());
        let isolated = if isolated { "on" } else { "off" };
        host.ip(&[
            format!("link add {interface} type veth peer name eth0 netns {pid}"),
            format!("link set {interface} master {BRIDGE} up"),
            format!("link set {interface} type bridge_slave isolated {isolated}"),
        ])?;
        guest.ip(&[
            "link set lo up".to_owned(),
            format!("link set eth0 address {} up", seat.mac()),
            format!("address add {}/{PREFIX} dev eth0", seat.ipv4()),
        ])?;
        Ok(guest)
    }

    pub fn host(&self) -> &Station<'a> {
        &self.host
    }

    pub fn outside(&self) -> &Station<'a> {
        &self.outside
    }

    pub fn guest_in(&self, seat: Seat) -> Result<&Station<'a>> {
        let found = self.guests.iter().find(|(taken, _)| *taken == seat);
        let (_, guest) = found.with_context(|| format!("nobody is in seat {seat}"))?;
        Ok(guest)
    }
}
