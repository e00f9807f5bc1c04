//! A hostile guest sends what it should not, in a network of the test's own under
//! the appliance's packet filter; whoever should hear nothing of it listens. Then
//! the same with one guard after another out, and each time something comes
//! through.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_attack::{Attack, Cast, Kind};
use surplus_seat::{BRIDGE, Seat};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{
    self, GuestsNetwork, Setup, WORLD, WORLD6, outside6, transaction,
};
use surplus_tests::network::{Station, ipv4};

/// What the host might listen to, and who is there.
const PORT: &str = "4242";
const AT_PORT: &str = "127.0.0.1:4242";

type Names = BTreeSet<String>;

/// Where a frame was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By the tenant beside it.
    Victim,
    /// On the guests' bridge, by the host's own side of it.
    Bridge,
    /// By a program on the host.
    Host,
    /// Behind the host, on the site's network.
    Outside,
    /// By its sender, from the host.
    Sender,
}

/// What was heard where.
#[derive(Debug)]
struct Heard(Vec<(Place, Names)>);

impl Heard {
    fn at(&self, place: Place) -> &Names {
        let found = self.0.iter().find(|(at, _)| *at == place);
        &found.expect("every place has ears").1
    }
}

/// Somebody who listens, in a namespace.
struct Ear<'a> {
    station: &'a Station<'a>,
    place: Place,
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    /// What tells it that it has heard everything.
    last: Command,
}

fn program(lab: &Lab, words: &[&str]) -> Result<Command> {
    let mut program = lab.program("surplus-attack")?;
    program.args(words);
    Ok(program)
}

impl<'a> Ear<'a> {
    fn open(station: &'a Station<'a>, place: Place, hear: &[&str], last: &[&str]) -> Result<Self> {
        let lab = station.lab();
        let words: Vec<_> = ["hear"].iter().chain(hear).copied().collect();
        let mut process = station
            .enter(&program(lab, &words)?)
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start an ear")?;
        let output = process.stdout.take().context("an ear without a mouth")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.trim() == "listening", "at {place:?}: {line:?}");
        let last = program(lab, last)?;
        Ok(Self {
            station,
            place,
            process,
            output,
            last,
        })
    }

    fn interface(station: &'a Station<'a>, place: Place, interface: &str) -> Result<Self> {
        Self::open(station, place, &["frames", interface], &["last", interface])
    }

    /// Everything that it heard.
    fn close(mut self) -> Result<(Place, Names)> {
        run(&mut self.station.enter(&self.last))?;
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the ear at {:?}: {status}", self.place);
        Ok((self.place, said.lines().map(str::to_owned).collect()))
    }
}

fn seat(number: u16) -> Seat {
    Seat::try_from(number).expect("a seat's number")
}

/// Who sends, who suffers, who is not there, and who comes and goes.
const ME: u16 = 1;
const VICTIM: u16 = 2;
const EMPTY: u16 = 3;
const NEWCOMER: u16 = 4;

fn cast() -> Cast {
    Cast {
        me: seat(ME),
        victim: seat(VICTIM),
        // As set below.
        host: [0x02, 0, 0, 0, 0, 0x01],
        uplink: ipv4(1),
        management: ipv4(2),
        uplink6: outside6(1),
        management6: outside6(2),
    }
}

/// Sends everything, from the guest and from the host, and says what was heard.
fn attack(lab: &Lab, setup: &Setup) -> Result<Heard> {
    attack_while(lab, setup, |_| Ok(()))
}

