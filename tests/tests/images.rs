//! Guest images of other makers' formats, on a booted host: each boots to its
//! first words, what converts them is closed in, and hostile ones are refused
//! with a reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use surplus_protocol::api::{Image, Lease};
use surplus_protocol::lease::{EndReason, LeaseState};
use surplus_tests::lab::run;
use surplus_tests::rental::{Order, guest_is_gone, offered};
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, is_full};

const BOOT: Duration = Duration::from_secs(120);
const GUEST: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);

/// What converts the first image is stopped once it is seen, and looked at.
const LOOK: &str = "\
    (until p=$(pidof qemu-img); do usleep 2000; done; kill -STOP $p; cd /proc/$p; \
    grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp|SigCgt):' status; \
    [ $(readlink ns/net) != $(readlink /proc/1/ns/net) ] && echo own-network; \
    echo files: $(ls root/var/lib/surplus root/var/lib/surplus/images root/run root/etc); \
    grep -E 'Max (cpu|file)' limits; kill -CONT $p) >/run/seen 2>&1 & true";

#[test]
fn every_format_boots_and_hostile_images_are_refused_with_a_reason() -> Result<()> {
    surplus_tests::test("images", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .memory_mib(2048)
            .shell()
            .start()?;
        let buyer = marketplace.buyer("buyer")?;
        let made = Made::new(lab)?;
        upload_refuses_what_refers_elsewhere(&buyer, &made)?;
        machine.wait_for_stage("offering", BOOT)?;
        offered(&buyer)?;
        machine.shell()?.wait_ready(SOON)?;
        machine.shell()?.run(LOOK, SOON)?;

        for (name, file) in &made.good {
            add(&buyer, name, file)?;
            if let Err(error) = boots(&buyer, name) {
                let tail = "journalctl -b -n 40 -o cat --no-pager; cat /run/seen; dmesg | tail -5";
                let journal = machine.shell()?.attempt(tail, SOON)?;
                return Err(error.context(format!("{name}; the host says:\n{}", journal.output)));
            }
        }
        the_tool_was_closed_in(&mut machine)?;
        hosts_refuse(&buyer, &made)?;
        guest_is_gone(&mut machine)?;
        originals_are_gone(&mut machine, made.good.len())
    })
}

/// The small guest in other formats, and what is wrong.
struct Made {
    good: Vec<(&'static str, PathBuf)>,
    refers: PathBuf,
    links: PathBuf,
    cut: PathBuf,
    damaged: PathBuf,
}

impl Made {
    fn new(lab: &Lab) -> Result<Self> {
        let raw = lab.guest_image("raw")?;
        let path = |name: &str| lab.scratch().join(name);
        let convert = |name: &str, driver: &str, options: &str| -> Result<PathBuf> {
            let mut command = lab.tools().command("qemu-img");
            command.args(["convert", "-f", "raw", "-O", driver, "-o", options]);
            run(command.args([&raw, &path(name)]))?;
            Ok(path(name))
        };
        let vmdk = convert("one.vmdk", "vmdk", "subformat=monolithicSparse")?;
        let stream = convert("stream.vmdk", "vmdk", "subformat=streamOptimized")?;
        let vhd = convert("one.vhd", "vpc", "subformat=dynamic")?;
        let vhdx = convert("one.vhdx", "vhdx", "subformat=dynamic")?;
        let stream = fs::read(stream)?;
        let digest = hex::encode(Sha256::digest(&stream));
        let manifest = format!("SHA256(box.vmdk)= {digest}\n");
        let package = |name: &str, link: bool| -> Result<PathBuf> {
            let mut archive = tar::Builder::new(fs::File::create(path(name))?);
            for (name, bytes) in [
                ("box.ovf", &b"<Envelope/>"[..]),
                ("box.mf", manifest.as_bytes()),
                ("box.vmdk", &stream),
            ] {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                archive.append_data(&mut header, name, bytes)?;
            }
            if link {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, "disk", "/etc/passwd")?;
            }
            archive.finish()?;
            Ok(path(name))
        };
        let refers = other_descriptor(&vmdk, &path("refers.vmdk"))?;
        let mut cut = fs::read(&vhdx)?;
        cut.truncate(cut.len() * 3 / 4);
        fs::write(path("cut.vhdx"), cut)?;
        // Packed bytes that do not unpack, some way in.
        let mut damaged = stream.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + (64 << 10)].fill(0x5a);
        fs::write(path("damaged.vmdk"), damaged)?;
        // A minute and more for each: the others in a full run (`--full`).
        let mut good = vec![("ova", package("one.ova", false)?), ("vhdx", vhdx)];
        if is_full() {
            good.extend([("vmdk", vmdk), ("vhd", vhd)]);
        }
        Ok(Self {
            good,
            refers,
            links: package("links.ova", true)?,
            cut: path("cut.vhdx"),
            damaged: path("damaged.vmdk"),
        })
    }
}

