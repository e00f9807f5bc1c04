//! The power is cut: what was acknowledged is there afterwards.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Bill, Host, Lease};
use surplus_protocol::lease::{EndReason, LeaseState};
use surplus_tests::chance::rounds;
use surplus_tests::machine::Kernel;
use surplus_tests::rental::{Order, bill_is_right, guest_is_gone, qemu};
use surplus_tests::write_log::{Replayed, lose_what_was_not_flushed};
use surplus_tests::{Chance, Client, Lab, Machine, Marketplace, Medium, Nic, guest};

const BOOT: Duration = Duration::from_secs(300);
const GUEST: Duration = Duration::from_secs(240);
/// A host records what it measured every five minutes.
const MEASURED: Duration = Duration::from_secs(6 * 60);
/// A marketplace that has just begun places nothing anew for as long as a lease's
/// fence and a margin: another placement might still run.
const PLACED_ANEW: Duration = Duration::from_secs(8 * 60);
const SOON: Duration = Duration::from_secs(60);
/// A boot that is over sends no receipt; the bill waits ten minutes for one.
const BILL_CLOSED: Duration = Duration::from_secs(13 * 60);

/// Cuts in a round.
const CUTS: u64 = 6;
const DISK_BYTES: u64 = 64 << 20;
/// Holes where nothing is: what a boot may write.
const LOG_BYTES: u64 = 4 << 30;

/// A disk with a ledger on it, in a machine whose power is cut.
struct LedgerDisk<'a> {
    lab: &'a Lab,
    kernel: Kernel,
    chance: Chance,
    /// The last entry that was said to be durable.
    acknowledged: u64,
    replayed: Replayed,
}

impl<'a> LedgerDisk<'a> {
    fn make(lab: &'a Lab) -> Result<Self> {
        let disk = lab.scratch().join("disk");
        File::create(&disk)?.set_len(DISK_BYTES)?;
        surplus_tests::lab::run(
            lab.tools()
                .command("mkfs.ext4")
                .args(["-q", "-E", "lazy_itable_init=0"])
                .arg(&disk),
        )?;
        Ok(Self {
            lab,
            kernel: guest::writer(lab)?,
            chance: Chance::of("ledger"),
            acknowledged: 0,
            replayed: Replayed::default(),
        })
    }

    fn start(&self) -> Result<Machine> {
        let log = self.lab.scratch().join("log");
        File::create(&log)?.set_len(LOG_BYTES)?;
        self.lab
            .machine("writer")
            .kernel(self.kernel.clone())
            .memory_mib(128)
            .cpus(1)
            .one_of_many()
            .nic(Nic::None)
            .logged_disk(self.lab.scratch().join("disk"), log)
            .start()
    }

    /// Every entry that was acknowledged before is there.
    fn opened(&mut self, machine: &mut Machine) -> Result<u64> {
        let holds = machine.wait_until("ledger", BOOT, |line| {
            let said = line.strip_prefix("ledger: ")?;
            (said != "mounting").then(|| said.to_owned())
        })?;
        let held = holds.strip_prefix("holds=").and_then(|it| it.parse().ok());
        let held: u64 = held.with_context(|| format!("the ledger says {holds:?}"))?;
        let acknowledged = self.acknowledged;
        ensure!(
            held >= acknowledged,
            "entry {acknowledged} was acknowledged, and the ledger ends with {held}"
        );
        // One more may have been written, and not been said any more.
        ensure!(held <= acknowledged + 1, "{held} after {acknowledged}");
        self.acknowledged = held;
        Ok(held)
    }

