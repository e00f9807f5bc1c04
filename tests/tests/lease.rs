//! The main job, whole: a host boots, enrols and offers; a buyer rents, sees
//! the guest's own words, and pays to the unit. On the way the agent is killed
//! and the network cable pulled.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use surplus_protocol::api::{Host, Lease};
use surplus_protocol::lease::{EndReason, LeaseState};
use surplus_seat::Seat;
use surplus_tests::guest::answer;
use surplus_tests::marketplace::free_port;
use surplus_tests::rental::{Order, bill_is_right, guest_is_gone, offered, qemu};
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, Nic};

const BOOT: Duration = Duration::from_secs(120);
/// The guest runs under emulated KVM where there is no other.
const GUEST: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);
/// Of the host's ports, the one that the first guest's first is reached by.
const FIRST_PORT: u16 = 16_384;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG5vYm9keS1oYXMtdGhpcy1wcml2YXRlLWtleSE buyer";
const USER_DATA: &str = "#cloud-config\n# colour: blue\n";

/// What the buyer brings.
struct Brought {
    key: String,
    user_data: String,
}

impl Brought {
    fn write(lab: &Lab) -> Result<Self> {
        let key = lab.scratch().join("buyer.pub");
        fs::write(&key, format!("{KEY}\n"))?;
        let user_data = lab.scratch().join("user-data");
        fs::write(&user_data, USER_DATA)?;
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        Ok(Self {
            key: text(key),
            user_data: text(user_data),
        })
    }

    fn rent(&self, buyer: &Client, name: &str, window: &str) -> Result<Lease> {
        offered(buyer)?;
        let order = Order {
            window,
            more: &[
                "--ssh-key",
                &self.key,
                "--user-data",
                &self.user_data,
                "--port",
                "7",
            ],
            ..Order::hello(name)
        };
        order.start(buyer)
    }
}

/// Waits until the guest's console, as the buyer sees it, holds each of `words`.
fn console_says(buyer: &Client, lease: &str, words: &[&str]) -> Result<String> {
    let found = |text: &str| words.iter().all(|word| text.contains(word));
    buyer.wait_for_console(lease, &format!("{words:?}"), GUEST, found)
}

#[test]
fn a_lease_runs_from_rent_to_bill_through_a_killed_agent_and_a_pulled_cable() -> Result<()> {
    surplus_tests::test("lease", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let operator = marketplace.operator()?;
        let iso = marketplace.joining_iso("host")?;
        let outside = free_port()?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .memory_mib(2048)
            .nic(Nic::User {
                forwards: vec![(outside, FIRST_PORT)],
            })
            .shell()
            .start()?;
        let buyer = marketplace.buyer("buyer")?;
        let order = Brought::write(lab)?;
        let image = lab.guest_image("qcow2")?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        machine.wait_for_stage("offering", BOOT)?;

        too_large_is_refused(&buyer)?;
        let lease = order.rent(&buyer, "web", "1h")?;
        ensure!(lease.state == LeaseState::Active, "{lease:?}");
        let instance = format!("guest: instance-id={}", lease.id);
        let key = KEY.rsplit_once(' ').context("the key has a comment")?.0;
        console_says(
            &buyer,
            "web",
            &[
                "guest: hello",
                "guest: user-data: # colour: blue",
                &format!("guest: ssh-key: {key}"),
                &instance,
                "guest: address=",
                // It knows the host by IPv6, under the seed's address and its card.
                "guest: address6=fdc9:50a5:3ed9::1:1/64 gateway6=fdc9:50a5:3ed9::1 at ",
            ],
        )?;

        the_guest_is_reached(&lease, outside)?;
        the_agent_is_killed(&mut machine, &buyer)?;
        the_guest_is_reached(&lease, outside)?;
        let known = connections(&mut machine)?;
        ensure!(known > 0, "the host knows no connection of the guest's");

        let ended: Lease = buyer.ask(&["end", "web", "--wait", "--timeout", "2m"])?;
        ensure!(ended.end_reason == Some(EndReason::Ended), "{ended:?}");
        guest_is_gone(&mut machine)?;
        bill_is_right(&buyer, &ended)?;
        let known = connections(&mut machine)?;
        ensure!(known == 0, "{known} connections outlived the lease");
        let answer = answer(outside, Duration::ZERO)?;
        ensure!(answer.is_empty(), "after its end the guest says {answer:?}");

        the_lease_ends_offline(&mut machine, &buyer, &order)?;
        let hosts: Vec<Host> = operator.ask(&["hosts"])?;
        ensure!(
            hosts.iter().all(|host| host.leases == 0),
            "a lease is left: {hosts:?}"
        );
        Ok(())
    })
}

