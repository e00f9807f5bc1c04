//! Somebody who broke out of a guest: a program takes on a running QEMU's
//! confinement and tries what it should not be able to do. Then the same with
//! one guard after another out, and each time something comes through.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::Host;
use surplus_protocol::inventory::SelfCheck;
use surplus_tests::netboot::kernel;
use surplus_tests::rental::{Order, qemu};
use surplus_tests::{Lab, Machine, Marketplace, Medium};

const BOOT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);

/// What QEMU has to be able to do.
const ALLOWED: [&str; 2] = ["base image", "own disk"];
/// What not even root may do to the kernel.
const KERNEL: [&str; 4] = [
    "/dev/mem",
    "another kernel",
    "another kernel from a file",
    "an unsigned module",
];
/// More than a guest may have (`machine-.scope.d`, and what it was sold).
const THREADS: usize = 1500;
const MEMORY: usize = 640 << 20;

type Names = BTreeSet<String>;

/// Two tenants' guests on a host.
struct Tenants {
    machine: Machine,
    qemus: [String; 2],
    agent: String,
    /// The test's own.
    disk: String,
}

impl Tenants {
    fn start(lab: &Lab, marketplace: &Marketplace) -> Result<Self> {
        lab.bring("surplus-attack")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, marketplace.joining_iso("host")?)
            .cpus(4)
            .memory_mib(2048)
            .shell()
            .start()?;
        let image = lab.guest_image("qcow2")?;
        let image = image.to_string_lossy();
        let enrolled = machine.wait_for_stage("enrolled", BOOT)?.elapsed;
        machine.wait_for_stage("offering", BOOT)?;
        tried_itself(marketplace)?;
        machine.shell()?.wait_ready(SOON)?;
        the_self_test_is_a_small_part_of_the_boot(&mut machine, enrolled)?;
        for name in ["tenant", "neighbour"] {
            let buyer = marketplace.buyer(name)?;
            buyer.run(&["image", "add", &image, "--name", "hello"])?;
            let order = Order {
                memory: "128MiB",
                ..Order::hello(name)
            };
            order.start(&buyer)?;
        }
        let pids = qemu(&mut machine)?.context("no QEMU runs")?;
        let pids: Vec<_> = pids.split_whitespace().map(str::to_owned).collect();
        let qemus = pids.try_into();
        let shell = machine.shell()?;
        let agent = shell.run("pidof surplus-agent", SOON)?.trim().to_owned();
        let kit = "grep /run/testkit /proc/mounts | cut -d' ' -f1";
        let disk = shell.run(kit, SOON)?.trim().to_owned();
        Ok(Self {
            qemus: qemus.map_err(|pids| anyhow::anyhow!("not two QEMUs: {pids:?}"))?,
            machine,
            agent,
            disk,
        })
    }

    /// Runs the program in the first QEMU's place; what it said, and whether it
    /// lived to say it.
    fn escape(&mut self, what: &str, without: &str, more: &str) -> Result<(String, bool)> {
        let without = match without {
            "" => String::new(),
            guards => format!("--without {guards}"),
        };
        let like = &self.qemus[0];
        // Through a pipe: the profile knows no terminal.
        let command = format!(
            "{{ surplus-attack escape {what} --like {like} {without} {more} 2>&1; echo \"[$?]\"; }} | cat"
        );
        let said = self.machine.shell()?.run(&command, SOON)?;
        let lived = said.trim_end().ends_with("[0]");
        Ok((said, lived))
    }

    /// The names of what came through.
    fn tries(&mut self, without: &str) -> Result<Names> {
        let Self {
            qemus: [_, neighbour],
            agent,
            disk,
            ..
        } = self;
        let more = format!("--neighbour {neighbour} --agent {agent} --disk {disk}");
        let (said, lived) = self.escape("try", without, &more)?;
        ensure!(lived, "it did not come to its end: {said}");
        println!("without {without:?}:\n{said}");
        let through = said
            .lines()
            .filter_map(|line| line.strip_prefix("came through: "));
        Ok(through.map(str::to_owned).collect())
    }
}

/// The host tried what this test tries, in short, and everybody can see it.
fn tried_itself(marketplace: &Marketplace) -> Result<()> {
    let hosts: Vec<Host> = marketplace.operator()?.ask(&["hosts"])?;
    let inventory = hosts.into_iter().find_map(|host| host.inventory);
    passed(&inventory.context("a host without inventory")?.self_test)
}