/// The same over and over, while something is done.
fn attack_while(
    lab: &Lab,
    setup: &Setup,
    meanwhile: impl FnOnce(&GuestsNetwork<'_>) -> Result<()>,
) -> Result<Heard> {
    let cast = cast();
    let network = GuestsNetwork::new(lab, setup, &[cast.me, cast.victim])?;
    let (host, me) = (network.host(), network.guest_in(cast.me)?);
    let mac = cast.host.map(|byte| format!("{byte:02x}")).join(":");
    let mut ip = host.tool("ip");
    run(ip.args(["link", "set", BRIDGE, "address", &mac]))?;

    let from_host = ["frames", "eth0", "--from", &mac];
    let victim = network.guest_in(cast.victim)?;
    let ears = [
        // Also as those who come and go.
        Ear::open(victim, Place::Victim, &["frames"], &["last", "eth0"])?,
        Ear::interface(host, Place::Bridge, BRIDGE)?,
        Ear::interface(network.outside(), Place::Outside, "eth0")?,
        Ear::open(host, Place::Host, &["port", PORT], &["tell", AT_PORT])?,
        Ear::open(me, Place::Sender, &from_host, &["last", "eth0"])?,
    ];
    let mut send = sender(lab, &mac)?;
    let mut sending = me
        .enter(send.args(["--interface", "eth0", "--again"]))
        .stdin(Stdio::piped())
        .spawn()?;
    meanwhile(&network)?;
    // Its standard input ends.
    let status = sending.wait()?;
    ensure!(status.success(), "the attacker: {status}");
    let mut flood = sender(lab, &mac)?;
    flood.args(["--interface", BRIDGE, "--flood", &EMPTY.to_string()]);
    run(&mut host.enter(&flood))?;
    let heard = ears.into_iter().map(|ear| {
        let (place, mut heard) = ear.close()?;
        if place == Place::Sender {
            // Its own in the host's name, and what the world answers.
            heard.remove("mac-of-the-host");
            heard = &heard - &names(Kind::Allowed);
        }
        Ok((place, heard))
    });
    Ok(Heard(heard.collect::<Result<_>>()?))
}

/// Who sends, and knows who takes part.
fn sender(lab: &Lab, host: &str) -> Result<Command> {
    let cast = cast();
    let mut send = program(lab, &["send", "--host", host])?;
    for (option, value) in [
        ("--me", cast.me.to_string()),
        ("--victim", cast.victim.to_string()),
        ("--uplink", cast.uplink.to_string()),
        ("--management", cast.management.to_string()),
        ("--uplink6", cast.uplink6.to_string()),
        ("--management6", cast.management6.to_string()),
    ] {
        send.args([option, &value]);
    }
    Ok(send)
}

/// The names of the attacks of a kind.
fn names(kind: Kind) -> Names {
    let of_kind = |attack: &Attack| attack.kind == kind;
    let all = surplus_attack::all(&cast()).into_iter().filter(of_kind);
    all.map(|attack| attack.name.to_owned()).collect()
}

/// What a guest may do has come where it should, and nothing else anywhere.
fn nothing_came_through(heard: &Heard) -> Result<()> {
    for place in [Place::Victim, Place::Host, Place::Sender] {
        let names = heard.at(place);
        ensure!(names.is_empty(), "{place:?} heard {names:?}");
    }
    let forged: Names = names(Kind::Forged);
    let came: Vec<_> = heard.at(Place::Bridge).intersection(&forged).collect();
    ensure!(came.is_empty(), "forged, and on the bridge: {came:?}");
    // What a guest may do works: or else silence would prove nothing.
    let world = ["to-the-world", "to-the-world-6", "to-the-sites-name-server"];
    let outside = Names::from(world.map(str::to_owned));
    ensure!(
        *heard.at(Place::Outside) == outside,
        "outside: {:?}",
        heard.at(Place::Outside)
    );
    for allowed in names(Kind::Allowed) {
        ensure!(
            heard.at(Place::Bridge).contains(&allowed),
            "{allowed} did not pass"
        );
    }
    Ok(())
}

#[test]
fn nothing_that_a_hostile_guest_sends_reaches_anybody() -> Result<()> {
    surplus_tests::test("isolation", |lab| {
        nothing_came_through(&attack(lab, &Setup::of_the_image(lab)?)?)
    })
}

/// So often is the filter loaded, and does a neighbour come and go.
const ROUNDS: u32 = 20;

#[test]
fn nothing_comes_through_while_the_filter_is_loaded_anew_and_neighbours_come_and_go() -> Result<()>
{
    surplus_tests::test("reload", |lab| {
        let setup = Setup::of_the_image(lab)?;
        let heard = attack_while(lab, &setup, |network| {
            let (host, victim) = (network.host(), network.guest_in(seat(VICTIM))?);
            for _ in 0..ROUNDS {
                guests::attach(host, seat(NEWCOMER), true, (victim, "eth1"))?;
                run(victim.tool("ip").args(["link", "set", "eth1", "up"]))?;
                setup.load(host)?;
                guests::detach(host, seat(NEWCOMER))?;
            }
            Ok(())
        })?;
        nothing_came_through(&heard)
    })
}

#[test]
fn a_filter_that_is_first_flushed_and_then_loaded_lets_something_through() -> Result<()> {
    surplus_tests::test("flush", |lab| {
        let setup = Setup::of_the_image(lab)?;
        let heard = attack_while(lab, &setup, |network| {
            transaction(network.host(), "flush", "flush ruleset\n")?;
            setup.load(network.host())
        })?;
        let forged = names(Kind::Forged);
        let came = !heard.at(Place::Bridge).is_disjoint(&forged);
        ensure!(came, "nothing came through a gap: {heard:?}");
        Ok(())
    })
}

#[test]
fn a_guest_reaches_the_world_over_both_protocols() -> Result<()> {
    surplus_tests::test("world", |lab| {
        let network = GuestsNetwork::new(lab, &Setup::of_the_image(lab)?, &[seat(ME)])?;
        for world in [WORLD.into(), WORLD6.into()] {
            let rate = network.throughput(seat(ME), world, Duration::from_millis(100))?;
            ensure!(rate > 0.0, "nothing came to {world}");
        }
        Ok(())
    })
}

/// Who stands on the site's network and takes the host for a router.
fn told_by_a_neighbour_of_the_host(lab: &Lab, setup: &Setup) -> Result<Heard> {
    let cast = cast();
    let network = GuestsNetwork::new(lab, setup, &[cast.me])?;
    let (outside, me) = (network.outside(), network.guest_in(cast.me)?);
    let ears = [Ear::open(
        me,
        Place::Victim,
        &["port", PORT],
        &["tell", AT_PORT],
    )?];
    for (guest, host, name) in [
        (cast.me.ipv4().into(), cast.uplink.into(), "by-ipv4"),
        (cast.me.ipv6().into(), cast.uplink6.into(), "by-ipv6"),
    ] {
        let (guest, host): (IpAddr, IpAddr) = (guest, host);
        let mut ip = outside.tool("ip");
        run(ip.args(["route", "add", &guest.to_string(), "via", &host.to_string()]))?;
        let to = SocketAddr::new(guest, PORT.parse()?).to_string();
        run(&mut outside.enter(&program(lab, &["tell", &to, name])?))?;
    }
    let heard = ears.into_iter().map(Ear::close).collect::<Result<_>>()?;
    Ok(Heard(heard))
}

#[test]
fn a_neighbour_of_the_host_reaches_no_guest_by_its_own_address() -> Result<()> {
    surplus_tests::test("neighbour", |lab| {
        let image = Setup::of_the_image(lab)?;
        let heard = told_by_a_neighbour_of_the_host(lab, &image)?;
        ensure!(heard.at(Place::Victim).is_empty(), "{heard:?}");
        let guard = "hook forward priority filter; policy drop;\n\t\tct";
        let open = image.with(guard, &guard.replace("drop", "accept"))?;
        let heard = told_by_a_neighbour_of_the_host(lab, &open)?;
        let both = Names::from(["by-ipv4".into(), "by-ipv6".into()]);
        ensure!(*heard.at(Place::Victim) == both, "{heard:?}");
        Ok(())
    })
}

/// A guard, what of the filter is to be replaced by what to take it out, and what
/// then comes where.
struct Guard {
    what: &'static str,
    out: &'static [(&'static str, &'static str)],
    comes: &'static [&'static str],
    to: Place,
}

