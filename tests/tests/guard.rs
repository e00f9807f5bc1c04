//! No guest runs past its end, whoever has died: the agent ends it, or else the
//! guard does. Each end is measured in the host, on its own boot-time clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Bill, Lease, PriceBook};
use surplus_protocol::lease::{EndReason, LeaseState};
use surplus_tests::rental::{Order, offered};
use surplus_tests::{Client, Machine, Marketplace, Medium, bill};

const BOOT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(120);

/// A lease's window: the guest's start under emulation, and some seconds more.
const WINDOW: &str = "50s";
/// How late the living agent may be, and the guard, in milliseconds.
const AGENT_LATE: u64 = 2000;
const GUARD_LATE: u64 = 5000;

const DEADLINES: &str = "/run/surplus/deadlines";

/// One lease in the host, from its start on.
struct Run<'a> {
    machine: &'a mut Machine,
    buyer: &'a Client<'a>,
    name: &'a str,
    lease: Lease,
    /// Of its QEMU.
    pid: String,
    /// When it must be gone, in milliseconds since the host's boot.
    deadline: u64,
}

impl<'a> Run<'a> {
    fn start(machine: &'a mut Machine, buyer: &'a Client<'a>, name: &'a str) -> Result<Self> {
        offered(buyer)?;
        let order = Order {
            image: "halt",
            memory: "64MiB",
            window: WINDOW,
            ..Order::hello(name)
        };
        let lease = order.start(buyer)?;
        let shell = machine.shell()?;
        // libvirt itself runs a QEMU now and then, to see what it can do.
        let pid = format!("cat /run/libvirt/qemu/lease-{}.1.pid", lease.id);
        let pid = shell.run(&pid, SOON)?;
        let deadline = shell.run(
            &format!(
                "sed 's/.*millis\":\\([0-9]*\\).*/\\1/' {DEADLINES}/{}.1",
                lease.id
            ),
            SOON,
        )?;
        let deadline = deadline
            .parse()
            .with_context(|| format!("deadline {deadline:?}"))?;
        Ok(Self {
            machine,
            buyer,
            name,
            lease,
            pid,
            deadline,
        })
    }

    fn host(&mut self, command: &str) -> Result<String> {
        self.machine.shell()?.run(command, SOON)
    }

    /// Waits until so much is left before the deadline, or less.
    fn shortly_before_its_end(&mut self, millis: u64) -> Result<()> {
        let seconds = self.deadline.saturating_sub(millis) / 1000;
        let wait = format!(
            "while read t _ </proc/uptime; [ ${{t%.*}} -lt {seconds} ]; do usleep 50000; done"
        );
        self.machine.shell()?.run(&wait, 2 * SOON).map(drop)
    }

    /// Waits for QEMU's end, which comes so long after the deadline at most, and
    /// not before it.
    fn gone_after(&mut self, most: u64) -> Result<()> {
        let wait = format!(
            "while grep -qs . /proc/{}/cmdline; do usleep 20000; done; cut -d' ' -f1 /proc/uptime",
            self.pid
        );
        let uptime: f64 = self.machine.shell()?.run(&wait, 2 * SOON)?.parse()?;
        let gone = millis(uptime);
        let late = i128::from(gone) - i128::from(self.deadline);
        println!("{}: gone {late} ms after the deadline", self.name);
        ensure!(
            late <= i128::from(most),
            "{}: QEMU was gone {late} ms after its deadline, {most} ms are allowed",
            self.name
        );
        // It was the deadline that ended it.
        ensure!(
            late >= 0,
            "{}: QEMU was gone {} ms before its deadline",
            self.name,
            -late
        );
        Ok(())
    }

    /// All are at work again: the receipt says why, the bill holds no more than
    /// the window, and nothing is left over.
    fn settles(mut self) -> Result<()> {
        let id = self.lease.id.to_string();
        let over = |lease: Lease| (lease.state == LeaseState::Settled).then_some(lease);
        let ended = self
            .buyer
            .wait_until(&["leases", &id], "settled lease", SETTLED, over)?;
        ensure!(ended.end_reason == Some(EndReason::Expired), "{ended:?}");
        let closed = |bill: Bill| bill.closed.then_some(bill);
        let bill = self
            .buyer
            .wait_until(&["bill", &id], "closed bill", SOON, closed)?;
        let book: PriceBook = self.buyer.ask(&["prices"])?;
        bill::check(&bill, &book, &ended.resources)?;
        let billed: u64 = bill.usage.iter().map(|record| record.running_millis).sum();
        let (started, ends) = (ended.started_at, ended.ends_at);
        let window = ends.duration_since(started.context("it never started")?);
        ensure!(
            i128::from(billed) <= window.as_millis() + i128::from(AGENT_LATE),
            "{billed} ms are billed of a window of {window:?}"
        );
        let left = format!(
            "ls -A /var/lib/surplus/guests; ls -A {DEADLINES}; \
             ls /sys/class/net | grep '^sg'; \
             ls /run/libvirt/qemu/lease-* 2>/dev/null; true"
        );
        let left = self.host(&left)?;
        ensure!(left.is_empty(), "{}: left over: {left}", self.name);
        Ok(())
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test's uptime is small and positive"
)]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

