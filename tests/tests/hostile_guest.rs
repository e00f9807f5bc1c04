//! A hostile guest on a booted host: a real QEMU's, beside another tenant's. It
//! sends everything that it should not, again and again, while the host lives its
//! life and a third guest burns its processor; whoever should hear nothing of it
//! listens on the host.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_attack::{Cast, Kind, all};
use surplus_seat::{BRIDGE, Seat};
use surplus_tests::rental::{Order, offered};
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, guest};

const BOOT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);
const ROUND: Duration = Duration::from_secs(120);

/// What the host might listen to.
const PORT: &str = "4242";
/// Everything is sent so often while somebody listens: the first round has begun
/// already.
const ROUNDS: usize = 3;

/// In ticks of the processor's time.
const A_SECOND: u64 = 100;

/// Who else is in QEMU's own network, where the host stands.
const NEIGHBOUR: &str = "10.0.2.2";
const NEIGHBOUR6: &str = "fec0::2";

type Names = BTreeSet<String>;

/// Who sends, who suffers, and who comes later: guests are seated in order.
struct Scene<'a> {
    machine: Machine,
    buyer: Client<'a>,
    /// The host's way out.
    uplink: String,
    cast: Cast,
}

fn seat(number: u16) -> Result<Seat> {
    Ok(Seat::try_from(number)?)
}

