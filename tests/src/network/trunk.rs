//! A switch's port to a host as user space can be one: a VLAN trunk, or the
//! far end of an LACP bond.
//!
//! Each of the host's NICs is a QEMU `dgram` backend, whose every datagram is a
//! frame. Behind the switch lies QEMU's user-mode network: a router, which is
//! this computer's loopback at [`SEEN_FROM_MACHINES`], a DHCP server and a name
//! server. What always holds: a frame that does not belong on this port goes
//! nowhere, but is counted; it needs neither root nor anything of the kernel.
//!
//! [`SEEN_FROM_MACHINES`]: crate::marketplace::SEEN_FROM_MACHINES

pub mod frame;
pub mod lacp;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::lacp::{Partner, Pdu};
use crate::lab::Lab;

/// How long a frame waits for a QEMU that is busy before it is lost, as in a
/// switch whose buffer is full.
const BUFFERED: Duration = Duration::from_millis(200);

/// How often a port looks whether the switch is switched off.
const GLANCE: Duration = Duration::from_millis(100);

/// The longest frame: 9216 bytes of payload, a tag, a header.
const LONGEST: usize = 9216 + 18;

/// The hardware address of QEMU's router: two bytes of its own, and its IPv4
/// address.
const ROUTER: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

/// How the port is set up, as an operator would on a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many of the host's NICs lead here.
    pub links: usize,
    /// The VLAN whose frames are let through, tagged; `None`: untagged ones.
    pub vlan: Option<u16>,
    /// Whether the links are one LACP bundle. One that is not in the bundle
    /// then carries nothing.
    pub lacp: bool,
    /// Whether questions to a DHCP server get through to one.
    pub dhcp: bool,
    /// A further address of the router's, for hosts whose own network does not
    /// hold the usual one.
    pub router: Option<Ipv4Addr>,
    /// A VLAN beside, that the host's guests leave by.
    pub guests: Option<GuestsVlan>,
}

/// It leads to the same router. In it are one address of the host's, and whoever speaks
/// there with a hardware address that is seen nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestsVlan {
    pub vlan: u16,
    pub address: Ipv4Addr,
    /// From this computer's loopback.
    pub forwards: [Forwarded; 2],
}

/// A port of this computer's that leads to one of an address behind the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub here: u16,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl Default for Settings {
    /// One NIC, untagged, with DHCP.
    fn default() -> Self {
        Self {
            links: 1,
            vlan: None,
            lacp: false,
            dhcp: true,
            router: None,
            guests: None,
        }
    }
}

/// What the switch has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames from the host without a tag, LACP's own apart.
    pub untagged: u64,
    /// Questions to a DHCP server that were kept from it.
    pub dhcp: u64,
    /// Frames from the host in the guests' VLAN.
    pub guests: u64,
}

/// What one link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub from_host: u64,
    pub to_host: u64,
}

/// The two ends of one cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Where QEMU receives, and where it sends.
    pub qemu: PathBuf,
    pub switch: PathBuf,
    /// The NIC's address.
    pub mac: String,
}

/// A running switch.
#[derive(Debug)]
pub struct Trunk {
    shared: Arc<Shared>,
    cables: Vec<Cable>,
    uplink: Cable,
    threads: Vec<JoinHandle<()>>,
}

