//! From a [`Builder`] to QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::builder::{Builder, DiskBus, Firmware, Medium, Nic};

impl Builder<'_> {
    pub(super) fn command(&self, directory: &Path, sockets: &Path) -> Result<Command> {
        let accel = self.lab.accel();
        let mut qemu = self.lab.tools().command("qemu-system-x86_64");
        qemu.args([
            "-name",
            &self.name,
            "-machine",
            "q35",
            "-accel",
            accel.argument(),
        ]);
        let cpu = if self.virtualisation {
            accel.cpu()
        } else {
            accel.cpu_without_virtualisation()
        };
        qemu.args(["-cpu", cpu, "-smp", &self.cpus.to_string()]);
        qemu.args(["-m", &format!("{}M", self.memory_mib)]);
        qemu.args(["-nodefaults", "-vga", "std", "-display", "none"]);
        qemu.args(["-uuid", &self.uuid.clone().map_or_else(random_uuid, Ok)?]);
        if !self.reboots {
            qemu.arg("-no-reboot");
        }
        qemu.arg("-qmp").arg(format!(
            "unix:{},server=on,wait=off",
            sockets.join("qmp").display()
        ));
        qemu.arg("-serial")
            .arg(format!("file:{}", directory.join("serial.log").display()));
        if self.shell {
            let socket = sockets.join("shell");
            qemu.arg("-serial")
                .arg(format!("unix:{},server=on,wait=off", socket.display()));
        }
        if self.firmware == Firmware::Uefi {
            self.add_uefi(&mut qemu, directory)?;
        }
        self.add_medium(&mut qemu);
        self.add_nic(&mut qemu);
        self.add_disks(&mut qemu);
        self.add_oem_strings(&mut qemu, directory)?;
        Ok(qemu)
    }

    /// OVMF's code, and a fresh copy of its variables.
    fn add_uefi(&self, qemu: &mut Command, directory: &Path) -> Result<()> {
        let code = self.lab.tools().path("/usr/share/OVMF/OVMF_CODE_4M.fd");
        let template = self.lab.tools().path("/usr/share/OVMF/OVMF_VARS_4M.fd");
        let variables = directory.join("efivars.fd");
        fs::copy(&template, &variables)
            .with_context(|| format!("could not copy {}", template.display()))?;
        qemu.arg("-drive")
            .arg(format!(
                "if=pflash,format=raw,readonly=on,file={}",
                code.display()
            ))
            .arg("-drive")
            .arg(format!("if=pflash,format=raw,file={}", variables.display()));
        Ok(())
    }

    fn add_medium(&self, qemu: &mut Command) {
        let Some((medium, image)) = &self.medium else {
            return;
        };
        let image = image.display();
        let (drive, device) = match medium {
            Medium::Cd => (
                format!("if=none,id=medium,media=cdrom,format=raw,readonly=on,file={image}"),
                "ide-cd,drive=medium,bootindex=1",
            ),
            Medium::Usb => {
                qemu.args(["-device", "qemu-xhci,id=usb"]);
                (
                    format!("if=none,id=medium,format=raw,readonly=on,file={image}"),
                    "usb-storage,bus=usb.0,drive=medium,removable=on,bootindex=1",
                )
            }
            Medium::Virtio => (
                format!("if=none,id=medium,format=raw,snapshot=on,file={image}"),
                "virtio-blk-pci,drive=medium,bootindex=1",
            ),
        };
        qemu.args(["-drive", &drive, "-device", device]);
    }

    fn add_nic(&self, qemu: &mut Command) {
        let Nic::User { forwards } = &self.nic else {
            qemu.args(["-nic", "none"]);
            return;
        };
        let mut netdev = "user,id=net0".to_owned();
        for (here, there) in forwards {
            netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
        }
        qemu.args([
            "-netdev",
            &netdev,
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
        ]);
    }

    fn add_disks(&self, qemu: &mut Command) {
        for (index, disk) in self.disks.iter().enumerate() {
            let path = disk.path.display();
            let format = if disk.path.extension().is_some_and(|end| end == "qcow2") {
                "qcow2"
            } else {
                "raw"
            };
            let mode = match disk.bus {
                DiskBus::Cd => "media=cdrom,readonly=on",
                _ if disk.keep => "snapshot=off",
                _ => "snapshot=on",
            };
            let device = match disk.bus {
                DiskBus::Virtio => "virtio-blk-pci",
                DiskBus::Sata => "ide-hd",
                DiskBus::Cd => "ide-cd",
            };
            qemu.arg("-drive")
                .arg(format!(
                    "if=none,id=disk{index},format={format},{mode},file={path}"
                ))
                .arg("-device")
                .arg(format!("{device},drive=disk{index},serial={}", disk.serial));
        }
    }

    /// By file: credentials hold commas and are long.
    fn add_oem_strings(&self, qemu: &mut Command, directory: &Path) -> Result<()> {
        for (index, text) in self.oem_strings.iter().enumerate() {
            let file = directory.join(format!("oem-string-{index}"));
            fs::write(&file, text)?;
            qemu.arg("-smbios")
                .arg(format!("type=11,path={}", file.display()));
        }
        Ok(())
    }
}

fn random_uuid() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().to_owned())
}