impl<'a> Scene<'a> {
    fn begin(lab: &Lab, marketplace: &'a Marketplace<'a>) -> Result<Self> {
        lab.bring("surplus-attack")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, marketplace.joining_iso("host")?)
            .cpus(4)
            .memory_mib(2048)
            .shell()
            .start()?;
        let buyer = marketplace.buyer("buyer")?;
        let images = [
            ("halt", lab.halting_image()?),
            ("burn", lab.burning_image()?),
            ("hostile", guest::hostile(lab)?),
        ];
        for (name, image) in images {
            buyer.run(&["image", "add", &image.to_string_lossy(), "--name", name])?;
        }
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        let way = "awk '$2 == \"00000000\" { print $1; exit }' /proc/net/route";
        let uplink = machine.shell()?.run(way, SOON)?;
        let mut scene = Self {
            cast: cast(&mut machine, &uplink)?,
            machine,
            buyer,
            uplink,
        };
        scene.quiet_guest("victim", "halt", scene.cast.victim)?;
        scene.hostile_guest(lab)?;
        Ok(scene)
    }

    /// One that sends nothing.
    fn quiet_guest(&mut self, name: &str, image: &str, seat: Seat) -> Result<()> {
        let order = Order {
            image,
            memory: "64MiB",
            ..Order::hello(name)
        };
        order.start(&self.buyer)?;
        self.sits_in(seat)
    }

    fn hostile_guest(&mut self, lab: &Lab) -> Result<()> {
        let Cast {
            me,
            victim,
            host,
            uplink,
            management,
            uplink6,
            management6,
        } = self.cast;
        let host = host.map(|byte| format!("{byte:02x}")).join(":");
        let options = format!(
            "--me {me} --victim {victim} --host {host} --uplink {uplink} --management \
             {management} --uplink6 {uplink6} --management6 {management6}"
        );
        let user_data = lab.scratch().join("user-data");
        fs::write(&user_data, format!("# surplus-test: attack={options}\n"))?;
        let order = Order {
            image: "hostile",
            memory: "128MiB",
            more: &["--user-data", &user_data.to_string_lossy()],
            ..Order::hello("hostile")
        };
        order.start(&self.buyer)?;
        self.sits_in(me)?;
        self.attacked(1)
    }

    fn sits_in(&mut self, seat: Seat) -> Result<()> {
        self.host(&format!("test -d /sys/class/net/{}", seat.interface()))
            .with_context(|| format!("nobody sits in seat {seat}"))
            .map(drop)
    }

    fn host(&mut self, command: &str) -> Result<String> {
        self.machine.shell()?.run(command, SOON)
    }

    /// What the guest in this seat has taken, in ticks.
    fn processor_time(&mut self, seat: Seat) -> Result<u64> {
        let uid = seat.uid();
        let of_its_user = format!(
            "for pid in $(pidof qemu-system-x86_64); do \
             [ $(stat -c %u /proc/$pid) = {uid} ] && cut -d' ' -f14 /proc/$pid/stat; done; true"
        );
        let ticks = self.host(&of_its_user)?;
        ticks
            .parse()
            .with_context(|| format!("not one QEMU of user {uid}: {ticks:?}"))
    }

    /// Waits until the guest has sent everything so often, as its console says,
    /// which the host writes down whoever else is dead.
    fn attacked(&mut self, rounds: usize) -> Result<()> {
        let wait = format!(
            "n() {{ cat /var/lib/surplus/guests/*/console.log | grep -c 'guest: attacked'; }}; \
             goal=$(($(n) + {rounds})); while [ $(n) -lt $goal ]; do usleep 100000; done"
        );
        self.machine.shell()?.run(&wait, ROUND).map(drop)
    }

    /// Listens everywhere on the host while it attacks and `meanwhile` is done.
    fn heard_while(&mut self, meanwhile: impl FnOnce(&mut Self) -> Result<()>) -> Result<Heard> {
        let mac = self.cast.host.map(|byte| format!("{byte:02x}")).join(":");
        let (me, victim) = (self.cast.me.interface(), self.cast.victim.interface());
        let uplink = &self.uplink;
        let ears = [
            (
                "victim",
                format!("frames {victim}"),
                format!("last {victim}"),
            ),
            (
                "bridge",
                format!("frames {BRIDGE}"),
                format!("last {BRIDGE}"),
            ),
            (
                "outside",
                format!("frames {uplink}"),
                format!("last {uplink}"),
            ),
            (
                "sender",
                format!("frames {me} --from {mac}"),
                format!("last {me}"),
            ),
            (
                "host",
                format!("port {PORT}"),
                format!("tell 127.0.0.1:{PORT}"),
            ),
        ];
        for (name, hear, _) in &ears {
            let file = format!("/run/ear-{name}");
            self.host(&format!(
                "surplus-attack hear {hear} >{file} 2>&1 & echo $! >{file}.pid; \
                 until grep -q listening {file}; do usleep 20000; done"
            ))?;
        }
        meanwhile(self)?;
        self.attacked(ROUNDS)?;
        let mut heard = ears.iter().map(|(name, _, last)| {
            let file = format!("/run/ear-{name}");
            let said = self.host(&format!(
                "surplus-attack {last}; while [ -d /proc/$(cat {file}.pid) ]; do usleep 20000; \
                 done; cat {file}"
            ))?;
            let mut lines = said.lines().map(str::to_owned);
            ensure!(
                lines.next().as_deref() == Some("listening"),
                "{name}: {said}"
            );
            Ok(lines.collect::<Names>())
        });
        let mut next = || heard.next().context("an ear for each place")?;
        let (victim, bridge, outside) = (next()?, next()?, next()?);
        let (mut sender, host) = (next()?, next()?);
        // Its own, in the host's name.
        sender.remove("mac-of-the-host");
        Ok(Heard {
            victim,
            bridge,
            outside,
            sender,
            host,
        })
    }

    fn names(&self, kind: Kind) -> Names {
        let of_kind = all(&self.cast).into_iter().filter(|it| it.kind == kind);
        of_kind.map(|attack| attack.name.to_owned()).collect()
    }

    fn nothing_came_through(&self, when: &str, heard: &Heard) -> Result<()> {
        let (forged, allowed) = (self.names(Kind::Forged), self.names(Kind::Allowed));
        ensure!(heard.victim.is_empty(), "{when}: {heard:?}");
        ensure!(heard.host.is_empty(), "{when}: {heard:?}");
        ensure!(heard.bridge.is_disjoint(&forged), "{when}: {heard:?}");
        ensure!(heard.outside.is_subset(&allowed), "{when}: {heard:?}");
        ensure!(heard.sender.is_subset(&allowed), "{when}: {heard:?}");
        Ok(())
    }

    /// Or else silence would prove nothing.
    fn what_a_guest_may_do_works(&self, heard: &Heard) -> Result<()> {
        let allowed = self.names(Kind::Allowed);
        ensure!(heard.bridge.is_superset(&allowed), "{heard:?}");
        for world in ["to-the-world", "to-the-sites-name-server"] {
            ensure!(heard.outside.contains(world), "{heard:?}");
        }
        Ok(())
    }
}

