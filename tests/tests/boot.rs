//! The appliance boots from each kind of medium by each kind of firmware, with
//! nobody at the keyboard, and enrols.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Host, HostState};
use surplus_tests::medium::{BLOCK, flip_blocks, root_extent};
use surplus_tests::{Firmware, Lab, Machine, Marketplace, Medium};

const ENROLLED: Duration = Duration::from_secs(120);
const POWER_OFF: Duration = Duration::from_secs(30);

/// Waits for enrolment, and checks that the register says the same.
fn enrols(machine: &mut Machine, marketplace: &Marketplace, firmware: Firmware) -> Result<()> {
    let stage = machine.wait_for_stage("enrolled", ENROLLED)?;
    println!("enrolled {:.1} s after the kernel's start", stage.elapsed);
    let id = stage
        .field("host")
        .context("the stage line names no host")?
        .to_owned();
    let host: Host = marketplace.operator()?.wait_until(
        &["hosts", &id],
        "host with an inventory",
        ENROLLED,
        |host: Host| host.inventory.is_some().then_some(host),
    )?;
    ensure!(
        host.state == HostState::Enrolled,
        "the register says {:?}",
        host.state
    );
    let inventory = host.inventory.context("just seen")?;
    ensure!(
        inventory.uefi == (firmware == Firmware::Uefi),
        "the inventory names the wrong firmware"
    );
    ensure!(
        inventory.cpu.threads == 2,
        "the inventory has {} threads",
        inventory.cpu.threads
    );
    Ok(())
}

fn boots(name: &str, firmware: Firmware, medium: Medium, memory_mib: u32) -> Result<()> {
    surplus_tests::test(name, |lab: &Lab| {
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .firmware(firmware)
            .medium(medium, iso)
            .memory_mib(memory_mib)
            .start()?;
        enrols(&mut machine, &marketplace, firmware)
    })
}

#[test]
fn by_bios_from_a_cd_in_512_mib() -> Result<()> {
    boots("boot-bios-cd", Firmware::Bios, Medium::Cd, 512)
}

#[test]
fn by_uefi_from_a_cd() -> Result<()> {
    boots("boot-uefi-cd", Firmware::Uefi, Medium::Cd, 1024)
}

#[test]
fn by_bios_from_a_usb_stick() -> Result<()> {
    boots("boot-bios-usb", Firmware::Bios, Medium::Usb, 1024)
}

/// The stick goes bad after the boot: each block that was not read yet turns
/// wrong, and the first one that is read then stops the host.
#[test]
fn by_uefi_from_a_usb_stick_and_a_block_that_rots_later_stops_the_host() -> Result<()> {
    surplus_tests::test("boot-uefi-usb", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .firmware(Firmware::Uefi)
            .medium(Medium::Usb, &iso)
            .shell()
            .start()?;
        enrols(&mut machine, &marketplace, Firmware::Uefi)?;

        // Ready before the blocks turn: the host may read one at once.
        machine.shell()?.wait_ready(Duration::from_secs(60))?;
        machine.allow_errors().mark();
        let root = root_extent(lab, &iso)?;
        flip_blocks(&iso, root, 1, root.length / BLOCK)?;
        // Whatever the host reads next; the answer never comes.
        let _ = machine.shell()?.attempt(
            "cat /usr/bin/qemu-system-x86_64 | wc -c",
            Duration::from_secs(5),
        );
        let line = machine.wait_for_error("block", POWER_OFF)?;
        ensure!(
            line.field("next").is_some(),
            "the line does not say what to do: {line:?}"
        );
        machine.wait_for_power_off(POWER_OFF)
    })
}