fn passed(checks: &[SelfCheck]) -> Result<()> {
    let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
    ensure!(
        names
            == [
                "honest-frames",
                "forged-frames",
                "neighbour",
                "host",
                "site-network",
                "qemu-confinement",
            ],
        "{checks:?}"
    );
    for check in checks {
        ensure!(check.failure.is_none() && check.attempts > 1, "{check:?}");
    }
    Ok(())
}

/// Tried once more: what it takes of the time from the kernel's start to enrolment.
fn the_self_test_is_a_small_part_of_the_boot(machine: &mut Machine, boot: f64) -> Result<()> {
    let uptime = |machine: &mut Machine| -> Result<f64> {
        let said = machine.shell()?.run("cut -d' ' -f1 /proc/uptime", SOON)?;
        Ok(said.parse()?)
    };
    let begun = uptime(machine)?;
    let said = machine.shell()?.run("surplus-agent self-test", SOON)?;
    let took = uptime(machine)? - begun;
    let checks: Vec<SelfCheck> = serde_json::from_str(&said).with_context(|| said.clone())?;
    passed(&checks)?;
    println!("the self-test took {took:.1} s, the boot {boot:.1} s");
    ensure!(
        took < boot / 2.0,
        "the self-test took {took:.1} s, the boot {boot:.1} s"
    );
    Ok(())
}

/// Of all that is read-only to the agent, what it has to write to is not: a core's
/// threads are switched there. (The test's machine has one thread a core.)
fn the_agent_sees_what_it_needs(tenants: &mut Tenants) -> Result<()> {
    let mounts = format!("cat /proc/{}/mountinfo", tenants.agent);
    let mounts = tenants.machine.shell()?.run(&mounts, SOON)?;
    let options = |place: &str| {
        let at = |line: &&str| line.split(' ').nth(4) == Some(place);
        let line = mounts.lines().rfind(at);
        line.and_then(|line| line.split([' ', ',']).nth(5))
            .map(str::to_owned)
    };
    for (place, option) in [
        ("/proc/sys", "ro"),
        ("/sys/devices/system/cpu/smt", "rw"),
        ("/run", "rw"),
    ] {
        let found = options(place);
        ensure!(
            found.as_deref() == Some(option),
            "{place} is {found:?}: {mounts}"
        );
    }
    Ok(())
}

/// Nobody but resolved, for this host alone, and networkd, which asks for addresses and
/// gives guests theirs.
fn nothing_listens(tenants: &mut Tenants) -> Result<()> {
    let said = tenants.machine.shell()?.run("netstat -lntu", SOON)?;
    let (mut resolved, mut others) = (false, Vec::new());
    for line in said.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [protocol @ ("tcp" | "udp"), _, _, address, ..] = words[..] else {
            continue;
        };
        match address.rsplit_once(':').context("no port")? {
            ("127.0.0.53" | "127.0.0.54", "53") => resolved = true,
            (_, "67" | "68" | "546") if protocol == "udp" => (),
            _ => others.push(format!("{protocol} {address}")),
        }
    }
    ensure!(others.is_empty(), "{others:?} listen");
    ensure!(resolved, "resolved does not run yet: {said}");
    Ok(())
}

fn names<const N: usize>(names: [&str; N]) -> Names {
    names.map(str::to_owned).into()
}