/// By whom what was heard.
#[derive(Debug)]
struct Heard {
    victim: Names,
    bridge: Names,
    outside: Names,
    /// From the host.
    sender: Names,
    host: Names,
}

fn cast(machine: &mut Machine, uplink: &str) -> Result<Cast> {
    let mut host = |command: &str| machine.shell()?.run(command, SOON);
    let mac = host(&format!("cat /sys/class/net/{BRIDGE}/address"))?;
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
    let address = |family: &str| {
        format!(
            "ip -o -{family} address show dev {uplink} scope {scope} | \
             sed -n 's|.* inet6* \\([^/]*\\)/.*|\\1|p' | head -n 1",
            scope = if family == "6" { "site" } else { "global" }
        )
    };
    let (uplink4, uplink6) = (host(&address("4"))?, host(&address("6"))?);
    Ok(Cast {
        victim: seat(1)?,
        me: seat(2)?,
        host: bytes.try_into().ok().context("a MAC address")?,
        uplink: uplink4.parse().with_context(|| format!("{uplink4:?}"))?,
        management: NEIGHBOUR.parse()?,
        uplink6: uplink6.parse().with_context(|| format!("{uplink6:?}"))?,
        management6: NEIGHBOUR6.parse()?,
    })
}

/// Whatever systemd starts in its place ends at once.
const AGENT_DIES: &str = "mount -o bind /run/testkit/bin/busybox /opt/surplus/surplus-agent; \
    kill -9 $(pidof surplus-agent)";

/// The filter and the seats, as their units load them, until it is told to stop.
const RELOADING: &str = "rm -f /run/stop; (while [ ! -e /run/stop ]; do \
    nft --file /usr/lib/surplus/firewall.nft && nft --file /usr/lib/surplus/seats.nft; \
    done; touch /run/stopped) >/dev/null 2>&1 &";
const RELOADED: &str = "touch /run/stop; until [ -e /run/stopped ]; do usleep 50000; done; \
    nft --file /usr/lib/surplus/firewall.nft && nft --file /usr/lib/surplus/seats.nft";

#[test]
fn a_hostile_guest_on_a_booted_host_reaches_nobody() -> Result<()> {
    surplus_tests::test("hostile-guest", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let mut scene = Scene::begin(lab, &marketplace)?;

        let heard = scene.heard_while(|scene| {
            offered(&scene.buyer)?;
            scene.quiet_guest("newcomer", "burn", seat(3)?)
        })?;
        scene.nothing_came_through("while a guest starts", &heard)?;
        scene.what_a_guest_may_do_works(&heard)?;

        scene.host(AGENT_DIES)?;
        let before = scene.processor_time(seat(3)?)?;
        let heard = scene.heard_while(|scene| scene.host(RELOADING).map(drop))?;
        scene.host(RELOADED)?;
        let burnt = scene.processor_time(seat(3)?)? - before;
        ensure!(burnt > A_SECOND, "the newcomer burnt {burnt} ticks");
        scene.nothing_came_through("without agent, while the filter is loaded anew", &heard)?;

        // With the guests' ports open it is heard.
        scene.host("nft flush chain bridge surplus_guests from_guests")?;
        let heard = scene.heard_while(|_| Ok(()))?;
        let forged = scene.names(Kind::Forged);
        let came = heard.bridge.intersection(&forged).count();
        ensure!(came > forged.len() / 2, "only {came}: {heard:?}");
        Ok(())
    })
}
