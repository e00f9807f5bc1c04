#![allow(
    unsafe_code,
    reason = "a driver that blocks is loaded by a forked child"
)]
//! Loads kernel modules: some at once, the others when a device asks for them.
//!
//! The initramfs carries `/modules/order` and `/modules/aliases`, written by
//! the image build from `initramfs/modules.list`, which explains each module.
//! What always holds: a module is loaded once, after all that it needs; a
//! network card's only after [`Modules::want_network`].

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::failure::{Context as _, Failure, KERNEL};

mod glob;

/// The buses whose devices ask for modules that we may carry.
const BUSES: [&str; 5] = ["pci", "scsi", "usb", "virtio", "vmbus"];

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel decompresses the module itself.
const COMPRESSED_FILE: u32 = 4;

/// The modules of the initramfs, and which of them are loaded.
#[derive(Debug)]
pub(crate) struct Modules {
    directory: PathBuf,
    order: Vec<Module>,
    aliases: Vec<(String, String)>,
    loaded: BTreeSet<String>,
    network: bool,
}

/// One line of `/modules/order`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    name: String,
    when: When,
    aside: bool,
    before: Vec<String>,
    parameters: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// When a device's alias matches.
    Match,
    /// The same, once the network is wanted.
    Network,
    /// When another module needs it, or this program asks for it by name.
    Need,
}

/// Modules that are being loaded.
#[must_use]
#[derive(Debug)]
pub(crate) struct Pending(Pid);

impl Pending {
    /// Waits until they are loaded; what failed has been announced by then.
    pub(crate) fn wait(self) -> Result<(), Failure> {
        loop {
            match waitpid(self.0, None) {
                Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
                Err(Errno::EINTR) => {}
                outcome => {
                    return Err(Failure::new(
                        "root",
                        format!("loading the modules for the root did not end well ({outcome:?})"),
                        KERNEL,
                    ));
                }
            }
        }
    }
}

impl Modules {
    pub(crate) fn read(directory: &Path) -> Result<Self, Failure> {
        let text = |name: &str| {
            fs::read_to_string(directory.join(name)).failed(
                "root",
                &format!("reading /modules/{name}"),
                KERNEL,
            )
        };
        let damaged = || Failure::new("root", "/modules/order is damaged", KERNEL);
        let order: Option<_> = text("order")?.lines().map(parse_line).collect();
        let aliases = text("aliases")?
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(pattern, module)| (pattern.to_owned(), module.to_owned()))
            .collect();
        Ok(Self {
            directory: directory.to_owned(),
            order: order.ok_or_else(damaged)?,
            aliases,
            loaded: BTreeSet::new(),
            network: false,
        })
    }

    /// Begins to load what every host needs, in a child process: a second
    /// processor does it while this one looks for devices.
    pub(crate) fn load_always(&mut self) -> Result<Pending, Failure> {
        let always = |module: &&Module| module.when == When::Always;
        let always: Vec<_> = self
            .order
            .iter()
            .filter(always)
            .map(|m| m.name.clone())
            .collect();
        // SAFETY: this process has no other thread, so the child may do anything.
        match unsafe { fork() }.failed("root", "starting a child process", KERNEL)? {
            ForkResult::Parent { child } => Ok(Pending(child)),
            ForkResult::Child => {
                for name in always {
                    if let Err((name, errno)) = self.load(&name) {
                        refused(&name, errno).announce();
                        std::process::exit(1);
                    }
                }
                std::process::exit(0)
            }
        }
    }

    /// From now on network cards are devices that ask for modules too.
    pub(crate) fn want_network(&mut self) {
        self.network = true;
    }

    /// Loads one module that only some hosts need, after all that it needs.
    pub(crate) fn load_by_name(&mut self, name: &str) -> Result<(), Failure> {
        self.load(name)
            .map_err(|(name, errno)| refused(&name, errno))
    }

    /// Loads what the devices under `sysfs` ask for, until they ask for nothing
    /// new. A driver that fails is told of, and the rest goes on: its device
    /// need not be the one that we want.
    pub(crate) fn load_for_devices(&mut self, sysfs: &Path) -> Result<(), Failure> {
        loop {
            let wanted = self.wanted(&device_aliases(sysfs));
            if wanted.is_empty() {
                return Ok(());
            }
            for name in wanted {
                if let Err((name, errno)) = self.load(&name) {
                    refused(&name, errno).announce();
                }
            }
        }
    }

    /// Modules that the aliases ask for and that are not loaded, in order.
    fn wanted(&self, devices: &BTreeSet<String>) -> Vec<String> {
        let asked = |module: &&Module| {
            (module.when == When::Match || module.when == When::Network && self.network)
                && !self.loaded.contains(&module.name)
                && self
                    .aliases
                    .iter()
                    .filter(|(_, name)| *name == module.name)
                    .any(|(pattern, _)| devices.iter().any(|device| glob::matches(pattern, device)))
        };
        self.order
            .iter()
            .filter(asked)
            .map(|module| module.name.clone())
            .collect()
    }

    /// Loads a module after all that it needs. What failed is not tried again:
    /// the kernel's answer would be the same.
    fn load(&mut self, name: &str) -> Result<(), (String, Errno)> {
        if !self.loaded.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(module) = self
            .order
            .iter()
            .find(|module| module.name == name)
            .cloned()
        else {
            return Err((name.to_owned(), Errno::ENOENT));
        };
        for needed in &module.before {
            self.load(needed)?;
        }
        let plain = self.directory.join(format!("{name}.ko"));
        let packed = self.directory.join(format!("{name}.ko.xz"));
        let insert = || match insert(&plain, &module.parameters, ModuleInitFlags::empty()) {
            Err(Errno::ENOENT) if packed.exists() => {
                let compressed = ModuleInitFlags::from_bits_retain(COMPRESSED_FILE);
                insert(&packed, &module.parameters, compressed)
            }
            outcome => outcome,
        };
        let done = if module.aside {
            aside(name, insert)
        } else {
            insert()
        };
        done.map_err(|errno| (name.to_owned(), errno))
    }
}