#[test]
fn who_breaks_out_of_a_guest_reaches_nothing() -> Result<()> {
    surplus_tests::test("confinement", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let mut tenants = Tenants::start(lab, &marketplace)?;
        the_agent_sees_what_it_needs(&mut tenants)?;
        nothing_listens(&mut tenants)?;
        let held = tenants.tries("")?;
        ensure!(held == names(ALLOWED), "came through: {held:?}");

        // The user alone keeps tenants apart, the profile alone does, and the
        // profile keeps from them what a user may do.
        let foreign = names([
            "another's disk",
            "another's seed",
            "another's console",
            "another's memory map",
            "tracing another's QEMU",
            "the agent's key",
            "the agent's memory",
            "write to the base image",
        ]);
        let through = tenants.tries("profile")?;
        ensure!(
            through.is_disjoint(&foreign),
            "without profile: {through:?}"
        );
        for name in [
            "running a program",
            "the command line",
            "the message bus",
            "the journal",
            "a port on the host",
            "datagrams to the site",
            "netlink",
            "a user name space",
        ] {
            ensure!(through.contains(name), "without profile: {through:?}");
        }
        let through = tenants.tries("user")?;
        ensure!(through.is_disjoint(&foreign), "without user: {through:?}");
        let through = tenants.tries("user,profile")?;
        ensure!(through.is_superset(&foreign), "without either: {through:?}");
        // A disk of the host's: two guards more, each by itself.
        let disk = names(["the host's disk"]);
        for guard in ["namespace", "group"] {
            let through = tenants.tries(&format!("{guard},user,profile"))?;
            ensure!(through.is_disjoint(&disk), "without {guard}: {through:?}");
        }
        let through = tenants.tries("namespace,group,user,profile")?;
        ensure!(through.is_superset(&disk), "without any: {through:?}");
        // Nor does root on the host change the kernel or reach into it.
        ensure!(through.is_disjoint(&names(KERNEL)), "root: {through:?}");
        let lockdown = "cat /sys/kernel/security/lockdown";
        let lockdown = tenants.machine.shell()?.run(lockdown, SOON)?;
        ensure!(lockdown.contains("[integrity]"), "{lockdown}");

        // What a guest gives back is cleared before anybody gets it.
        let clears = "dmesg | grep 'mem auto-init'";
        let clears = tenants.machine.shell()?.run(clears, SOON)?;
        ensure!(clears.contains("heap alloc:on"), "{clears}");

        // QEMU's own filters, which are enough by themselves for what it never needs.
        let rest = "group,namespace,user,profile";
        for what in ["spawn", "elevate", "obsolete"] {
            let tries = format!("forbidden {what}");
            let (said, lived) = tenants.escape(&tries, rest, "")?;
            ensure!(!lived || said.starts_with("stopped: "), "{what}: {said}");
            let (said, _) = tenants.escape(&tries, &format!("{rest},seccomp"), "")?;
            ensure!(said.starts_with("came through: "), "{what}: {said}");
        }

        // More than a guest may have: it is refused, or ends whoever takes it,
        // and nobody else.
        let (most, memory) = (THREADS.to_string(), MEMORY.to_string());
        let all = format!("{most} threads");
        let (said, _) = tenants.escape("threads", "", &most)?;
        ensure!(said.contains(" threads") && !said.contains(&all), "{said}");
        let (said, _) = tenants.escape("threads", "group", &most)?;
        ensure!(said.contains(&all), "{said}");
        let (said, lived) = tenants.escape("memory", "group", &memory)?;
        ensure!(lived, "{said}");
        let (said, lived) = tenants.escape("memory", "", &memory)?;
        ensure!(!lived, "it took what it wanted: {said}");
        let left = qemu(&mut tenants.machine)?.unwrap_or_default();
        let neighbour = &tenants.qemus[1];
        ensure!(
            left.split_whitespace().any(|pid| pid == neighbour),
            "{left}"
        );
        let agent = tenants.machine.shell()?.run("pidof surplus-agent", SOON)?;
        ensure!(agent.trim() == tenants.agent, "another agent: {agent}");
        Ok(())
    })
}

/// The same system, started without what locks its kernel down and what the image sets
/// of it; lockdown alone is enough for all.
#[test]
fn root_changes_a_kernel_that_is_not_locked_down() -> Result<()> {
    surplus_tests::test("lockdown", |lab| {
        lab.bring("surplus-attack")?;
        let mut kernel = kernel(lab, "systemd.mask=systemd-sysctl.service")?;
        let without = kernel.command_line.replace(" lockdown=integrity", "");
        ensure!(without != kernel.command_line, "{without}");
        kernel.command_line = without;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, lab.artefact("surplus.iso")?)
            .kernel(kernel)
            .without_virtualisation()
            .shell()
            .start()?;
        // It has no site file.
        machine.allow_errors();
        machine.shell()?.wait_ready(BOOT)?;
        for (before, how) in [
            ("true", "came through: "),
            ("echo integrity >/sys/kernel/security/lockdown", "stopped: "),
        ] {
            let tries = format!("{before}; surplus-attack kernel");
            let said = machine.shell()?.run(&tries, SOON)?;
            let outcomes = said.lines().filter_map(|line| line.strip_prefix(how));
            let outcomes = outcomes.filter_map(|line| line.split(": ").next());
            let all = outcomes.map(str::to_owned).collect::<Names>() == names(KERNEL);
            ensure!(all, "after {before}: {said}");
        }
        Ok(())
    })
}