const GUARDS: &[Guard] = &[
    Guard {
        what: "the sender's MAC address",
        out: &[("\t\tiifname . ether saddr != @seats drop\n", "")],
        comes: &["mac-of-another-guest", "mac-of-nobody"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP, IPv4 and IPv6 alone, untagged",
        out: &[("goto speak_ip6 }\n\t\tdrop\n", "goto speak_ip6 }\n")],
        comes: &["vlan", "vlan-in-vlan", "stp", "pvst", "no-such-protocol"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP for Ethernet",
        out: &[("\t\tarp htype != 1 drop\n", "")],
        comes: &["arp-of-another-hardware"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP for IPv4",
        out: &[("\t\tarp ptype != ip drop\n", "")],
        comes: &["arp-of-another-protocol"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP's questions and answers alone",
        out: &[("\t\tarp operation != { request, reply } drop\n", "")],
        comes: &["arp-reverse-request", "arp-inverse-request"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP with the sender's MAC address",
        out: &[("\t\tiifname . arp saddr ether != @seats drop\n", "")],
        comes: &["arp-reply-with-another-mac"],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP with the sender's IPv4 address",
        out: &[(
            "\t\tiifname . arp saddr ip @addresses accept\n",
            "\t\taccept\n",
        )],
        comes: &[
            "arp-reply-as-another-guest",
            "arp-announcement-as-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "ARP's question for the own address alone",
        out: &[(
            " arp operation request iifname . arp daddr ip @addresses accept",
            " accept",
        )],
        comes: &["arp-probe-for-another-guest", "arp-reply-as-nobody"],
        to: Place::Bridge,
    },
    Guard {
        what: "the sender's IPv4 address",
        out: &[("\t\tiifname . ip saddr @addresses accept\n", "\t\taccept\n")],
        comes: &[
            "ipv4-of-another-guest",
            "fragment-of-another-guest",
            "dhcp-offer-as-the-host",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "DHCP for the own address alone",
        out: &[("\t\tudp dport 67 iifname . @th,288,48 != @cards drop\n", "")],
        comes: &[
            "dhcp-request-as-another-guest",
            "dhcp-renewal-as-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "what is for the host comes whole",
        out: &[(
            " ip frag-off & 0x3fff != 0 drop",
            " ip frag-off & 0x3fff == 0x3fff drop",
        )],
        comes: &["pieces"],
        to: Place::Bridge,
    },
    Guard {
        what: "what the bridge floods is for whom it is for",
        out: &[("\t\toifname \"sg*\" goto hear\n", "")],
        comes: &[
            "flooded-unicast",
            "flooded-arp-request",
            "flooded-router-advertisement",
        ],
        to: Place::Victim,
    },
    Guard {
        what: "the sender's IPv6 address",
        out: &[("\t\tiifname . ip6 saddr != @addresses6 drop\n", "")],
        comes: &[
            "ipv6-of-another-guest",
            "ipv6-of-the-host",
            "nd-solicitation-as-another-guest",
            "nd-advertisement-from-another-guest",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "the address that is for more than its cable",
        out: &[(
            " ip6 saddr fdc9:50a5:3ed9::/64 ip6 daddr != ff00::/8 accept",
            " ip6 daddr != ff00::/8 accept",
        )],
        comes: &["ipv6-of-the-cable"],
        to: Place::Bridge,
    },
    Guard {
        what: "no groups of IPv6",
        out: &[(
            " ip6 saddr fdc9:50a5:3ed9::/64 ip6 daddr != ff00::/8 accept",
            " ip6 saddr fdc9:50a5:3ed9::/64 accept",
        )],
        comes: &["to-a-group-6", "to-everybody-6"],
        to: Place::Bridge,
    },
    Guard {
        what: "no headers between, no fragments",
        out: &[("ip6 nexthdr { tcp, udp } ip6 saddr", "ip6 saddr")],
        comes: &[
            "hop-by-hop-6",
            "destination-options-6",
            "source-routed-6",
            "fragment-6",
            "later-fragment-6",
            "whole-fragment-6",
            "ipv6-in-ipv6",
            "ipv4-in-ipv6",
            "no-such-header-6",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "no header hides what a message is",
        out: &[(
            "\t\tip6 nexthdr icmpv6 goto speak_icmp6\n",
            "\t\tmeta l4proto icmpv6 accept\n",
        )],
        comes: &[
            "router-advertisement-behind-options",
            "router-advertisement-behind-hops",
            "router-advertisement-in-a-fragment",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "messages from an address for more than its cable",
        out: &[("\t\tip6 saddr != fdc9:50a5:3ed9::/64 drop\n", "")],
        comes: &["ping-by-cable"],
        to: Place::Bridge,
    },
    Guard {
        what: "no messages to groups",
        out: &[("\t\tip6 daddr ff00::/8 drop\n", "")],
        comes: &["ping-to-everybody-6"],
        to: Place::Bridge,
    },
    Guard {
        what: "no messages about networks",
        out: &[(
            "\t\ticmpv6 type {\n\t\t\techo-request, echo-reply,\n\t\t\tdestination-unreachable, \
             packet-too-big, time-exceeded, parameter-problem\n\t\t} accept\n",
            "\t\taccept\n",
        )],
        comes: &[
            "router-advertisement-to-the-host",
            "nd-redirect",
            "mld-report-of-version-2",
            "router-renumbering",
            "node-information",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "questions from the cable alone",
        out: &[(
            "chain ask_neighbour {\n\t\tip6 hoplimit != 255 drop\n",
            "chain ask_neighbour {\n",
        )],
        comes: &["nd-solicitation-from-afar"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions of the one code",
        out: &[(
            "\t\ticmpv6 code != 0 drop\n\t\ticmpv6 taddr",
            "\t\ticmpv6 taddr",
        )],
        comes: &["nd-solicitation-of-another-code"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions for the host alone",
        out: &[(
            "\t\ticmpv6 taddr != { fe80::1, fdc9:50a5:3ed9::1 } drop\n",
            "",
        )],
        comes: &["nd-solicitation-for-another-guest"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions to the host alone",
        out: &[(
            "\t\tip6 daddr != { fe80::1, fdc9:50a5:3ed9::1, ff02::1:ff00:1 } drop\n",
            "",
        )],
        comes: &["nd-solicitation-to-everybody"],
        to: Place::Bridge,
    },
    Guard {
        what: "questions with the asker's card",
        out: &[(
            "ip6 length 32 @th,192,16 0x0101 iifname . @th,208,48 @cards accept",
            "accept",
        )],
        comes: &[
            "nd-solicitation-with-another-card",
            "nd-solicitation-with-another-option",
            "nd-solicitation-without-a-card",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "answers from the cable alone",
        out: &[(
            "chain tell_neighbour {\n\t\tip6 hoplimit != 255 drop\n",
            "chain tell_neighbour {\n",
        )],
        comes: &["nd-advertisement-from-afar"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers of the one code",
        out: &[(
            "\t\ticmpv6 code != 0 drop\n\t\tiifname . icmpv6 taddr",
            "\t\tiifname . icmpv6 taddr",
        )],
        comes: &["nd-advertisement-of-another-code"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers about oneself alone",
        out: &[("\t\tiifname . icmpv6 taddr != @addresses6 drop\n", "")],
        comes: &[
            "nd-advertisement-as-another-guest",
            "nd-advertisement-as-the-host",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "answers to the host alone",
        out: &[("\t\tip6 daddr != { fe80::1, fdc9:50a5:3ed9::1 } drop\n", "")],
        comes: &["nd-advertisement-to-everybody"],
        to: Place::Bridge,
    },
    Guard {
        what: "answers with the own card",
        out: &[(
            "ip6 length 32 @th,192,16 0x0201 iifname . @th,208,48 @cards accept",
            "accept",
        )],
        comes: &[
            "nd-advertisement-with-another-card",
            "nd-advertisement-with-another-option",
        ],
        to: Place::Bridge,
    },
    Guard {
        what: "questions are for whom they are about",
        out: &[(
            "icmpv6 type nd-neighbor-solicit oifname . icmpv6 taddr @addresses6 accept",
            "icmpv6 type nd-neighbor-solicit accept",
        )],
        comes: &["flooded-solicitation"],
        to: Place::Victim,
    },
    Guard {
        what: "IPv6 is for whom it is for",
        out: &[(
            "\t\toifname . ether daddr @seats oifname . ip6 daddr @addresses6 accept\n",
            "\t\taccept\n",
        )],
        comes: &["flooded-unicast-6", "flooded-router-advertisement"],
        to: Place::Victim,
    },
    Guard {
        what: "no guest reaches the host, nor does the host answer",
        out: &[
            ("\t\tiifname \"surplus0\" drop\n", ""),
            ("\t\toifname != \"surplus0\" accept\n", "\t\taccept\n"),
        ],
        comes: &["ping-to-the-host", "ping-to-the-host-6"],
        to: Place::Sender,
    },
    Guard {
        what: "no guest reaches the site's networks",
        out: &[("\t\tiifname \"surplus0\" ip daddr @near drop\n", "")],
        comes: &["to-the-management-network", "to-a-metadata-service"],
        to: Place::Outside,
    },
    Guard {
        what: "no guest reaches what is not the world's in IPv6",
        out: &[("\t\tiifname \"surplus0\" ip6 daddr @near6 drop\n", "")],
        comes: &[
            "to-a-private-network-6",
            "to-a-sites-network-6",
            "to-a-translated-address",
            "to-a-relayed-address",
            "to-a-tunnelled-address",
        ],
        to: Place::Outside,
    },
    Guard {
        what: "no guest reaches the uplink's own network in IPv6",
        out: &[(
            "\t\tiifname \"surplus0\" rt ip6 nexthop != fe80::/10 drop\n",
            "",
        )],
        comes: &["to-the-management-network-6"],
        to: Place::Outside,
    },
    Guard {
        what: "nothing goes out that no connection knows of",
        out: &[("\t\tiifname \"surplus0\" ct state invalid drop\n", "")],
        comes: &["unasked-answer", "unasked-answer-6"],
        to: Place::Outside,
    },
];

#[test]
fn without_any_one_guard_something_comes_through() -> Result<()> {
    surplus_tests::test("guards", |lab| {
        for guard in GUARDS {
            let mut setup = Setup::of_the_image(lab)?;
            for (old, new) in guard.out {
                setup = setup.with(old, new)?;
            }
            let heard = attack(lab, &setup)?;
            for name in guard.comes {
                let came = heard.at(guard.to).contains(*name);
                ensure!(
                    came,
                    "without {}, {name} comes to {:?} no more than with it: {heard:?}",
                    guard.what,
                    guard.to
                );
            }
        }
        Ok(())
    })
}

/// Between guests stand three guards; any one is enough for most frames, and
/// without all of them everything passes.
#[test]
fn guests_hear_each_other_only_without_isolation_filter_and_flood_guard() -> Result<()> {
    surplus_tests::test("guests", |lab| {
        let image = Setup::of_the_image(lab)?;
        let forward = "hook forward priority filter; policy drop;\n\t}";
        let open = image
            .clone()
            .with(forward, &forward.replace("drop", "accept"))?;
        let open = open.with("\t\toifname \"sg*\" goto hear\n", "")?;
        let bare = Setup {
            isolated: false,
            ..open.clone()
        };
        let heard = attack(lab, &bare)?;
        ensure!(heard.at(Place::Victim).contains("to-a-guest"), "{heard:?}");
        for setup in [
            open,
            Setup {
                isolated: false,
                ..image
            },
        ] {
            let heard = attack(lab, &setup)?;
            let tried = names(Kind::Trespass);
            let came: Vec<_> = heard.at(Place::Victim).intersection(&tried).collect();
            ensure!(came.is_empty(), "the victim heard {came:?}");
        }
        Ok(())
    })
}

/// From the site's network to a port of the host, as the agent hands it on.
#[test]
fn a_forwarded_port_leads_to_its_guest_and_no_other_port_to_anybody() -> Result<()> {
    surplus_tests::test("forwards", |lab| {
        let cast = cast();
        let setup = Setup::of_the_image(lab)?;
        let network = GuestsNetwork::new(lab, &setup, &[cast.me, cast.victim])?;
        let (host, me) = (network.host(), network.guest_in(cast.me)?);
        let mine = cast
            .me
            .host_ports()
            .next()
            .context("a seat without ports")?;
        let theirs = cast
            .victim
            .host_ports()
            .next()
            .context("a seat without ports")?;
        let element = format!(
            "add element inet surplus_forwards forwards {{ udp . {mine} : {} . {PORT} }}",
            cast.me.ipv4()
        );
        run(host.tool("nft").arg(&element))?;
        let ears = [
            Ear::open(me, Place::Sender, &["port", PORT], &["tell", AT_PORT])?,
            Ear::interface(network.guest_in(cast.victim)?, Place::Victim, "eth0")?,
            Ear::open(host, Place::Host, &["port", PORT], &["tell", AT_PORT])?,
        ];
        let tell = |port: u16, name: &str| -> Result<()> {
            let to = format!("{}:{port}", cast.uplink);
            let tell = program(lab, &["tell", &to, name])?;
            run(&mut network.outside().enter(&tell)).map(drop)
        };
        tell(theirs, "to-a-port-of-nobody")?;
        tell(PORT.parse()?, "to-the-host-itself")?;
        tell(mine, "to-the-guest")?;
        let heard = ears.into_iter().map(Ear::close).collect::<Result<_>>()?;
        let heard = Heard(heard);
        ensure!(
            *heard.at(Place::Sender) == Names::from(["to-the-guest".into()]),
            "{heard:?}"
        );
        ensure!(heard.at(Place::Victim).is_empty(), "{heard:?}");
        ensure!(heard.at(Place::Host).is_empty(), "{heard:?}");
        Ok(())
    })
}
