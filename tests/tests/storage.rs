//! Disks that the owner gives: which are used and why, and what a guest that is
//! gone leaves on them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{Whence, lseek};
use sha2::{Digest as _, Sha256};
use surplus_protocol::api::{Host, Lease};
use surplus_protocol::lease::DiskEnd;
use surplus_tests::machine::{Builder, Disk, DiskBus};
use surplus_tests::netboot::kernel;
use surplus_tests::rental::{Order, offered};
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium};

const BOOT: Duration = Duration::from_secs(180);
const GUEST: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
/// What is written beside the guests' directories, by the shell.
const OPENLY: &str = "nobody-hides-this-word";
const BLOCK: usize = 4096;
/// What the guest reads of its disk, by pieces of 4 MiB: at first in a burst, at its
/// end at a million bytes a second, as the site file has it.
const PIECES: usize = 10;
const PIECE_SECONDS: f64 = 4.194_304;
/// Pages of 2 MiB that the host has for its guests, and what one of 192 MiB takes.
const HUGE_PAGES: u32 = 176;
const GUESTS_PAGES: u32 = 96;
const QEMU_BYTES: u32 = 128 << 20;
/// What the guest writes to its disk, a MiB of it.
const WORD: &str = "a-tenant-wrote-this-word-to-its-disk";

/// A partition of 2 GiB from 1 MiB on, as a PC's partition table has it.
const PARTITION: [u8; 16] = *b"\0\x20\x21\0\x83\xfe\xff\xff\0\x08\0\0\0\0\x40\0";

/// The host's disks, sparse files here.
struct Shelf<'a> {
    lab: &'a Lab,
    disks: Vec<Disk>,
}

impl<'a> Shelf<'a> {
    /// What a server may have: disks never used, and disks of somebody.
    fn fill(lab: &'a Lab) -> Result<Self> {
        let mut shelf = Self {
            lab,
            disks: Vec::new(),
        };
        shelf.add("BLANK-1", DiskBus::Virtio, 6 * GIB)?;
        shelf.add("BLANK-2", DiskBus::Sata, 5 * GIB)?;
        shelf.add("SMALL", DiskBus::Virtio, GIB)?;
        let odd = shelf.add("ODD", DiskBus::Virtio, 5 * GIB)?;
        File::options()
            .write(true)
            .open(odd)?
            .write_all_at(b"?", 12_345)?;
        let table = shelf.add("TABLE", DiskBus::Virtio, 5 * GIB)?;
        let table = File::options().write(true).open(table)?;
        table.write_all_at(&PARTITION, 446)?;
        table.write_all_at(b"\x55\xaa", 510)?;
        table.write_all_at(b"somebody's data", GIB)?;
        let ext4 = shelf.add("EXT4", DiskBus::Sata, 5 * GIB)?;
        let mut mkfs = lab.tools().command("mkfs.ext4");
        surplus_tests::lab::run(mkfs.arg("-q").arg(ext4))?;
        Ok(shelf)
    }

    fn add(&mut self, serial: &str, bus: DiskBus, bytes: u64) -> Result<PathBuf> {
        let path = self.lab.scratch().join(format!("{serial}.raw"));
        File::create(&path)?.set_len(bytes)?;
        self.disks.push(Disk {
            path: path.clone(),
            bus,
            serial: serial.to_owned(),
            keep: true,
        });
        Ok(path)
    }

    fn path(&self, serial: &str) -> Result<&Path> {
        let disk = self.disks.iter().find(|disk| disk.serial == serial);
        Ok(&disk.context("no such disk")?.path)
    }

