//! On a booted host agent and libvirt are killed in the midst of their work: while a
//! lease comes in, starts, runs and ends, each time twice. One guest runs meanwhile,
//! and nothing is left of it in the end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Host, Lease};
use surplus_protocol::lease::{EndReason, LeaseState};
use surplus_tests::chance::rounds;
use surplus_tests::rental::{Order, bill_is_right, guest_is_gone, offered, qemu};
use surplus_tests::{Chance, Client, Machine, Marketplace, Medium};

const BOOT: Duration = Duration::from_secs(120);
const GUEST: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);

/// What the deaths may cost of the bill: the time until libvirt says that the guest
/// was made, a look each, and the time until the successor looks.
const UNSEEN_MILLIS: u64 = 90_000;

/// Who is killed. Each is started again by systemd.
const VICTIMS: [&str; 2] = ["surplus-agent", "libvirtd"];

/// A moment of a lease's life, by something that can be seen on the host.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Its image comes in.
    Image,
    /// Its files are made.
    Files,
    /// Its QEMU is there.
    Start,
    /// At once.
    Now,
    /// The ledger has grown: its end has begun.
    End,
}

impl Moment {
    /// A condition of the shell on the host.
    fn sign(self) -> &'static str {
        match self {
            Self::Image => "ls /var/lib/surplus/images/*.partial",
            Self::Files => "ls /var/lib/surplus/guests/*/*",
            Self::Start => "pidof qemu-system-x86_64",
            Self::Now => "true",
            Self::End => "test \"$(cat /var/lib/surplus/ledger/*.segment | wc -c)\" != $ledger",
        }
    }
}

/// Kills a program twice, from a moment on: the second time soon after systemd
/// has started it again.
struct Killing {
    done: String,
}

impl Killing {
    fn prepare(
        machine: &mut Machine,
        chance: &mut Chance,
        victim: &str,
        moment: Moment,
    ) -> Result<Self> {
        let (first, second) = (chance.number(0..=400), chance.number(0..=900));
        let number = chance.number(0..=u64::MAX);
        let done = format!("/run/killed.{number}");
        println!("{victim}: {moment:?}, after {first} ms, and {second} ms after its return");
        let pid = format!("$(pidof {victim} | cut -d' ' -f1)");
        let sign = moment.sign();
        let script = format!(
            "ledger=$(cat /var/lib/surplus/ledger/*.segment | wc -c); \
             ( until {sign}; do usleep 5000; done; usleep {first}000; \
             until p={pid} && kill -9 $p; do usleep 5000; done; \
             until q={pid} && test -n \"$q\" && test \"$q\" != \"$p\"; do usleep 5000; done; \
             usleep {second}000; kill -9 {pid}; \
             until r={pid} && test -n \"$r\" && test \"$r\" != \"$q\"; do usleep 5000; done; \
             echo $p $q $r > {done} ) >/dev/null 2>&1 &"
        );
        machine.shell()?.run(&script, SOON)?;
        Ok(Self { done })
    }

    /// Both deaths are over, and the third process is there.
    fn finish(self, machine: &mut Machine) -> Result<()> {
        let done = self.done;
        let wait = format!("until test -s {done}; do usleep 50000; done; cat {done}");
        let pids = machine.shell()?.run(&wait, BOOT)?;
        ensure!(pids.split_whitespace().count() == 3, "{pids}");
        Ok(())
    }
}

fn rent(buyer: &Client, name: &str) -> Result<()> {
    offered(buyer)?;
    Order::hello(name).place(buyer)?;
    Ok(())
}

fn heartbeats(text: &str) -> usize {
    text.matches("guest: heartbeat").count()
}

/// One guest runs, and its console arrives, whoever was killed.
fn goes_on(machine: &mut Machine, buyer: &Client, name: &str, guest: &str) -> Result<()> {
    let seen = heartbeats(&buyer.console(name)?);
    buyer.wait_for_console(name, "heartbeat after a death", GUEST, |text| {
        heartbeats(text) >= seen + 2
    })?;
    let now = qemu(machine)?.context("the guest died")?;
    ensure!(now == guest, "QEMU was {guest}, and is {now}");
    Ok(())
}

fn lease_is_lived_through(
    machine: &mut Machine,
    buyer: &Client,
    chance: &mut Chance,
    victim: &str,
    name: &str,
    moments: &[Moment],
) -> Result<()> {
    let begun = Instant::now();
    let mut killings = Vec::new();
    for moment in moments {
        killings.push(Killing::prepare(machine, chance, victim, *moment)?);
    }
    rent(buyer, name)?;
    for killing in killings {
        killing.finish(machine)?;
    }
    let active = |lease: Lease| (lease.state == LeaseState::Active).then_some(lease);
    let lease: Lease = buyer.wait_until(&["leases", name], "active lease", GUEST, active)?;
    ensure!(lease.epoch == 1, "{lease:?}");
    buyer.wait_for_console(name, "a guest's word", GUEST, |text| heartbeats(text) > 0)?;
    let guest = qemu(machine)?.context("no QEMU runs for an active lease")?;
    ensure!(guest.split_whitespace().count() == 1, "QEMUs: {guest}");

    Killing::prepare(machine, chance, victim, Moment::Now)?.finish(machine)?;
    goes_on(machine, buyer, name, &guest)?;

    let killing = Killing::prepare(machine, chance, victim, Moment::End)?;
    let ended: Lease = buyer.ask(&["end", name, "--wait", "--timeout", "5m"])?;
    ensure!(ended.end_reason == Some(EndReason::Ended), "{ended:?}");
    killing.finish(machine)?;
    guest_is_gone(machine)?;
    let millis = bill_is_right(buyer, &ended)?;
    let (from, to) = (ended.started_at, ended.ended_at);
    let window = to.zip(from).map(|(to, from)| to.duration_since(from));
    let window = window.context("no window")?.as_millis();
    ensure!(
        i128::from(millis + UNSEEN_MILLIS) >= window,
        "{millis} ms are billed of {window} ms"
    );
    println!(
        "{name}: {victim} killed eight times; {millis} ms billed of {window}; {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

#[test]
fn whoever_is_killed_in_the_midst_of_a_lease_one_guest_runs_and_nothing_is_left() -> Result<()> {
    surplus_tests::test("kill", |lab| {
        let mut chance = Chance::of("kill");
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .memory_mib(2048)
            .shell()
            .start()?;
        // A host that is without libvirt for a moment says so.
        machine.allow_errors();
        let buyer = marketplace.buyer("buyer")?;
        let image = lab.guest_image("qcow2")?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        for round in 0..rounds() {
            for victim in VICTIMS {
                // The image comes in once, and is cached from then on.
                let first = round == 0 && victim == VICTIMS[0];
                let intake = if first { Moment::Image } else { Moment::Files };
                let name = format!("{victim}-{round}");
                let moments = [intake, Moment::Start];
                lease_is_lived_through(&mut machine, &buyer, &mut chance, victim, &name, &moments)
                    .with_context(|| format!("{victim}, round {round}"))?;
            }
        }
        let hosts: Vec<Host> = marketplace.operator()?.ask(&["hosts"])?;
        let free = hosts.iter().all(|host| host.leases == 0);
        ensure!(free, "a lease is left: {hosts:?}");
        Ok(())
    })
}
