//! From a [`Builder`] to QEMU's command line.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::builder::{Builder, DiskBus, Firmware, Medium, Nic, Plug};
use crate::network::trunk::{Cable, Forwarded, Trunk};

/// From where the firmware tries to boot: a medium before every NIC.
const FIRST_NIC: usize = 10;

impl Builder<'_> {
    pub(super) fn command(&self, directory: &Path, sockets: &Path) -> Result<Command> {
        let accel = self.lab.accel();
        let mut qemu = self.lab.tools().command("qemu-system-x86_64");
        qemu.args([
            "-name",
            &self.name,
            "-machine",
            self.machine_type(),
            "-accel",
            accel.argument(self.one_of_many),
        ]);
        let cpu = if self.virtualisation {
            accel.cpu()
        } else {
            accel.cpu_without_virtualisation()
        };
        qemu.args(["-cpu", cpu, "-smp", &self.cpus.to_string()]);
        qemu.args(["-m", &format!("{}M", self.memory_mib)]);
        self.add_numa_nodes(&mut qemu);
        qemu.args(["-nodefaults", "-vga", "std", "-display", "none"]);
        qemu.args(["-uuid", &self.uuid.clone().map_or_else(random_uuid, Ok)?]);
        if !self.reboots {
            qemu.arg("-no-reboot");
        }
        if self.watchdog {
            qemu.args(["-device", "i6300esb"]);
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
        self.add_kernel(&mut qemu);
        self.add_nics(&mut qemu);
        self.add_disks(&mut qemu);
        self.add_logged_disks(&mut qemu);
        self.add_oem_strings(&mut qemu, directory)?;
        Ok(match self.switch {
            Some(switch) => switch.enter(&qemu),
            None => qemu,
        })
    }

    /// Without graphics SeaBIOS and iPXE write to the serial port too: what
    /// they say about the network is worth reading.
    fn machine_type(&self) -> &'static str {
        match (self.switch, self.firmware) {
            (Some(_), Firmware::Bios) => "q35,graphics=off",
            _ if self.secure_boot.is_some() => "q35,smm=on",
            _ => "q35",
        }
    }

    /// Each with as many processors and as much memory.
    fn add_numa_nodes(&self, qemu: &mut Command) {
        let (cpus, memory) = (
            self.cpus / self.numa_nodes,
            self.memory_mib / self.numa_nodes,
        );
        if self.numa_nodes < 2 {
            return;
        }
        for node in 0..self.numa_nodes {
            let (first, last) = (node * cpus, (node + 1) * cpus - 1);
            qemu.arg("-object");
            qemu.arg(format!("memory-backend-ram,id=node{node},size={memory}M"));
            qemu.arg("-numa");
            qemu.arg(format!("node,memdev=node{node},cpus={first}-{last}"));
        }
    }

    fn add_kernel(&self, qemu: &mut Command) {
        let Some(kernel) = &self.kernel else { return };
        qemu.arg("-kernel").arg(&kernel.image);
        qemu.arg("-initrd").arg(&kernel.initrd);
        qemu.arg("-append").arg(&kernel.command_line);
    }

    /// OVMF's code, and a fresh copy of its variables.
    fn add_uefi(&self, qemu: &mut Command, directory: &Path) -> Result<()> {
        let ovmf = |file: &str| self.lab.tools().path(&format!("/usr/share/OVMF/{file}"));
        let (code, template) = match &self.secure_boot {
            Some(variables) => (ovmf("OVMF_CODE_4M.secboot.fd"), variables.clone()),
            None => (ovmf("OVMF_CODE_4M.fd"), ovmf("OVMF_VARS_4M.fd")),
        };
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
        if self.secure_boot.is_some() {
            // Only firmware in system management mode may write variables.
            qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
            qemu.args(["-global", "ICH9-LPC.disable_s3=1"]);
        }
        if self.http_boot {
            for family in ["IPv4", "IPv6"] {
                let name = format!("opt/org.tianocore/{family}PXESupport");
                qemu.args(["-fw_cfg", &format!("name={name},string=no")]);
            }
        }
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

    fn add_nics(&self, qemu: &mut Command) {
        if self.has_loose_cable() {
            qemu.arg("-S");
        }
        for (number, nic) in self.nics.iter().enumerate() {
            let mut device = format!("virtio-net-pci,netdev=net{number}");
            let netdev = match nic {
                Nic::None => {
                    qemu.args(["-nic", "none"]);
                    continue;
                }
                Nic::User { forwards } => {
                    device.push_str(",romfile=");
                    let ports = forwards
                        .iter()
                        .map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
                    format!("user,id=net{number}{}", ports.collect::<String>())
                }
                Nic::Plugged(Plug { port, rom, .. }) => {
                    if !rom {
                        device.push_str(",romfile=");
                    }
                    let order = FIRST_NIC + number;
                    device.push_str(&format!(",mac={},bootindex={order}", port.mac));
                    let tap = &port.tap;
                    format!("tap,id=net{number},ifname={tap},script=no,downscript=no")
                }
                Nic::Cable(cable) => {
                    // LACP joins only links whose speed is known.
                    let mac = &cable.mac;
                    device.push_str(&format!(",romfile=,mac={mac},speed=10000,duplex=full"));
                    datagrams(&format!("net{number}"), cable)
                }
            };
            qemu.args(["-netdev", &netdev, "-device", &device]);
        }
        if let Some(trunk) = self.trunk {
            add_uplink(qemu, trunk);
        }
    }

    fn add_disks(&self, qemu: &mut Command) {
        // The first is the medium's; each takes one drive.
        let mut ports = (1..).map(|port| format!(",bus=ide.{port}"));
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
            let (device, port) = match disk.bus {
                DiskBus::Virtio => ("virtio-blk-pci", None),
                DiskBus::Sata => ("ide-hd", ports.next()),
                DiskBus::Cd => ("ide-cd", ports.next()),
            };
            let port = port.unwrap_or_default();
            qemu.arg("-drive")
                .arg(format!(
                    "if=none,id=disk{index},format={format},{mode},file={path}"
                ))
                .arg("-device")
                .arg(format!(
                    "{device},drive=disk{index},serial={}{port}",
                    disk.serial
                ));
        }
    }

    fn add_logged_disks(&self, qemu: &mut Command) {
        for (index, (path, log)) in self.logged.iter().enumerate() {
            let raw = |name: &str, path: &Path| {
                format!(
                    "{name}.driver=raw,{name}.file.driver=file,{name}.file.filename={}",
                    path.display()
                )
            };
            let (file, log) = (raw("file", path), raw("log", log));
            // The log's head moves at a flush, and never between.
            let every = "log-super-update-interval=1000000000";
            qemu.arg("-drive")
                .arg(format!(
                    "if=none,id=logged{index},driver=blklogwrites,{every},{file},{log}"
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-blk-pci,drive=logged{index},discard=off,write-zeroes=off"
                ));
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

/// What lies behind a switch in user space: a hub joins its uplink to QEMU's
/// user-mode network.
fn add_uplink(qemu: &mut Command, trunk: &Trunk) {
    let forwards = trunk.guests().into_iter().flat_map(|it| it.forwards);
    let forwards = forwards.map(
        |Forwarded {
             here,
             address,
             port,
         }| { format!(",hostfwd=tcp:127.0.0.1:{here}-{address}:{port}") },
    );
    qemu.args([
        "-netdev",
        &format!("user,id=user{}", forwards.collect::<String>()),
    ]);
    qemu.args(["-netdev", &datagrams("uplink", trunk.uplink())]);
    for end in ["user", "uplink"] {
        let port = format!("hubport,id=hub-{end},hubid=0,netdev={end}");
        qemu.args(["-netdev", &port]);
    }
}

/// A backend whose every datagram is a frame.
fn datagrams(id: &str, cable: &Cable) -> String {
    let (here, there) = (cable.qemu.display(), cable.switch.display());
    format!("dgram,id={id},local.type=unix,local.path={here},remote.type=unix,remote.path={there}")
}

fn random_uuid() -> Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.trim().to_owned())
}