fn refused(name: &str, errno: Errno) -> Failure {
    Failure::new(
        "root",
        format!("loading the kernel module {name}: {errno}"),
        KERNEL,
    )
}

fn insert(file: &Path, parameters: &str, flags: ModuleInitFlags) -> Result<(), Errno> {
    let parameters = CString::new(parameters).map_err(|_| Errno::EINVAL)?;
    let file = File::open(file)
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    match finit_module(&file, &parameters, flags) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

/// Does it in a child process, which is not waited for. Not in a thread: the
/// switch to systemd would have to wait until the driver lets the thread go.
fn aside(name: &str, insert: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    // SAFETY: this process has no other thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            // ENODEV: the driver looked and found nothing that it serves.
            if let Err(errno) = insert()
                && errno != Errno::ENODEV
            {
                refused(name, errno).announce();
            }
            std::process::exit(0)
        }
    }
}

/// What the devices that are there call themselves.
fn device_aliases(sysfs: &Path) -> BTreeSet<String> {
    let of_buses = BUSES
        .iter()
        .flat_map(|bus| {
            fs::read_dir(sysfs.join("bus").join(bus).join("devices"))
                .into_iter()
                .flatten()
        })
        .flatten()
        .map(|device| device.path().join("modalias"));
    let of_cpu = sysfs.join("devices/system/cpu/modalias");
    of_buses
        .chain([of_cpu])
        .filter_map(|file| fs::read_to_string(file).ok())
        .map(|alias| alias.trim().to_owned())
        .collect()
}

fn parse_line(line: &str) -> Option<Module> {
    let mut words = line.split(' ');
    let name = words.next()?.to_owned();
    let when = match words.next()? {
        "always" => When::Always,
        "match" => When::Match,
        "network" => When::Network,
        "need" => When::Need,
        _ => return None,
    };
    let aside = match words.next()? {
        "here" => false,
        "aside" => true,
        _ => return None,
    };
    let mut list = || {
        let word = words.next()?;
        Some(
            word.split(',')
                .filter(|word| *word != "-")
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    Some(Module {
        name,
        when,
        aside,
        before: list()?,
        parameters: list()?.join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(order: &str, aliases: &str) -> Modules {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("order"), order).unwrap();
        fs::write(dir.path().join("aliases"), aliases).unwrap();
        Modules::read(dir.path()).unwrap()
    }

    #[test]
    fn a_line_of_the_packer_is_understood() {
        assert_eq!(
            parse_line("usb_storage match aside scsi_mod,usbcore delay_use=0,quirks=x").unwrap(),
            Module {
                name: "usb_storage".into(),
                when: When::Match,
                aside: true,
                before: vec!["scsi_mod".into(), "usbcore".into()],
                parameters: "delay_use=0 quirks=x".into(),
            }
        );
        assert!(parse_line("usb_storage match here -").is_none());
        assert!(parse_line("usb_storage perhaps here - -").is_none());
    }

    #[test]
    fn devices_ask_for_what_serves_them_and_for_nothing_else() {
        let modules = modules(
            "scsi need here - -\nahci match aside scsi -\nmegaraid match aside scsi -\n\
             sr_mod match here scsi -\ndm_mod always here - -\n",
            "pci:v*d*sv*sd*bc01sc06i01* ahci\npci:v00001000d* megaraid\nscsi:t-0x05* sr_mod\n",
        );
        let devices = [
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
            "pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00",
            "scsi:t-0x05",
        ];
        let devices = devices.map(str::to_owned).into();
        assert_eq!(modules.wanted(&devices), ["ahci", "sr_mod"]);
    }

    #[test]
    fn network_cards_wait_until_the_network_is_wanted() {
        let mut modules = modules(
            "virtio_net network aside - -\nvirtio_blk match here - -\n",
            "virtio:d00000001v* virtio_net\nvirtio:d00000002v* virtio_blk\n",
        );
        let devices = ["virtio:d00000001v00001AF4", "virtio:d00000002v00001AF4"];
        let devices = devices.map(str::to_owned).into();
        assert_eq!(modules.wanted(&devices), ["virtio_blk"]);
        modules.want_network();
        assert_eq!(modules.wanted(&devices), ["virtio_net", "virtio_blk"]);
    }

    #[test]
    fn what_was_tried_is_not_wanted_again() {
        let mut modules = modules("sr_mod match here - -\n", "scsi:t-0x05* sr_mod\n");
        let devices = ["scsi:t-0x05".to_owned()].into();
        // There is no such file: loading fails, here as on a broken medium.
        assert_eq!(
            modules.load("sr_mod"),
            Err(("sr_mod".into(), Errno::ENOENT))
        );
        assert!(modules.wanted(&devices).is_empty());
    }

    #[test]
    fn aliases_of_devices_come_from_their_buses() {
        let sysfs = tempfile::tempdir().unwrap();
        let device = sysfs.path().join("bus/pci/devices/0000:00:1f.2");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "pci:v1\n").unwrap();
        assert_eq!(device_aliases(sysfs.path()), ["pci:v1".to_owned()].into());
    }
}
