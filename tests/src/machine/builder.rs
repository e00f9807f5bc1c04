//! What a machine is made of, said in a test's words.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Machine;
use crate::lab::Lab;
use crate::network::trunk::{Cable, Trunk};
use crate::network::{Port, Station};
use crate::process::Supervised;
use crate::qmp::Qmp;
use crate::serial::SerialLog;
use crate::shell::{self, Shell};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, without Secure Boot.
    Uefi,
}

/// How the medium to boot from is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A CD drive on SATA: also what a BMC's virtual media looks like.
    Cd,
    /// A USB stick.
    Usb,
    /// A virtio disk.
    Virtio,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nic {
    None,
    /// QEMU's user-mode network: the machine gets 10.0.2.15 by DHCP and
    /// reaches this computer's loopback at 10.0.2.2. Ports are forwarded from
    /// loopback: (here, there).
    User {
        forwards: Vec<(u16, u16)>,
    },
    /// A port of a private network.
    Plugged(Plug),
    /// A link of a switch in user space.
    Cable(Cable),
}

/// A NIC on a private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    pub port: Port,
    /// With QEMU's network boot ROM, which is iPXE. Without it the firmware's
    /// own network stack is alone, as in a vendor's UEFI.
    pub rom: bool,
    /// Whether the cable is in; [`Machine::set_link`] changes it later.
    pub link: bool,
}

impl From<Port> for Nic {
    /// Cable in, no ROM.
    fn from(port: Port) -> Self {
        Self::Plugged(Plug {
            port,
            rom: false,
            link: true,
        })
    }
}

/// A kernel that QEMU itself puts into memory: the firmware loads nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub image: PathBuf,
    pub initrd: PathBuf,
    pub command_line: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    Virtio,
    Sata,
    /// A CD drive beside the one to boot from.
    Cd,
}

/// A disk beside the medium. What is written to it is thrown away at the end
/// unless `keep` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub bus: DiskBus,
    pub serial: String,
    pub keep: bool,
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    pub(super) lab: &'a Lab,
    pub(super) name: String,
    pub(super) firmware: Firmware,
    pub(super) medium: Option<(Medium, PathBuf)>,
    pub(super) memory_mib: u32,
    pub(super) numa_nodes: u32,
    pub(super) cpus: u32,
    pub(super) virtualisation: bool,
    pub(super) nics: Vec<Nic>,
    /// Where the private network's taps are.
    pub(super) switch: Option<&'a Station<'a>>,
    /// The switch in user space whose uplink this QEMU is.
    pub(super) trunk: Option<&'a Trunk>,
    pub(super) kernel: Option<Kernel>,
    pub(super) http_boot: bool,
    pub(super) secure_boot: Option<PathBuf>,
    pub(super) one_of_many: bool,
    pub(super) disks: Vec<Disk>,
    /// Disks of which every write is kept, and where.
    pub(super) logged: Vec<(PathBuf, PathBuf)>,
    pub(super) oem_strings: Vec<String>,
    pub(super) uuid: Option<String>,
    pub(super) reboots: bool,
    pub(super) watchdog: bool,
    pub(super) shell: bool,
}