    /// Boots, cuts the power at a moment, and lets the disk lose what it may.
    fn cut(&mut self) -> Result<()> {
        let (disk, before) = (
            self.lab.scratch().join("disk"),
            self.lab.scratch().join("before"),
        );
        fs::copy(&disk, &before)?;
        let mut machine = self.start()?;
        machine.wait_for("ledger: mounting", BOOT)?;
        // Now and then while the file system or the ledger is taken up again.
        if self.chance.number(0..=3) > 0 {
            let held = self.opened(&mut machine)?;
            let goal = held + self.chance.number(1..=150);
            machine.wait_until("entry", BOOT, |line| {
                let number: u64 = line.strip_prefix("ledger: ")?.parse().ok()?;
                (number >= goal).then_some(())
            })?;
        }
        self.chance.wait(Duration::from_millis(100));
        let serial = machine.directory().join("serial.log");
        // SIGKILL to QEMU.
        drop(machine);
        let said = fs::read_to_string(serial)?;
        let whole = said.split_inclusive('\n').filter(|it| it.ends_with('\n'));
        let numbers =
            whole.filter_map(|it| it.trim().strip_prefix("ledger: ")?.parse::<u64>().ok());
        self.acknowledged = numbers.max().unwrap_or_default().max(self.acknowledged);
        if self.chance.number(0..=3) > 0 {
            let log = self.lab.scratch().join("log");
            if let Some(replayed) = lose_what_was_not_flushed(&before, &disk, &log)? {
                self.replayed.writes += replayed.writes;
                self.replayed.flushes += replayed.flushes;
            }
        }
        Ok(())
    }
}

/// A host whose power is cut, and the same one afterwards.
struct Outage<'a> {
    lab: &'a Lab,
    iso: PathBuf,
    marketplace: Marketplace<'a>,
    buyer: Client<'a>,
    chance: Chance,
}

impl Outage<'_> {
    /// From power-on to an offer.
    fn boot(&self) -> Result<Machine> {
        let mut machine = self
            .lab
            .machine("host")
            .medium(Medium::Cd, &self.iso)
            .uuid("6a1b3c5d-0000-4000-8000-0000000000c7")
            .cpus(4)
            .memory_mib(2048)
            .shell()
            .start()?;
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        Ok(machine)
    }

    fn host(&self) -> Result<Host> {
        let hosts: Vec<Host> = self.marketplace.operator()?.ask(&["hosts"])?;
        ensure!(hosts.len() == 1, "not one host: {hosts:?}");
        hosts.into_iter().next().context("just counted")
    }

    fn rent(&self, name: &str, clause: &str) -> Result<()> {
        let order = Order {
            memory: "128MiB",
            more: &["--on-lost-link", clause],
            ..Order::hello(name)
        };
        order.place(&self.buyer)?;
        Ok(())
    }

    /// Waits for something on the host, and a little longer.
    fn moment(&mut self, machine: &mut Machine, sign: &str) -> Result<()> {
        let wait = format!("until {sign} >/dev/null 2>&1; do usleep 20000; done");
        machine.shell()?.run(&wait, GUEST)?;
        let waited = self.chance.wait(Duration::from_secs(2));
        println!("the power is cut {} ms after: {sign}", waited.as_millis());
        Ok(())
    }

    fn runs(&self, name: &str, epoch: u64) -> Result<Lease> {
        let runs = |lease: Lease| {
            (lease.state == LeaseState::Active && lease.epoch >= epoch).then_some(lease)
        };
        let what = format!("guest of epoch {epoch}");
        self.buyer
            .wait_until(&["leases", name], &what, PLACED_ANEW, runs)
    }

    /// Milliseconds that the marketplace heard of. What it did not hear of before
    /// a cut is not billed.
    fn measured(&self, name: &str) -> Result<u64> {
        let measured = |bill: Bill| {
            let millis = bill.usage.iter().map(|record| record.running_millis).sum();
            (millis > 0).then_some(millis)
        };
        self.buyer
            .wait_until(&["bill", name], "measured time", MEASURED, measured)
    }

    fn ended(&self, name: &str) -> Result<Lease> {
        let over = |lease: Lease| lease.ended_at.is_some().then_some(lease);
        self.buyer
            .wait_until(&["leases", name], "ended lease", BOOT, over)
    }

    fn settled(&self, name: &str) -> Result<Lease> {
        let over = |lease: Lease| (lease.state == LeaseState::Settled).then_some(lease);
        self.buyer
            .wait_until(&["leases", name], "settled lease", BILL_CLOSED, over)
    }
}

