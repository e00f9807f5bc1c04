//! A host on which all is rented that it offers, and used: every byte of memory and
//! of disk. It goes on, and its agent answers; and each guest lives on a NUMA node.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::Offer;
use surplus_tests::accel::Accel;
use surplus_tests::rental::{Order, qemu};
use surplus_tests::{Client, Lab, Marketplace, Medium};

const BOOT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(60);
const FILLED: Duration = Duration::from_secs(240);

const MIB: u64 = 1 << 20;

/// From the buyer's order until the agent has written down that it acts on it.
const ANSWER: Duration = Duration::from_secs(1);
/// An emulated processor is so many times as slow.
const EMULATED: u32 = 10;

/// The largest guest that is for sale; nothing where all is sold.
fn offer(buyer: &Client) -> Result<Option<Offer>> {
    let offers: Vec<Offer> = buyer.ask(&["offers"])?;
    Ok(offers.into_iter().next())
}

/// Rents a part of what is for sale, for a guest that uses it to the last byte.
fn fills(lab: &Lab, buyer: &Client, name: &str, part: u64) -> Result<()> {
    let free = offer(buyer)?.context("nothing is for sale")?.free;
    let mebibytes = |bytes: u64| format!("{}MiB", bytes / part / MIB);
    let (memory, disk) = (mebibytes(free.memory_bytes), mebibytes(free.disk_bytes));
    println!("{name}: memory {memory}, disk {disk}");
    let user_data = lab.scratch().join("user-data");
    fs::write(&user_data, "# surplus-test: fill\n")?;
    let order = Order {
        memory: &memory,
        disk: &disk,
        more: &["--user-data", &user_data.to_string_lossy()],
        ..Order::hello(name)
    };
    order.start(buyer)?;
    Ok(())
}

#[test]
fn a_host_that_is_filled_to_what_it_offers_goes_on_and_answers() -> Result<()> {
    surplus_tests::test("full-host", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, marketplace.joining_iso("host")?)
            .cpus(4)
            .numa_nodes(2)
            .memory_mib(1792)
            .shell()
            .start()?;
        let buyer = marketplace.buyer("buyer")?;
        let image = lab.guest_image("qcow2")?;
        buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
        machine.wait_for_stage("offering", BOOT)?;
        machine.shell()?.wait_ready(SOON)?;
        let agent = machine.shell()?.run("pidof surplus-agent", SOON)?;

        // A half, and then all that is left.
        fills(lab, &buyer, "half", 2)?;
        fills(lab, &buyer, "rest", 1)?;
        let left = offer(&buyer)?;
        ensure!(left.is_none(), "still for sale: {left:?}");
        for name in ["half", "rest"] {
            let says = |text: &str| text.contains("guest: filled");
            let text = buyer.wait_for_console(name, "guest: filled", FILLED, says)?;
            let line = text.lines().find(|line| line.contains("guest: filled"));
            println!("{name}: {}", line.unwrap_or_default());
        }
        let memory = "free -m; df -m /var/lib/surplus | tail -n 1";
        println!("{}", machine.shell()?.run(memory, SOON)?);

        let guests = qemu(&mut machine)?.context("no guest is left")?;
        ensure!(guests.split_whitespace().count() == 2, "QEMUs: {guests}");
        let killed = "dmesg | grep -i 'out of memory\\|oom-kill\\|no space'; true";
        let killed = machine.shell()?.run(killed, SOON)?;
        ensure!(killed.is_empty(), "{killed}");
        let still = machine.shell()?.run("pidof surplus-agent", SOON)?;
        ensure!(still == agent, "the agent was {agent}, and is {still}");

        let nodes = "for pid in $(pidof qemu-system-x86_64); do \
            grep -q ' prefer' /proc/$pid/numa_maps && \
            sed -n 's/Cpus_allowed_list:.//p' /proc/$pid/status; done | sort";
        let nodes = machine.shell()?.run(nodes, SOON)?;
        ensure!(nodes == "0-1\n2-3", "the guests live on {nodes:?}");

        let begun = Instant::now();
        buyer.run(&["end", "half"])?;
        let acts = "until grep -qs stopping /var/lib/surplus/ledger/*; do usleep 20000; done";
        machine.shell()?.run(acts, SOON)?;
        let answered = begun.elapsed();
        let within = match lab.accel() {
            Accel::Kvm => ANSWER,
            Accel::Tcg => ANSWER * EMULATED,
        };
        println!(
            "the agent acted {} ms after the order",
            answered.as_millis()
        );
        ensure!(answered <= within, "{answered:?}, {within:?} are allowed");
        Ok(())
    })
}