/// How many of the first guest's connections with the outside the host knows.
fn connections(machine: &mut Machine) -> Result<usize> {
    let seat = Seat::try_from(1)?;
    let list = format!(
        "for of in orig reply; do conntrack --dump --$of-src {} 2>/dev/null; done",
        seat.ipv4()
    );
    Ok(machine.shell()?.run(&list, SOON)?.lines().count())
}

/// From outside, at the port that the lease names.
fn the_guest_is_reached(lease: &Lease, outside: u16) -> Result<()> {
    let [forward] = lease.forwards[..] else {
        bail!("the lease's ports are {:?}", lease.forwards);
    };
    ensure!(forward.host_port == FIRST_PORT, "{forward:?}");
    let answer = answer(outside, SOON)?;
    ensure!(
        answer.contains("guest: hello over TCP"),
        "the guest says {answer:?}"
    );
    Ok(())
}

fn too_large_is_refused(buyer: &Client) -> Result<()> {
    let order = Order {
        memory: "64GiB",
        ..Order::hello("large")
    };
    let refused = order.place(buyer).err();
    let text = format!(
        "{:#}",
        refused.context("64 GiB were rented on a host with 2")?
    );
    ensure!(
        text.contains("64") || text.contains("largest") || text.contains("fit"),
        "{text}"
    );
    let leases: Vec<Lease> = buyer.ask(&["leases"])?;
    ensure!(leases.is_empty(), "a refused request left {leases:?}");
    Ok(())
}

/// SIGKILL to the agent: the guest runs on, and its new words still arrive.
fn the_agent_is_killed(machine: &mut Machine, buyer: &Client) -> Result<()> {
    machine.shell()?.wait_ready(SOON)?;
    let before = qemu(machine)?.context("no QEMU runs for an active lease")?;
    let agent = machine.shell()?.run("pidof surplus-agent", SOON)?;
    machine.mark();
    machine.shell()?.run(&format!("kill -9 {agent}"), SOON)?;
    let reborn = format!(
        "until p=$(pidof surplus-agent) && [ \"$p\" != \"{agent}\" ]; do sleep 0.2; done; echo $p"
    );
    machine.shell()?.run(&reborn, SOON)?;

    let uptime: f64 = machine
        .shell()?
        .run("cut -d' ' -f1 /proc/uptime", SOON)?
        .parse()?;
    let heartbeats = |text: &str| text.matches("guest: heartbeat").count();
    let seen = heartbeats(&console_says(buyer, "web", &["guest: heartbeat"])?);
    buyer.wait_for_console("web", "heartbeat after the agent's death", GUEST, |text| {
        heartbeats(text) >= seen + 2
    })?;
    let after = qemu(machine)?.context("the guest died with the agent")?;
    ensure!(
        before == after,
        "the guest was started anew (uptime {uptime} s)"
    );
    let lease: Lease = buyer.ask(&["leases", "web"])?;
    ensure!(
        lease.state == LeaseState::Active && lease.epoch == 1,
        "{lease:?}"
    );
    Ok(())
}

/// A short lease on a host that has lost its link: the host ends it by itself
/// and reports it later.
fn the_lease_ends_offline(machine: &mut Machine, buyer: &Client, order: &Brought) -> Result<()> {
    machine.allow_errors();
    let lease = order.rent(buyer, "brief", "90s")?;
    ensure!(qemu(machine)?.is_some(), "no QEMU runs for an active lease");
    machine.set_link(false)?;
    let gone = "until ! pidof qemu-system-x86_64 >/dev/null; do sleep 0.5; done";
    machine.shell()?.run(gone, Duration::from_secs(150))?;
    let now: Lease = buyer.ask(&["leases", "brief"])?;
    ensure!(
        matches!(now.state, LeaseState::Active | LeaseState::Draining) && now.ended_at.is_none(),
        "the marketplace cannot know of the end: {now:?}"
    );
    machine.set_link(true)?;
    let over = |lease: Lease| (lease.state == LeaseState::Settled).then_some(lease);
    let id = lease.id.to_string();
    let ended = buyer.wait_until(&["leases", &id], "settled lease", BOOT, over)?;
    ensure!(ended.end_reason == Some(EndReason::Expired), "{ended:?}");
    guest_is_gone(machine)?;
    bill_is_right(buyer, &ended)?;
    Ok(())
}