#[test]
fn a_host_whose_power_is_cut_comes_back_as_itself_and_nothing_runs_or_is_billed_twice() -> Result<()>
{
    surplus_tests::test("powercut-host", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let mut outage = Outage {
            iso: marketplace.joining_iso("host")?,
            buyer: marketplace.buyer("buyer")?,
            chance: Chance::of("host"),
            marketplace,
            lab,
        };
        let image = lab.guest_image("qcow2")?;
        let buyer = &outage.buyer;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        for round in 0..rounds() {
            power_is_cut(&mut outage, round).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
}

/// Cut while a guest runs and another comes in or starts; then while one ends.
fn power_is_cut(outage: &mut Outage<'_>, round: u64) -> Result<()> {
    let (kept, fenced) = (format!("kept-{round}"), format!("fenced-{round}"));
    let mut machine = outage.boot()?;
    let before = outage.host()?;
    outage.rent(&kept, "keep")?;
    outage.runs(&kept, 1)?;
    outage.rent(&fenced, "fence:3m")?;
    let signs = [
        "test $(ls /var/lib/surplus/guests | wc -l) = 2",
        "test $(ls /var/lib/surplus/guests/*/disk.qcow2 | wc -l) = 2",
        "test $(pidof qemu-system-x86_64 | wc -w) = 2",
    ];
    let sign = *outage.chance.one_of(&signs);
    outage.moment(&mut machine, sign)?;
    drop(machine);

    let mut machine = outage.boot()?;
    let after = outage.host()?;
    ensure!(after.id == before.id, "{after:?} came back for {before:?}");
    let ended = outage.ended(&kept)?;
    let rebooted = Some(EndReason::HostRebooted);
    ensure!(ended.end_reason == rebooted, "{ended:?}");
    let again = outage.runs(&fenced, 2)?;
    ensure!(again.epoch == 2, "{again:?}");
    let guests = qemu(&mut machine)?.context("the fenced lease's guest does not run")?;
    ensure!(guests.split_whitespace().count() == 1, "QEMUs: {guests}");

    let measured = outage.measured(&fenced)?;

    // The end has begun, and may have been written and said, or not.
    let buyer = &outage.buyer;
    buyer.run(&["end", &fenced])?;
    let sign = *outage
        .chance
        .one_of(&["true", "! pidof qemu-system-x86_64"]);
    outage.moment(&mut machine, sign)?;
    drop(machine);

    let mut machine = outage.boot()?;
    // Where the cut came before the order, the reboot is what ended it.
    let ended = outage.ended(&fenced)?;
    let ordered = ended.end_reason == Some(EndReason::Ended);
    ensure!(ordered || ended.end_reason == rebooted, "{ended:?}");
    ensure!(ended.epoch == 2, "placed anew after its end: {ended:?}");
    let ended = outage.settled(&fenced)?;
    let billed = bill_is_right(&outage.buyer, &ended)?;
    ensure!(billed >= measured, "{billed} ms billed of {measured} ms");
    // Not sooner: a libvirt that has just begun asks QEMU what it can do.
    guest_is_gone(&mut machine)?;
    let host = outage.host()?;
    ensure!(host.id == before.id && host.leases == 0, "{host:?}");
    let ended = outage.settled(&kept)?;
    ensure!(ended.end_reason == rebooted, "{ended:?}");
    Ok(())
}

#[test]
fn a_ledger_on_a_disk_holds_all_it_acknowledged_after_every_power_cut() -> Result<()> {
    surplus_tests::test("powercut-ledger", |lab| {
        let begun = Instant::now();
        let mut disk = LedgerDisk::make(lab)?;
        let cuts = CUTS * rounds();
        for cut in 1..=cuts {
            disk.cut().with_context(|| format!("cut {cut}"))?;
        }
        let mut machine = disk.start()?;
        let held = disk.opened(&mut machine)?;
        let Replayed { writes, flushes } = disk.replayed;
        println!(
            "{cuts} cuts, {held} entries, all there; {writes} writes and {flushes} flushes \
             replayed; {:.0} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    })
}
