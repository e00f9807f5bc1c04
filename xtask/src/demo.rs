//! `cargo xtask demo`: the main job, once, before a person's eyes.
//!
//! A marketplace is started, the CD is booted in QEMU with nobody at the
//! keyboard, the host enrols and offers, a guest is rented on it, says hello,
//! ends, and is billed. Everything that is started is gone at the end, also
//! after Ctrl-C.

mod follow;
mod story;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use surplus_tests::rental::Order;
use surplus_tests::{Client, Lab, Machine, Marketplace, Medium, interrupt};

use self::follow::Follower;
use self::story::Story;
use crate::test::ground;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the marketplace, the host and the guest running until Ctrl-C, and
    /// say how to look at them
    #[arg(long)]
    keep: bool,
    /// The host's memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1536)]
    memory: u32,
    /// Boot by UEFI instead of BIOS
    #[arg(long)]
    uefi: bool,
}

const BOOT: Duration = Duration::from_secs(240);
const GUEST: Duration = Duration::from_secs(300);
/// The lease's name.
const NAME: &str = "demo";

pub(crate) fn run(args: &Args) -> Result<()> {
    interrupt::handle()?;
    let mut story = Story::begin();
    let told = tell(args, &mut story);
    story.end(told.is_ok());
    told
}

fn tell(args: &Args, story: &mut Story) -> Result<()> {
    story.stage(
        "Tools",
        "check the network and the package mirror (SURPLUS_MIRROR names another)",
        || ground::tools().map(drop),
    )?;
    story.stage(
        "Marketplace, command line and surplus-image: build",
        "the compiler's own words stand above",
        ground::programs,
    )?;
    story.stage(
        "CD: build",
        "`cargo xtask image` alone shows the same failure",
        ground::image,
    )?;
    story.stage(
        "Small guest to rent: build",
        "check the network and the package mirror (SURPLUS_MIRROR names another)",
        || ground::guest().map(drop),
    )?;
    let lab = Lab::open_with("demo", &ground::say)?;
    let logs = format!("logs are in {}", lab.logs().display());
    let marketplace = story.stage("Marketplace: start", &logs, || Marketplace::start(&lab))?;
    println!(
        "    listens on {}, its CA is {}",
        marketplace.url(),
        marketplace.ca_file().display()
    );
    let iso = story.stage(
        "Join token, site file, CD with the site file in it",
        &logs,
        || marketplace.joining_iso("demo-host"),
    )?;
    let how = format!("QEMU {}, nobody at the keyboard", lab.accel().name());
    let (mut machine, follower) = story.stage(
        &format!("Host: boot from the CD, enrol, offer ({how})"),
        &logs,
        || boot(args, &lab, &iso),
    )?;
    let buyer = marketplace.buyer("demo-buyer")?;
    story.stage("Guest: rent", &logs, || rent(&lab, &buyer))?;
    story.stage("Guest: its own words, by `surplus console`", &logs, || {
        listen(&buyer)
    })?;
    if args.keep {
        return keep(&marketplace, &buyer, &mut machine);
    }
    story.stage("Lease: end", &logs, || {
        shown(&buyer, &["end", NAME, "--wait", "--timeout", "3m"])
    })?;
    story.stage("Bill", &logs, || shown(&buyer, &["bill", NAME]))?;
    let cpu = machine.cpu_seconds();
    drop(follower);
    machine.kill();
    lab.forget_logs();
    println!("\nQEMU used {cpu:.0} CPU seconds.");
    Ok(())
}

fn boot(args: &Args, lab: &Lab, iso: &Path) -> Result<(Machine, Follower)> {
    let firmware = if args.uefi {
        surplus_tests::Firmware::Uefi
    } else {
        surplus_tests::Firmware::Bios
    };
    let machine = lab
        .machine("host")
        .firmware(firmware)
        .medium(Medium::Cd, iso)
        .memory_mib(args.memory)
        .start();
    let mut machine = machine?;
    let follower = Follower::start(machine.directory().join("serial.log"))?;
    machine.wait_for_stage("enrolled", BOOT)?;
    machine.wait_for_stage("offering", BOOT)?;
    follower.settle();
    Ok((machine, follower))
}

fn rent(lab: &Lab, buyer: &Client) -> Result<()> {
    let image = lab.guest_image("qcow2")?;
    shown(
        buyer,
        &["image", "add", &image.to_string_lossy(), "--name", "hello"],
    )?;
    shown(buyer, &["offers"])?;
    let user_data = lab.scratch().join("user-data");
    fs::write(&user_data, "#cloud-config\n# hello from the buyer\n")?;
    let order = Order {
        more: &[
            "--user-data",
            &user_data.to_string_lossy(),
            "--wait",
            "--timeout",
            "5m",
        ],
        ..Order::hello(NAME)
    };
    shown(buyer, &order.arguments())
}

/// Prints the guest's console until it has said all that it says at its start.
fn listen(buyer: &Client) -> Result<()> {
    let deadline = Instant::now() + surplus_tests::patience(GUEST);
    let mut shown = 0;
    loop {
        let text = buyer.console(NAME)?;
        let lines: Vec<_> = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .collect();
        for line in lines
            .iter()
            .skip(shown)
            .filter(|line| line.starts_with("guest: "))
        {
            println!("    console │ {}", line.trim_end());
        }
        shown = shown.max(lines.len());
        if text.contains("guest: ready") && text.contains("guest: address=") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "the guest did not get as far as `guest: ready` within {} s",
                GUEST.as_secs()
            );
        }
        std::thread::park_timeout(Duration::from_millis(500));
    }
}

/// Runs `surplus …`, its output shown.
fn shown(buyer: &Client, arguments: &[&str]) -> Result<()> {
    println!("    $ surplus {}", arguments.join(" "));
    let mut command = buyer.command()?;
    let status = command.args(arguments).stdin(Stdio::null()).status();
    let status = status.context("could not start surplus")?;
    if !status.success() {
        bail!("`surplus {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Says how to look at everything, and waits for Ctrl-C or the host's end.
fn keep(marketplace: &Marketplace, buyer: &Client, machine: &mut Machine) -> Result<()> {
    let program = buyer
        .command()?
        .get_program()
        .to_string_lossy()
        .into_owned();
    println!(
        "\nAll of it runs until you press Ctrl-C. In another terminal:\n\n    \
         export SURPLUS_URL={}\n    \
         export SURPLUS_CA={}\n    \
         export SURPLUS_TOKEN=$(cat {})\n    \
         {program} hosts\n    \
         {program} leases\n    \
         {program} console {NAME}\n    \
         {program} end {NAME} --wait && {program} bill {NAME}\n\n\
         The host's own console: tail -f {}",
        marketplace.url(),
        marketplace.ca_file().display(),
        marketplace.admin_key_file().display(),
        machine.directory().join("serial.log").display(),
    );
    while machine.running()? {
        std::thread::park_timeout(Duration::from_millis(500));
    }
    println!("the host has switched itself off");
    Ok(())
}
