//! The small guest, by itself: what the lease tests rely on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use surplus_tests::guest::answer;
use surplus_tests::marketplace::free_port;
use surplus_tests::{Disk, DiskBus, Firmware, Lab, Medium, Nic};

const BOOT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(30);
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBx2dGVzdGtleXRlc3RrZXl0ZXN0a2V5 buyer@example";

/// A NoCloud seed as a CD image labelled `cidata`.
fn seed(lab: &Lab) -> Result<PathBuf> {
    let tree = lab.scratch().join("seed");
    fs::create_dir_all(&tree)?;
    fs::write(
        tree.join("meta-data"),
        format!("instance-id: i-0815\nlocal-hostname: web\npublic-keys:\n  - \"{KEY}\"\n"),
    )?;
    fs::write(
        tree.join("user-data"),
        "#cloud-config\n# surplus-test: colour=blue\n",
    )?;
    let iso = lab.scratch().join("seed.iso");
    let made = lab
        .tools()
        .command("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-J", "-r", "-V", "cidata", "-o"])
        .arg(&iso)
        .arg(&tree)
        .output()?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(iso)
}

#[test]
fn a_guest_says_what_reached_it_and_obeys_the_power_button() -> Result<()> {
    surplus_tests::test("guest-bios", |lab| {
        let port = free_port()?;
        let mut guest = lab
            .machine("guest")
            .medium(Medium::Virtio, lab.guest_image("raw")?)
            .memory_mib(128)
            .cpus(1)
            .nic(Nic::User {
                forwards: vec![(port, 7)],
            })
            .disk(Disk {
                path: seed(lab)?,
                bus: DiskBus::Virtio,
                serial: "seed".to_owned(),
                keep: false,
            })
            .start()?;
        guest.wait_for("guest: hello", BOOT)?;
        guest.wait_for("guest: instance-id=i-0815", BOOT)?;
        guest.wait_for("guest: user-data: # surplus-test: colour=blue", BOOT)?;
        guest.wait_for("guest: ssh-key: ssh-ed25519 AAAAC3Nza", BOOT)?;
        guest.wait_for("guest: address=10.0.2.15", BOOT)?;
        guest.wait_for("guest: ready", BOOT)?;
        ensure!(answer(port, SOON)?.contains("guest: hello over TCP"));
        guest.press_power()?;
        guest.wait_for("guest: power button", BOOT)?;
        guest.wait_for_power_off(BOOT)
    })
}

#[test]
fn a_guest_boots_by_uefi_and_needs_no_network_and_no_seed_on_virtio() -> Result<()> {
    surplus_tests::test("guest-uefi", |lab| {
        let mut guest = lab
            .machine("guest")
            .firmware(Firmware::Uefi)
            .medium(Medium::Virtio, lab.guest_image("raw")?)
            .memory_mib(256)
            .cpus(1)
            .nic(Nic::None)
            .disk(Disk {
                path: seed(lab)?,
                bus: DiskBus::Cd,
                serial: "seed".to_owned(),
                keep: false,
            })
            .start()?;
        guest.wait_for("guest: address=none", BOOT)?;
        guest.wait_for("guest: ready", BOOT)?;
        let seen = guest
            .lines()
            .iter()
            .any(|line| line.contains("guest: instance-id=i-0815"));
        ensure!(seen, "the seed on a CD was not found");
        Ok(())
    })
}