    /// What is on each disk, as a hash.
    fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let hashes = self.disks.iter().map(|disk| {
            let mut hash = Sha256::new();
            // Zeros count for nothing: whether they are a hole is the file's matter.
            each_piece(&disk.path, |at, piece| {
                for (at, block) in (at..).step_by(BLOCK).zip(piece.chunks(BLOCK)) {
                    if *block != [0; BLOCK][..block.len()] {
                        hash.update(at.to_le_bytes());
                        hash.update(block);
                    }
                }
            })?;
            Ok((disk.serial.clone(), hex::encode(hash.finalize())))
        });
        hashes.collect()
    }

    /// Whether the words are on the disk, wherever.
    fn holds(&self, serial: &str, words: &str) -> Result<bool> {
        let mut grep = Command::new("grep");
        grep.args(["--quiet", "--text", "--fixed-strings", words]);
        match grep.arg(self.path(serial)?).status()?.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!("grep could not look at {serial}"),
        }
    }

    fn boot(&self, iso: &Path) -> Result<Machine> {
        self.enrolled(self.machine(iso))
    }

    /// With more words on the kernel's command line.
    fn boot_with(&self, words: &str, iso: &Path) -> Result<Machine> {
        self.enrolled(self.machine(iso).kernel(kernel(self.lab, words)?))
    }

    fn machine(&self, iso: &Path) -> Builder<'a> {
        let mut machine = self
            .lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .uuid("6a1b3c5d-0000-4000-8000-0000000000d1")
            .memory_mib(1536)
            .shell();
        for disk in &self.disks {
            machine = machine.disk(disk.clone());
        }
        machine
    }

    fn enrolled(&self, machine: Builder<'a>) -> Result<Machine> {
        let mut machine = machine.start()?;
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        Ok(machine)
    }
}

/// Reads what was ever written to a sparse file.
fn each_piece(path: &Path, mut with: impl FnMut(u64, &[u8])) -> Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let Ok(data) = lseek(&file, at, Whence::SeekData) else {
            return Ok(());
        };
        let end = lseek(&file, data, Whence::SeekHole)?;
        at = data;
        while at < end {
            let want = usize::try_from((end - at).min(1 << 20))?;
            let read = file.read_at(&mut buffer[..want], u64::try_from(at)?)?;
            with(u64::try_from(at)?, &buffer[..read]);
            at += i64::try_from(read)?;
        }
    }
}

/// The reason for each disk, by its serial number, once the host has said it.
fn reasons(operator: &Client<'_>) -> Result<BTreeMap<String, (bool, String)>> {
    let told = |hosts: Vec<Host>| {
        let inventory = hosts.into_iter().next()?.inventory?;
        let disks = inventory.disks.into_iter();
        Some(
            disks
                .filter_map(|disk| Some((disk.serial?, (disk.used, disk.reason))))
                .collect(),
        )
    };
    operator.wait_until(&["hosts"], "a host with an inventory", SOON, told)
}

fn expect(reasons: &BTreeMap<String, (bool, String)>, expected: &[(&str, &str)]) -> Result<()> {
    for (serial, reason) in expected {
        let (used, found) = reasons.get(*serial).with_context(|| {
            format!("the inventory does not have the disk {serial}: {reasons:?}")
        })?;
        ensure!(found == reason, "{serial}: {found:?}, not {reason:?}");
        ensure!(
            *used == reason.starts_with("used: "),
            "{serial}: used={used}"
        );
    }
    Ok(())
}

