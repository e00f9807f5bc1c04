//! What the agent costs on a running host, and how long it takes from a ticket
//! to a running QEMU, beside a bare `virsh create` of the same guest on the
//! same host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use surplus_tests::packages::Packages;
use surplus_tests::rental::Order;
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, StageLine};

use super::table::{Table, median};

const BOOT: Duration = Duration::from_secs(240);
const COMMAND: Duration = Duration::from_secs(120);
/// virsh, and what it needs beyond libvirt's own libraries.
const VIRSH: &[&str] = &[
    "libvirt-clients",
    "libvirt0",
    "libreadline8t64",
    "libtinfo6",
];
const VIRSH_FILES: &[&str] = &[
    "libvirt-lxc.so.0",
    "libvirt-qemu.so.0",
    "libreadline.so.8",
    "libtinfo.so.6",
];
/// Where the copy of a guest lies on the host.
const COPY: &str = "/run/bench";

pub(super) fn measure(
    lab: &Lab,
    marketplace: &Marketplace,
    iso: &Path,
    runs: u32,
    table: &mut Table,
) -> Result<()> {
    bring_virsh(lab)?;
    let machine = lab
        .machine("guests")
        .medium(Medium::Cd, iso)
        .memory_mib(2048)
        .shell();
    let mut machine = machine.start()?;
    machine.wait_for_stage("offering", BOOT)?;
    machine.shell()?.wait_ready(COMMAND)?;
    agent(&mut machine, table)?;

    let buyer = marketplace.buyer("bench-buyer")?;
    let image = lab.guest_image("qcow2")?;
    buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "bench"])?;
    // The first brings the image to the host, and leaves a copy of its guest.
    rent(&buyer, "warm")?;
    copy_guest(&mut machine)?;
    end(&buyer, "warm")?;

    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for run in 0..runs {
        // Side by side, so that what else the computer does hits both.
        let name = format!("run-{run}");
        ours.push(by_ticket(&mut machine, &buyer, &name)?);
        end(&buyer, &name)?;
        bare.push(by_virsh(&mut machine)?);
    }
    let (ours, bare) = (median(&ours), median(&bare));
    table.row(
        format!("ticket → QEMU started, image cached, median of {runs}"),
        format!("{ours:.2} s"),
        "",
    );
    table.row(
        format!("bare `virsh create` → QEMU started, median of {runs}"),
        format!("{bare:.2} s"),
        "",
    );
    table.row("ratio", format!("{:.2}", ours / bare), "1.2");
    machine.kill();
    Ok(())
}

fn agent(machine: &mut Machine, table: &mut Table) -> Result<()> {
    let shell = machine.shell()?;
    let pss = "awk '/^Pss:/{print $2}' /proc/$(pidof surplus-agent)/smaps_rollup";
    let pss: f64 = shell
        .run(pss, COMMAND)?
        .parse()
        .context("the agent's PSS")?;
    table.row(
        "agent: memory (PSS), idle",
        format!("{:.1} MiB", pss / 1024.0),
        "15 MiB",
    );
    let binary = "stat -L -c %s /proc/$(pidof surplus-agent)/exe";
    let binary: u64 = shell
        .run(binary, COMMAND)?
        .parse()
        .context("the agent's size")?;
    table.row("agent: binary", super::table::megabytes(binary), "10 MB");
    let used =
        "awk '/^MemTotal:/{t=$2}/^MemAvailable:/{a=$2}END{print int((t-a)/1024)}' /proc/meminfo";
    let used = shell.run(used, COMMAND)?;
    table.row(
        "memory used by the idle host",
        format!("{used} MiB"),
        "128 MiB",
    );
    Ok(())
}