impl<'a> Builder<'a> {
    /// BIOS, 2 CPUs, 1 GiB, a NIC, nothing to boot from.
    pub fn new(lab: &'a Lab, name: &str) -> Self {
        Self {
            lab,
            name: name.to_owned(),
            firmware: Firmware::Bios,
            medium: None,
            memory_mib: 1024,
            numa_nodes: 1,
            cpus: 2,
            virtualisation: true,
            nics: vec![Nic::User {
                forwards: Vec::new(),
            }],
            switch: None,
            trunk: None,
            kernel: None,
            http_boot: false,
            secure_boot: None,
            one_of_many: false,
            disks: Vec::new(),
            logged: Vec::new(),
            oem_strings: Vec::new(),
            uuid: None,
            reboots: false,
            watchdog: false,
            shell: false,
        }
    }

    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    #[must_use]
    pub fn medium(mut self, medium: Medium, image: impl Into<PathBuf>) -> Self {
        self.medium = Some((medium, image.into()));
        self
    }

    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Shares processors and memory out among so many NUMA nodes.
    #[must_use]
    pub fn numa_nodes(mut self, nodes: u32) -> Self {
        self.numa_nodes = nodes;
        self
    }

    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// A CPU without VT-x or SVM.
    #[must_use]
    pub fn without_virtualisation(mut self) -> Self {
        self.virtualisation = false;
        self
    }

    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics = vec![nic];
        self
    }

    /// NICs on a private network, in the order in which the firmware boots
    /// from them.
    #[must_use]
    pub fn plugged(
        mut self,
        switch: &'a Station<'a>,
        nics: impl IntoIterator<Item = impl Into<Nic>>,
    ) -> Self {
        self.switch = Some(switch);
        self.nics = nics.into_iter().map(Into::into).collect();
        self
    }

    /// NICs on the links of a switch in user space, in their order.
    #[must_use]
    pub fn on_trunk(mut self, trunk: &'a Trunk) -> Self {
        self.trunk = Some(trunk);
        self.nics = trunk.cables().iter().cloned().map(Nic::Cable).collect();
        self
    }

    /// Starts this kernel, whatever else could be booted.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// UEFI that boots by HTTP alone: its PXE is switched off.
    #[must_use]
    pub fn http_boot(mut self) -> Self {
        self.firmware = Firmware::Uefi;
        self.http_boot = true;
        self
    }

    /// UEFI with Secure Boot, its variables as in this file (of which the
    /// machine has a copy).
    #[must_use]
    pub fn secure_boot(mut self, variables: impl Into<PathBuf>) -> Self {
        self.firmware = Firmware::Uefi;
        self.secure_boot = Some(variables.into());
        self
    }

    /// Keeps QEMU itself small: for machines that run beside others.
    #[must_use]
    pub fn one_of_many(mut self) -> Self {
        self.one_of_many = true;
        self
    }

    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// A virtio disk, raw, that is written to; what is written, and where a flush
    /// came between, goes to `log` as well (see [`crate::write_log`]).
    #[must_use]
    pub fn logged_disk(mut self, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        self.logged.push((path.into(), log.into()));
        self
    }

    /// Adds an SMBIOS OEM string (type 11).
    #[must_use]
    pub fn oem_string(mut self, text: impl Into<String>) -> Self {
        self.oem_strings.push(text.into());
        self
    }

    /// The system UUID; random otherwise.
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = Some(uuid.into());
        self
    }

    /// Lets a reboot be one; otherwise it ends QEMU.
    #[must_use]
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// With a hardware watchdog, which resets a machine whose system hangs.
    #[must_use]
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// Brings a root shell on a second serial port, from a disk of its own
    /// (see [`Shell`]). The appliance has none.
    #[must_use]
    pub fn shell(mut self) -> Self {
        self.shell = true;
        self
    }

    /// A cable can be pulled only while QEMU runs: its processors wait for it.
    pub(super) fn has_loose_cable(&self) -> bool {
        let mut nics = self.nics.iter();
        nics.any(|nic| matches!(nic, Nic::Plugged(plug) if !plug.link))
    }

    /// Starts the machine; its logs go to a directory named after it.
    pub fn start(mut self) -> Result<Machine> {
        let directory = self.lab.machine_directory(&self.name)?;
        // Unix sockets' names are short (108 bytes), build directories' not.
        let sockets = self.lab.scratch().join("sockets").join(&self.name);
        // A machine of this name may have run before, and may still be dying: its
        // sockets must not be taken for this one's.
        if sockets.exists() {
            fs::remove_dir_all(&sockets)
                .with_context(|| format!("could not clear {}", sockets.display()))?;
        }
        fs::create_dir_all(&sockets)
            .with_context(|| format!("could not create {}", sockets.display()))?;
        if self.shell {
            let (disk, strings) = shell::kit(self.lab)?;
            self.disks.push(disk);
            self.oem_strings.extend(strings);
        }
        let qemu = self.command(&directory, &sockets)?;
        fs::write(directory.join("command"), format!("{qemu:?}\n"))?;
        let log = File::create(directory.join("qemu.log"))?;
        let mut process = Supervised::spawn(&qemu, |command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
        })?;
        let serial = SerialLog::new(directory.join("serial.log"));
        let mut qmp = connect(&mut process, &sockets, &directory)?;
        if self.has_loose_cable() {
            for (number, nic) in self.nics.iter().enumerate() {
                if matches!(nic, Nic::Plugged(plug) if !plug.link) {
                    super::set_link(&mut qmp, number, false)?;
                }
            }
            qmp.execute("cont", json!({}))?;
        }
        let shell = self.shell.then(|| Shell::new(sockets.join("shell")));
        Ok(Machine {
            name: self.name,
            process,
            qmp,
            serial,
            from: 0,
            allowed: Vec::new(),
            directory,
            shell,
            cpu_seconds: 0.0,
            cpu_counted: Instant::now(),
            started: Instant::now(),
        })
    }
}

fn connect(process: &mut Supervised, sockets: &Path, directory: &Path) -> Result<Qmp> {
    let within = crate::patience(Duration::from_secs(30));
    Qmp::connect(&sockets.join("qmp"), Instant::now() + within, || {
        process.ended()
    })
    .with_context(|| {
        let log = fs::read_to_string(directory.join("qemu.log")).unwrap_or_default();
        format!("QEMU did not start: {}", log.trim())
    })
}