/// The same disk, said to lie in a file of the host.
fn other_descriptor(vmdk: &Path, to: &Path) -> Result<PathBuf> {
    let mut image = fs::read(vmdk)?;
    let text = "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n\
                RW 32768 FLAT \"/etc/passwd\" 0\n";
    image[512..20 * 512].fill(0);
    image[512..512 + text.len()].copy_from_slice(text.as_bytes());
    fs::write(to, image)?;
    Ok(to.to_owned())
}

fn add(buyer: &Client, name: &str, file: &Path) -> Result<()> {
    let image: Image = buyer.ask(&["image", "add", &file.to_string_lossy(), "--name", name])?;
    ensure!(image.format.name() == name, "{image:?}");
    Ok(())
}

fn rent(buyer: &Client, name: &str) -> Result<Lease> {
    let order = Order {
        image: name,
        ..Order::hello(name)
    };
    order.place(buyer)
}

fn boots(buyer: &Client, name: &str) -> Result<()> {
    let id = rent(buyer, name)?.id.to_string();
    let begun = |lease: Lease| {
        let waits = matches!(lease.state, LeaseState::Reserved | LeaseState::Preparing);
        (!waits).then_some(lease)
    };
    let lease = buyer.wait_until(&["leases", &id], "start", GUEST, begun)?;
    ensure!(lease.state == LeaseState::Active, "{lease:?}");
    let says = |text: &str| text.contains("guest: hello");
    buyer.wait_for_console(name, "guest: hello", GUEST, says)?;
    let ended: Lease = buyer.ask(&["end", name, "--wait", "--timeout", "2m"])?;
    ensure!(ended.end_reason == Some(EndReason::Ended), "{ended:?}");
    Ok(())
}

fn upload_refuses_what_refers_elsewhere(buyer: &Client, made: &Made) -> Result<()> {
    for (file, reason) in [(&made.refers, "/etc/passwd"), (&made.links, "is a link")] {
        let added = buyer.run(&["image", "add", &file.to_string_lossy(), "--name", "bad"]);
        let text = format!("{:#}", added.err().context("it was taken")?);
        ensure!(text.contains(reason), "{text}");
    }
    let images: Vec<Image> = buyer.ask(&["image", "list"])?;
    ensure!(images.is_empty(), "{images:?}");
    Ok(())
}

/// What only shows where it is opened.
fn hosts_refuse(buyer: &Client, made: &Made) -> Result<()> {
    for (name, file, reason) in [
        ("cut", &made.cut, "cut off"),
        ("damaged", &made.damaged, "refused the image"),
    ] {
        buyer.run(&["image", "add", &file.to_string_lossy(), "--name", name])?;
        let lease = rent(buyer, name)?;
        let id = lease.id.to_string();
        let over = |lease: Lease| {
            matches!(lease.state, LeaseState::Ended | LeaseState::Settled).then_some(lease)
        };
        let ended = buyer.wait_until(&["leases", &id], "refused lease", SOON, over)?;
        ensure!(
            ended.end_reason == Some(EndReason::StartFailed) && ended.detail.contains(reason),
            "{ended:?}"
        );
    }
    Ok(())
}

fn the_tool_was_closed_in(machine: &mut Machine) -> Result<()> {
    let seen = machine.shell()?.run("tr -s '\\t ' ' ' </run/seen", SOON)?;
    for word in [
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "own-network",
    ] {
        ensure!(seen.contains(word), "no {word:?} in:\n{seen}");
    }
    let uid = seen.lines().find_map(|line| line.strip_prefix("Uid: "));
    let uid = uid
        .and_then(|ids| ids.split(' ').next())
        .context("no uid")?;
    // Of those that systemd gives away for a while.
    let uid: u32 = uid.parse()?;
    ensure!((61_184..=65_519).contains(&uid), "it ran as {uid}");
    // Of the state directory the image alone, and nothing of the rest.
    let files = seen.lines().find_map(|line| line.strip_prefix("files:"));
    let files = files.context("no files")?;
    ensure!(
        !files.contains("guests") && !files.contains("ledger") && !files.contains("passwd"),
        "{files}"
    );
    Ok(())
}

/// One file of each image that was converted, for every guest to read.
fn originals_are_gone(machine: &mut Machine, count: usize) -> Result<()> {
    let list = "cd /var/lib/surplus/images && stat -c '%U %a %n' *.qcow2; ls | grep -vc qcow2";
    let files = machine.shell()?.run(&format!("{list}; true"), SOON)?;
    let converted = files.lines().filter(|line| line.starts_with("root 644 "));
    ensure!(converted.count() == count, "{files}");
    Ok(())
}
