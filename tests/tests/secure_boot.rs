//! Firmware with Secure Boot on starts a host that the owner has signed, whole
//! and with his site file in it, and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use surplus_image::efi;
use surplus_tests::medium::copy_of_iso;
use surplus_tests::secure_boot::{
    CHECKED, SecureBoot, altered, boot_image, refused, set_boot_image, sign, stranger,
};
use surplus_tests::{Lab, Machine, Marketplace, Medium, Nic};

const SOON: Duration = Duration::from_secs(30);
const ENROLLED: Duration = Duration::from_secs(120);

#[test]
fn a_signed_cd_boots_with_the_site_file_that_was_written_into_it() -> Result<()> {
    surplus_tests::test("secure-boot-signed", |lab| {
        let owner = SecureBoot::new(lab)?;
        let marketplace = Marketplace::start(lab)?;
        let iso = marketplace.joining_iso("host")?;
        let image = boot_image(lab, &iso)?;
        set_boot_image(lab, &iso, &owner.sign(image.clone())?)?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .secure_boot(owner.variables())
            .shell()
            .start()?;
        machine.wait_for_stage("enrolled", ENROLLED)?;

        let shell = machine.shell()?;
        shell.wait_ready(ENROLLED)?;
        let log = shell.run("dmesg", SOON)?;
        ensure!(
            log.contains(CHECKED),
            "the kernel knows nothing of it: {log}"
        );
        // The room behind the command line is not part of it.
        let booted = shell.run("cat /proc/cmdline", SOON)?;
        let built = efi::command_line(&image)?;
        ensure!(
            booted.trim_end_matches('\n') == built,
            "booted with {booted:?} instead of {built:?}"
        );
        Ok(())
    })
}

#[test]
fn what_is_unsigned_altered_or_signed_by_a_stranger_is_refused() -> Result<()> {
    surplus_tests::test("secure-boot-refused", |lab| {
        let owner = SecureBoot::new(lab)?;
        let iso = copy_of_iso(lab, "host")?;
        let unsigned = efi::unsigned(boot_image(lab, &iso)?)?;
        let signed = owner.sign(unsigned.clone())?;
        let foreign = sign(lab, unsigned.clone(), &stranger(lab)?)?;
        let cases = [
            ("unsigned", unsigned),
            ("kernel", altered(signed.clone(), ".linux")?),
            ("initrd", altered(signed.clone(), ".initrd")?),
            ("cmdline", altered(signed.clone(), ".cmdline")?),
            ("foreign", foreign),
        ];
        for (name, image) in cases {
            set_boot_image(lab, &iso, &image)?;
            refused(&mut machine(lab, &owner, name, &iso)?)?;
        }
        // The same medium with the image that the owner signed does boot.
        set_boot_image(lab, &iso, &signed)?;
        let mut host = machine(lab, &owner, "signed", &iso)?;
        host.allow("site area is empty");
        host.wait_for_stage("root", ENROLLED)?;
        Ok(())
    })
}

fn machine(
    lab: &Lab,
    owner: &SecureBoot<'_>,
    name: &str,
    iso: &std::path::Path,
) -> Result<Machine> {
    lab.machine(name)
        .medium(Medium::Cd, iso)
        .secure_boot(owner.variables())
        .nic(Nic::None)
        .start()
}