/// Puts virsh into the test kit: the appliance has none.
fn bring_virsh(lab: &Lab) -> Result<()> {
    let packages = Packages::prepare(lab.scratch().join("packages"), lab.tools())?;
    let unpacked = lab.scratch().join("virsh");
    packages.unpack(VIRSH, &unpacked)?;
    packages.clean()?;
    let kit = lab.scratch().join("kit");
    fs::create_dir_all(kit.join("bin"))?;
    fs::create_dir_all(kit.join("lib"))?;
    fs::copy(unpacked.join("usr/bin/virsh"), kit.join("bin/virsh"))?;
    for file in VIRSH_FILES {
        let from = unpacked.join("usr/lib/x86_64-linux-gnu").join(file);
        fs::copy(&from, kit.join("lib").join(file))
            .with_context(|| format!("could not copy {}", from.display()))?;
    }
    Ok(())
}

fn virsh(arguments: &str) -> String {
    format!("LD_LIBRARY_PATH=/run/testkit/lib virsh -q -c qemu:///system {arguments}")
}

fn rent(buyer: &Client, name: &str) -> Result<()> {
    let order = Order {
        image: "bench",
        ..Order::hello(name)
    };
    order.start(buyer).map(drop)
}

fn end(buyer: &Client, name: &str) -> Result<()> {
    buyer
        .run(&["end", name, "--wait", "--timeout", "3m"])
        .map(drop)
}

/// Keeps the running guest's files and its domain, under another name.
fn copy_guest(machine: &mut Machine) -> Result<()> {
    let shell = machine.shell()?;
    let domain = shell.run(&virsh("list --name"), COMMAND)?;
    shell.run(&format!("mkdir -p {COPY}"), COMMAND)?;
    shell.run(
        &format!(
            "{} >{COPY}/domain.xml",
            virsh(&format!("dumpxml --inactive {domain}"))
        ),
        COMMAND,
    )?;
    let disk =
        format!("sed -n \"s/.*<source file='\\([^']*\\)'.*/\\1/p\" {COPY}/domain.xml | head -n 1");
    let directory = shell.run(&format!("dirname $({disk})"), COMMAND)?;
    shell.run(&format!("cp -a {directory} {COPY}/guest"), COMMAND)?;
    let edit = format!(
        "sed -i -e 's#{directory}#{COPY}/guest#g' -e 's#<name>.*</name>#<name>bare</name>#' \
         -e '/<uuid>/d' {COPY}/domain.xml"
    );
    shell.run(&edit, COMMAND)?;
    Ok(())
}

/// Seconds since the kernel's start at which the guest's QEMU was started.
fn qemu_started(machine: &mut Machine) -> Result<f64> {
    // libvirt's own note of the guest's process: it also starts QEMUs only to
    // ask them what they can do. Field 22 of proc(5)'s stat, counted behind the
    // name, in ticks of which there are 100 a second.
    let start = "for note in /run/libvirt/qemu/*.pid; do case $note in */driver.pid) ;; \
                 *) sed 's/.*) //' /proc/$(cat $note)/stat | cut -d' ' -f20 ;; esac; done";
    let said = machine.shell()?.run(start, COMMAND)?;
    let ticks: f64 = said
        .parse()
        .with_context(|| format!("when QEMU started is not told by {said:?}"))?;
    Ok(ticks / 100.0)
}

/// From the agent's first word about the lease to QEMU's start.
fn by_ticket(machine: &mut Machine, buyer: &Client, name: &str) -> Result<f64> {
    machine.mark();
    rent(buyer, name)?;
    let first = machine.wait_until("the lease's first line", COMMAND, |line| {
        StageLine::parse(line).filter(|stage| stage.name == "lease")
    })?;
    Ok(qemu_started(machine)? - first.elapsed)
}

fn by_virsh(machine: &mut Machine) -> Result<f64> {
    let create = virsh(&format!("create {COPY}/domain.xml"));
    let command = format!("cut -d' ' -f1 /proc/uptime; {create}");
    let said = machine.shell()?.run(&command, COMMAND)?;
    let before = said.lines().next().unwrap_or_default().trim();
    let before: f64 = before
        .parse()
        .with_context(|| format!("virsh create said {said:?}"))?;
    let started = qemu_started(machine)?;
    let gone = "while pidof qemu-system-x86_64 >/dev/null; do sleep 0.1; done";
    machine
        .shell()?
        .run(&format!("{}; {gone}", virsh("destroy bare")), COMMAND)?;
    Ok(started - before)
}
