//! A hostile guest sends what it should not, in a network of the test's own under
//! the appliance's packet filter; whoever should hear nothing of it listens. Then
//! the same with one guard after another out, and each time something comes
//! through.

#[path = "isolation/guards.rs"]
mod guards;
#[path = "isolation/own.rs"]
mod own;
#[path = "isolation/scene.rs"]
mod scene;
#[path = "isolation/seats.rs"]
mod seats;
#[path = "isolation/way.rs"]
mod way;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_attack::Kind;
use surplus_seat::forwards::{self, PortMap};
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::Station;
use surplus_tests::network::guests::{
    GuestsNetwork, Setup, WORLD, WORLD6, attach, detach, transaction,
};

use crate::scene::{
    AT_PORT, Ear, Heard, ME, NEWCOMER, Names, PORT, Place, VICTIM, attack, attack_while, cast,
    names, program, seat,
};

/// What a guest may do has come where it should, by the way out, and nothing else
/// anywhere.
fn nothing_came_through(heard: &Heard, way: Place) -> Result<()> {
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
    ensure!(*heard.at(way) == outside, "{way:?}: {:?}", heard.at(way));
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
        let heard = attack(lab, &Setup::of_the_image(lab)?)?;
        nothing_came_through(&heard, Place::Outside)
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
                attach(host, seat(NEWCOMER), true, (victim, "eth1"))?;
                run(victim.tool("ip").args(["link", "set", "eth1", "up"]))?;
                setup.load(host)?;
                detach(host, seat(NEWCOMER))?;
            }
            Ok(())
        })?;
        nothing_came_through(&heard, Place::Outside)
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
        let guard = "hook forward priority filter; policy drop;\n\t\t# Out and in";
        let open = image.with(guard, &guard.replace("drop", "accept"))?;
        let heard = told_by_a_neighbour_of_the_host(lab, &open)?;
        let both = Names::from(["by-ipv4".into(), "by-ipv6".into()]);
        ensure!(*heard.at(Place::Victim) == both, "{heard:?}");
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

/// The map of forwarded ports, as nft lists its elements.
fn forwarded(host: &Station<'_>) -> Result<BTreeSet<String>> {
    let mut nft = host.tool("nft");
    let listed = run(nft.args(["-j", "list", "map", "inet", "surplus_forwards", "forwards"]))?;
    let listed: serde_json::Value = serde_json::from_slice(&listed)?;
    let elements = listed.pointer("/nftables/1/map/elem");
    let elements = elements.and_then(serde_json::Value::as_array);
    Ok(elements
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .collect())
}

/// As the agent changes the map while guests come and go.
#[test]
fn a_change_of_the_forwarded_ports_stands_on_what_was_written_before() -> Result<()> {
    surplus_tests::test("forwards-changed", |lab| {
        let setup = Setup::of_the_image(lab)?;
        let network = GuestsNetwork::new(lab, &setup, &[])?;
        let host = network.host();
        let ports = |of: &[(u16, u16)]| -> PortMap<&str> {
            let ports = of.iter();
            ports
                .map(|(port, to)| (("tcp", *port), (cast().me.ipv4(), *to)))
                .collect()
        };
        let take = |text: &str| -> Result<()> {
            let file = lab.scratch().join("forwards.nft");
            std::fs::write(&file, text)?;
            run(host.tool("nft").arg("--file").arg(&file)).map(drop)
        };
        let is = |map: &PortMap<&str>| -> Result<()> {
            let changed = forwarded(host)?;
            take(&forwards::whole(map, 99))?;
            let whole = forwarded(host)?;
            ensure!(whole.len() == map.len(), "{whole:?} instead of {map:?}");
            ensure!(changed == whole, "{changed:?} instead of {whole:?}");
            Ok(())
        };
        let first = ports(&[(16_384, 22), (16_385, 80), (16_386, 443)]);
        let second = ports(&[(16_384, 22), (16_386, 8443), (16_387, 53)]);
        take(&forwards::whole(&first, 1))?;
        take(&forwards::changes(&first, &second, 1))?;
        let again = take(&forwards::changes(&first, &second, 1));
        ensure!(again.is_err(), "the same change was taken twice");
        take(&forwards::changes(&second, &first, 2))?;
        take(&forwards::changes(&first, &second, 3))?;
        is(&second)?;

        setup.load(host)?;
        let blind = take(&forwards::changes(&second, &ports(&[]), 99));
        ensure!(blind.is_err(), "an emptied map was changed");
        let more = ports(&[(16_384, 22), (16_386, 8443), (16_387, 53), (16_388, 25)]);
        let blind = take(&forwards::changes(&second, &more, 99));
        ensure!(blind.is_err(), "a port was added to an emptied map");
        ensure!(forwarded(host)?.is_empty(), "half of a change was taken");
        take(&forwards::whole(&more, 7))?;
        is(&more)
    })
}