#[test]
fn blank_disks_alone_are_used_and_a_guest_leaves_nothing_on_them_that_can_be_read() -> Result<()> {
    surplus_tests::test("storage", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let operator = marketplace.operator()?;
        let buyer = marketplace.buyer("buyer")?;
        let image = lab.guest_image("qcow2")?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        let shelf = Shelf::fill(lab)?;
        let before = shelf.hashes()?;
        let plain = marketplace.site_file(&marketplace.token("host", 1)?)?;
        let with = |policy: &str| {
            let site = plain.replace("policy = \"none\"", policy);
            ensure!(
                site != plain,
                "the site file has no storage policy: {plain}"
            );
            Ok(site)
        };

        let site = with("policy = \"blank\"")? + "\n[guests]\ndisk_mbytes = 1\n";
        let iso = marketplace.customised_iso("blank", &site)?;
        let words = format!("hugepages={HUGE_PAGES}");
        let mut machine = shelf.boot_with(&words, &iso)?;
        expect(
            &reasons(&operator)?,
            &[
                ("BLANK-1", "used: it was blank"),
                ("BLANK-2", "used: it was blank"),
                ("SMALL", "left alone: it is smaller than 4 GiB"),
                (
                    "ODD",
                    "left alone: it carries no known mark but is not blank (its byte 0x3039 is \
                     not zero); erase it, or give it by `storage.serials`",
                ),
                (
                    "TABLE",
                    "left alone: it carries a partition table (MBR), by its mark at 0x1fe",
                ),
                (
                    "EXT4",
                    "left alone: it carries a file system (ext4), by its mark at 0x438",
                ),
            ],
        )?;
        a_guest_comes_and_goes(&shelf, &mut machine, &buyer)?;
        drop(machine);
        untouched(&shelf, &before, &["SMALL", "ODD", "TABLE", "EXT4"])?;

        // The power was cut. Now only some are given, one of them unknown.
        let site = with("policy = \"serials\"\nserials = [\"BLANK-2\", \"ODD\", \"TABLE\"]")?;
        let iso = marketplace.customised_iso("serials", &site)?;
        let last = shelf.hashes()?;
        let machine = shelf.boot(&iso)?;
        let seen = reasons_of_second_boot(&operator)?;
        expect(
            &seen,
            &[
                (
                    "BLANK-1",
                    "left alone: its serial number is not under `storage.serials`",
                ),
                ("BLANK-2", "used: it was used for guests before"),
                (
                    "ODD",
                    "used: it is under `storage.serials` and carries no mark of anybody's data",
                ),
                (
                    "TABLE",
                    "left alone: it carries a partition table (MBR), by its mark at 0x1fe",
                ),
            ],
        )?;
        offered(&buyer)?;
        drop(machine);
        untouched(&shelf, &last, &["BLANK-1"])?;
        untouched(&shelf, &before, &["SMALL", "TABLE", "EXT4"])
    })
}

/// The host's inventory is the first boot's until its second has told its own.
fn reasons_of_second_boot(operator: &Client<'_>) -> Result<BTreeMap<String, (bool, String)>> {
    let told = |hosts: Vec<Host>| {
        let inventory = hosts.into_iter().next()?.inventory?;
        let disks: BTreeMap<_, _> = inventory
            .disks
            .into_iter()
            .filter_map(|disk| Some((disk.serial?, (disk.used, disk.reason))))
            .collect();
        disks.get("ODD")?.0.then_some(disks)
    };
    operator.wait_until(&["hosts"], "the second boot's inventory", SOON, told)
}

fn untouched(shelf: &Shelf<'_>, before: &BTreeMap<String, String>, disks: &[&str]) -> Result<()> {
    let now = shelf.hashes()?;
    for disk in disks {
        ensure!(now.get(*disk) == before.get(*disk), "{disk} was written to");
    }
    Ok(())
}