#[test]
fn no_guest_runs_past_its_end_whoever_has_died() -> Result<()> {
    surplus_tests::test("guard", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .memory_mib(2048)
            .watchdog()
            .shell()
            .start()?;
        let buyer = marketplace.buyer("buyer")?;
        // It does not end when it is asked to.
        let image = lab.halting_image()?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "halt"])?;
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        machine.allow_errors();
        the_hardware_watchdog_is_armed(&mut machine)?;

        the_agent_is_stopped_and_the_clock_jumps(Run::start(&mut machine, &buyer, "stopped")?)?;
        the_agent_is_dead_and_the_guard_was_killed(Run::start(&mut machine, &buyer, "dead")?)?;
        libvirt_is_stopped(Run::start(&mut machine, &buyer, "libvirt")?)?;
        the_agent_is_alive(Run::start(&mut machine, &buyer, "alive")?)
    })
}

/// What stands behind systemd, which stands behind the guard.
fn the_hardware_watchdog_is_armed(machine: &mut Machine) -> Result<()> {
    let armed = "cd /sys/class/watchdog/watchdog0 && until grep -q '^active' state; \
                 do usleep 100000; done; cat identity timeout";
    let armed = machine.shell()?.run(armed, SOON)?;
    ensure!(
        armed.contains("i6300ESB") && armed.ends_with("60"),
        "the watchdog: {armed}"
    );
    Ok(())
}

fn the_agent_is_alive(mut run: Run<'_>) -> Result<()> {
    // What the guard was told is what the marketplace sold.
    let uptime: f64 = run.host("cut -d' ' -f1 /proc/uptime")?.parse()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let told = i128::try_from(now)? + i128::from(run.deadline) - i128::from(millis(uptime));
    let sold = i128::from(run.lease.ends_at.as_millisecond());
    ensure!(
        (told - sold).abs() <= 2000,
        "the guard was told {} ms after the lease's end",
        told - sold
    );
    run.gone_after(AGENT_LATE)?;
    run.settles()
}

fn the_agent_is_stopped_and_the_clock_jumps(mut run: Run<'_>) -> Result<()> {
    // systemd's watchdog waits for a minute since the agent's last word, and it
    // speaks each half minute.
    run.shortly_before_its_end(20_000)?;
    let agent = run.host("pidof surplus-agent")?;
    run.host(&format!(
        "kill -STOP {agent}; date -s @$(($(date +%s) - 3600))"
    ))?;
    run.gone_after(GUARD_LATE)?;
    // The guard was there before systemd's watchdog.
    let state = run.host(&format!(
        "sed -n 's/^State:\\t\\(.\\).*/\\1/p' /proc/{agent}/status"
    ))?;
    ensure!(state == "T", "the agent's state is {state:?}");
    run.host(&format!(
        "date -s @$(($(date +%s) + 3600)); kill -CONT {agent}"
    ))?;
    run.settles()
}

fn the_agent_is_dead_and_the_guard_was_killed(mut run: Run<'_>) -> Result<()> {
    // Whatever systemd starts in its place ends at once.
    run.host("mount -o bind /run/testkit/bin/busybox /opt/surplus/surplus-agent")?;
    run.host("kill -9 $(pidof surplus-agent)")?;
    let guard = run.host("pidof surplus-guard")?;
    run.host(&format!("kill -9 {guard}"))?;
    let reborn = format!(
        "until p=$(pidof surplus-guard) && [ \"$p\" != \"{guard}\" ]; do usleep 20000; done"
    );
    run.host(&reborn)?;
    run.gone_after(GUARD_LATE)?;
    run.host("umount /opt/surplus/surplus-agent")?;
    run.settles()
}

fn libvirt_is_stopped(mut run: Run<'_>) -> Result<()> {
    let libvirt = run.host("pidof libvirtd")?;
    run.host(&format!("kill -STOP {libvirt}"))?;
    run.gone_after(GUARD_LATE)?;
    run.host(&format!("kill -CONT {libvirt}"))?;
    run.settles()
}