impl Trunk {
    pub fn start(lab: &Lab, settings: Settings) -> Result<Self> {
        let directory = lab.scratch().join("trunk");
        fs::create_dir_all(&directory)
            .with_context(|| format!("could not create {}", directory.display()))?;
        let cables: Vec<_> = (0..settings.links)
            .map(|number| Cable::new(&directory, &number.to_string(), number))
            .collect();
        let uplink = Cable::new(&directory, "uplink", 0xff);
        let links = cables.iter().map(Link::open).collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            links,
            uplink: Plugged::open(&uplink)?,
            state: Mutex::new(State {
                settings,
                seen: Seen::default(),
                next: 0,
                untagged: BTreeSet::new(),
                guests: BTreeSet::new(),
            }),
            off: AtomicBool::new(false),
        });
        let mut trunk = Self {
            shared,
            cables,
            uplink,
            threads: Vec::new(),
        };
        for number in 0..settings.links {
            trunk.run(move |shared| shared.serve_link(number));
        }
        trunk.run(Shared::serve_uplink);
        Ok(trunk)
    }

    fn run(&mut self, port: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.threads.push(std::thread::spawn(move || port(&shared)));
    }

    /// The cables to the host's NICs, in their order.
    pub(crate) fn cables(&self) -> &[Cable] {
        &self.cables
    }

    /// The cable to the user-mode network behind the switch.
    pub(crate) fn uplink(&self) -> &Cable {
        &self.uplink
    }

    /// What of this computer's leads to the guests' VLAN.
    pub(crate) fn guests(&self) -> Option<GuestsVlan> {
        self.shared.state().settings.guests
    }

    /// The address of the host's NIC with this number.
    pub fn mac(&self, number: usize) -> &str {
        &self.cables[number].mac
    }

    /// Sets the port to another VLAN.
    pub fn set_vlan(&self, vlan: Option<u16>) {
        self.shared.state().settings.vlan = vlan;
    }

    /// Lets a link carry frames, or not: neither end is told.
    pub fn set_link(&self, number: usize, up: bool) {
        self.shared.links[number].port().cut = !up;
    }

    pub fn seen(&self) -> Seen {
        self.shared.state().seen
    }

    /// What each link has carried so far, LACP's own frames apart.
    pub fn carried(&self) -> Vec<Carried> {
        let links = self.shared.links.iter();
        links.map(|link| link.port().carried).collect()
    }

    /// What the host says of itself on each link: the bundle that it belongs to,
    /// once it is in it.
    pub fn bundles(&self) -> Vec<Option<lacp::Bundle>> {
        let links = self.shared.links.iter();
        links.map(|link| link.port().bundle()).collect()
    }

    /// Waits until `done` holds.
    pub fn wait_until(
        &self,
        what: &str,
        within: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + crate::patience(within);
        while !done(self) {
            if Instant::now() >= deadline {
                bail!(
                    "no {what} within {} s: {:?}, links {:?}, bundles {:?}",
                    within.as_secs(),
                    self.seen(),
                    self.carried(),
                    self.bundles()
                );
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.shared.off.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Cable {
    fn new(directory: &Path, name: &str, number: usize) -> Self {
        Self {
            qemu: directory.join(format!("{name}.qemu")),
            switch: directory.join(format!("{name}.switch")),
            mac: format!("52:54:00:78:00:{:02x}", number + 1),
        }
    }
}

/// The switch's end of a cable.
#[derive(Debug)]
struct Plugged {
    socket: UnixDatagram,
    far_end: PathBuf,
}

impl Plugged {
    fn open(cable: &Cable) -> Result<Self> {
        let socket = UnixDatagram::bind(&cable.switch)
            .with_context(|| format!("could not make {}", cable.switch.display()))?;
        socket.set_read_timeout(Some(GLANCE))?;
        socket.set_write_timeout(Some(BUFFERED))?;
        Ok(Self {
            socket,
            far_end: cable.qemu.clone(),
        })
    }

    /// A frame that nobody takes is lost, as on any cable.
    fn send(&self, frame: &[u8]) -> bool {
        self.socket.send_to(frame, &self.far_end).is_ok()
    }

    /// The next frame, or nothing for a while.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let length = self.socket.recv(buffer).ok()?;
        buffer.get(..length)
    }
}

#[derive(Debug)]
struct Link {
    plugged: Plugged,
    port: Mutex<Port>,
}

/// What the switch knows of one link.
#[derive(Debug, Default)]
struct Port {
    cut: bool,
    partner: Partner,
    carried: Carried,
}

impl Port {
    fn bundle(&self) -> Option<lacp::Bundle> {
        self.partner.bundle(Instant::now())
    }
}

impl Link {
    fn open(cable: &Cable) -> Result<Self> {
        Ok(Self {
            plugged: Plugged::open(cable)?,
            port: Mutex::default(),
        })
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State {
    settings: Settings,
    seen: Seen,
    /// The link that a frame to the host was last sent over.
    next: usize,
    /// Who speaks untagged, and in the guests' VLAN.
    untagged: BTreeSet<[u8; 6]>,
    guests: BTreeSet<[u8; 6]>,
}

impl State {
    /// Remembers who has sent a frame.
    fn learn(&mut self, frame: &[u8], guests: bool) {
        let known = if guests {
            &mut self.guests
        } else {
            &mut self.untagged
        };
        known.extend(frame::sender(frame));
    }

    /// The tags under which a frame goes to the host, or none.
    fn tags(&self, frame: &[u8]) -> Vec<Option<u16>> {
        let Settings { vlan, guests, .. } = self.settings;
        let Some(guests) = guests else {
            return vec![vlan];
        };
        let theirs = Some(guests.vlan);
        let receiver = frame::receiver(frame);
        let is_known = |known: &BTreeSet<_>| receiver.is_some_and(|mac| known.contains(&mac));
        if frame::is_for_all(frame) {
            vec![vlan, theirs]
        } else if is_known(&self.guests) && !is_known(&self.untagged)
            || frame::is_for(frame, guests.address)
        {
            vec![theirs]
        } else {
            vec![vlan]
        }
    }
}

#[derive(Debug)]
struct Shared {
    links: Vec<Link>,
    uplink: Plugged,
    state: Mutex<State>,
    off: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_link(&self, number: usize) {
        let mut buffer = vec![0; LONGEST];
        while !self.off.load(Ordering::Relaxed) {
            if let Some(frame) = self.links[number].plugged.receive(&mut buffer) {
                self.receive_from_host(number, frame);
            }
        }
    }

    fn serve_uplink(&self) {
        let mut buffer = vec![0; LONGEST];
        while !self.off.load(Ordering::Relaxed) {
            if let Some(frame) = self.uplink.receive(&mut buffer) {
                self.send_to_host(frame);
            }
        }
    }

    fn receive_from_host(&self, number: usize, frame: &[u8]) {
        let link = &self.links[number];
        if link.port().cut {
            return;
        }
        let settings = self.state().settings;
        if lacp::is_slow_protocol(frame) {
            if let Some(pdu) = Pdu::parse(frame).filter(|_| settings.lacp) {
                let answer = link.port().partner.hear(&pdu, number, Instant::now());
                link.plugged.send(&answer);
            }
            return;
        }
        let tag = frame::tag(frame);
        if tag.is_none() {
            self.state().seen.untagged += 1;
        }
        let guests = tag.is_some() && tag == settings.guests.map(|guests| guests.vlan);
        self.state().learn(frame, guests);
        self.state().seen.guests += u64::from(guests);
        let known = guests || tag == settings.vlan;
        if !known || settings.lacp && !self.is_bundled(number) {
            return;
        }
        let frame = match tag {
            Some(_) => frame::untagged(frame),
            None => frame.to_vec(),
        };
        if !settings.dhcp && frame::asks_dhcp(&frame) {
            self.state().seen.dhcp += 1;
            return;
        }
        link.port().carried.from_host += 1;
        let asked = |router| frame::arp_answer(&frame, router, ROUTER);
        match settings.router.and_then(asked) {
            Some(answer) => self.send_to_host(&answer),
            None => _ = self.uplink.send(&frame),
        }
    }

    /// Frames to the host go over the links in turns. A real switch keeps each
    /// conversation to one link; this needs the fewest to use all of them.
    fn send_to_host(&self, frame: &[u8]) {
        let (tags, number) = {
            let mut state = self.state();
            let count = self.links.len();
            let mut turns = (1..=count).map(|turn| (state.next + turn) % count);
            let usable = |number: &usize| {
                let cut = self.links[*number].port().cut;
                !cut && (!state.settings.lacp || self.is_bundled(*number))
            };
            let Some(number) = turns.find(usable) else {
                return;
            };
            state.next = number;
            (state.tags(frame), number)
        };
        let link = &self.links[number];
        for tag in tags {
            let sent = match tag {
                Some(vlan) => link.plugged.send(&frame::tagged(frame, vlan)),
                None => link.plugged.send(frame),
            };
            link.port().carried.to_host += u64::from(sent);
        }
    }

    /// Whether a link is in the bundle: the one of the first link that is in
    /// any.
    fn is_bundled(&self, number: usize) -> bool {
        let mut bundles = self.links.iter().map(|link| link.port().bundle());
        let first = bundles.find_map(|bundle| bundle);
        first.is_some() && self.links[number].port().bundle() == first
    }
}