fn a_guest_comes_and_goes(
    shelf: &Shelf<'_>,
    machine: &mut Machine,
    buyer: &Client<'_>,
) -> Result<()> {
    let user_data = shelf.lab.scratch().join("user-data");
    let wanted = format!("# surplus-test: write={WORD} \n# surplus-test: read={PIECES}\n");
    File::create(&user_data)?.write_all(wanted.as_bytes())?;
    offered(buyer)?;
    let order = Order {
        disk: "3GB",
        more: &["--user-data", &user_data.to_string_lossy()],
        ..Order::hello("writer")
    };
    order.start(buyer)?;
    its_memory_is_huge_pages(machine)?;
    let wrote = format!("guest: wrote {WORD}");
    buyer.wait_for_console("writer", "the word written", GUEST, |text| {
        text.contains(&wrote)
    })?;
    // Its disk lies on the host's disks, with the word in it as the host sees it.
    let on_volume = format!("grep -c {WORD} /var/lib/surplus/volume/guests/*/disk.qcow2");
    let lines = machine.shell()?.run(&on_volume, SOON)?;
    ensure!(
        lines.trim() != "0",
        "the guest's disk does not hold its word"
    );
    // What is not under a key can be read from outside, so that the look is none in
    // vain.
    let openly = format!("echo {OPENLY} > /var/lib/surplus/volume/openly; sync");
    machine.shell()?.run(&openly, SOON)?;
    let seen = shelf.holds("BLANK-1", OPENLY)? || shelf.holds("BLANK-2", OPENLY)?;
    ensure!(
        seen,
        "what was written without a key cannot be read, either"
    );
    nothing_can_be_read(shelf)?;
    it_reads_at_its_rate(buyer)?;

    let ended: Lease = buyer.ask(&["end", "writer", "--wait", "--timeout", "2m"])?;
    let (Some(DiskEnd::KeyDestroyed { at }), Some(ended_at)) = (ended.disk, ended.ended_at) else {
        bail!("the receipt does not say that the disk's key was destroyed: {ended:?}");
    };
    ensure!(at <= ended_at, "{at} comes after the end, {ended_at}");
    let left = machine
        .shell()?
        .run("ls -A /var/lib/surplus/volume/guests", SOON)?;
    ensure!(left.is_empty(), "left over: {left}");
    machine.shell()?.run("sync", SOON)?;
    nothing_can_be_read(shelf)
}

/// All of what the guest was sold, and no more; its control group is left with what QEMU
/// costs.
fn its_memory_is_huge_pages(machine: &mut Machine) -> Result<()> {
    let count = "sed -n 's/^HugePages_\\(Total\\|Free\\): *//p' /proc/meminfo | tr '\\n' ' '";
    let found = machine.shell()?.run(count, SOON)?;
    let expected = format!("{HUGE_PAGES} {}", HUGE_PAGES - GUESTS_PAGES);
    ensure!(
        found.trim() == expected,
        "huge pages: {found}, not {expected}"
    );
    let limit = "cat /sys/fs/cgroup/machine.slice/machine-*/libvirt/memory.max";
    let limit = machine.shell()?.run(limit, SOON)?;
    ensure!(
        limit.trim() == QEMU_BYTES.to_string(),
        "QEMU may take {limit} bytes"
    );
    Ok(())
}

/// A guest that was quiet may be four times as fast for a while, which shows that its
/// disk could be, too.
fn it_reads_at_its_rate(buyer: &Client<'_>) -> Result<()> {
    let last = format!("guest: read piece={} ", PIECES - 1);
    let text = buyer.wait_for_console("writer", "all pieces read", GUEST, |text| {
        text.contains(&last)
    })?;
    let moments = text.lines().filter_map(|line| {
        let (_, uptime) = line
            .split_once("guest: read piece=")?
            .1
            .split_once("uptime=")?;
        uptime.trim().parse::<f64>().ok()
    });
    let moments: Vec<_> = moments.collect();
    let taken: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("seconds for 4 MiB each: {taken:.2?}");
    let (Some(last), fastest) = (taken.last(), taken.iter().copied().fold(f64::MAX, f64::min))
    else {
        bail!("nothing was read: {text}");
    };
    ensure!(
        fastest < PIECE_SECONDS * 0.75,
        "this disk is never faster than the rate, so that it shows nothing: {taken:?}"
    );
    ensure!(
        *last > PIECE_SECONDS * 0.9,
        "the guest reads faster than at its rate: {taken:?}"
    );
    Ok(())
}

/// From outside the host: the stamp can be read, the tenant's word cannot.
fn nothing_can_be_read(shelf: &Shelf<'_>) -> Result<()> {
    for disk in ["BLANK-1", "BLANK-2"] {
        let stamp = shelf.holds(disk, "surplus guests' disk")?;
        ensure!(
            stamp,
            "{disk} does not carry the stamp, so that it was looked at in vain"
        );
        ensure!(
            !shelf.holds(disk, WORD)?,
            "{disk} holds what the tenant wrote"
        );
    }
    Ok(())
}
