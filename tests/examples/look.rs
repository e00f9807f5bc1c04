//! Boots a host, rents a guest on it, and runs shell commands inside the host:
//! for looking into what a test only saw fail.
//!
//! `cargo run -p surplus-tests --example look -- [--no-rent] [--before COMMAND] COMMAND…`

use std::time::Duration;

use anyhow::Result;
use surplus_tests::rental::Order;
use surplus_tests::{Lab, Marketplace, Medium, interrupt};

const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    interrupt::handle()?;
    let lab = Lab::open("look")?;
    let marketplace = Marketplace::start(&lab)?;
    let iso = marketplace.joining_iso("host")?;
    let machine = lab
        .machine("host")
        .medium(Medium::Cd, iso)
        .memory_mib(2048)
        .shell();
    let mut machine = machine.start()?;
    machine.allow_errors();
    let buyer = marketplace.buyer("buyer")?;
    let image = lab.guest_image("qcow2")?;
    buyer.run(&["image", "add", &image.to_string_lossy(), "--name", "hello"])?;
    // A host that hangs is what one wants to look into.
    if let Err(error) = machine.wait_for_stage("enrolled", BOOT) {
        println!("{error:#}");
    }
    machine.shell()?.wait_ready(COMMAND)?;
    let mut commands: Vec<_> = std::env::args().skip(1).collect();
    if commands.first().is_some_and(|first| first == "--no-rent") {
        commands.remove(0);
    } else {
        machine.wait_for_stage("offering", BOOT)?;
        if commands.len() > 1 && commands[0] == "--before" {
            println!("{:?}", machine.shell()?.attempt(&commands[1], COMMAND)?);
            commands.drain(..2);
        }
        println!("rent: {:?}", Order::hello("web").start(&buyer));
    }
    for command in &commands {
        println!("# {command}");
        match machine.shell()?.attempt(command, COMMAND) {
            Ok(outcome) => println!("{} [{}]", outcome.output, outcome.status),
            Err(error) => println!("{error:#}"),
        }
    }
    for line in machine.lines() {
        println!("serial: {line}");
    }
    if let Ok(text) = buyer.console("web") {
        println!("guest's console:\n{text}");
    }
    println!(
        "{}",
        std::fs::read_to_string(lab.logs().join("marketplace.log"))?
    );
    Ok(())
}
