//! Which accelerator really runs a machine here.
//!
//! `/dev/kvm` may open, and even create machines, without ever running a guest
//! (nested clouds, containers). So a tiny machine is started against a
//! deadline: its boot sector ends QEMU with an exit code that only running
//! code can give. Everything else is emulated, where QEMU offers AMD's SVM, so
//! that the booted host has a KVM of its own to run guests with.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use surplus_tools::Tools;

use crate::process::Supervised;

/// How a test machine's CPU is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
}

/// A boot sector's time on real KVM is 0.3 s; a KVM that needs longer than
/// this is of no use.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// `mov al, 0x10; out 0xf4, al; hlt`: QEMU's `isa-debug-exit` turns the byte
/// into exit code `0x10 << 1 | 1`.
const BOOT_SECTOR: [u8; 5] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4];
const RAN: i32 = 0x21;

impl Accel {
    /// Chooses by trying. `SURPLUS_TEST_ACCEL` (`kvm` or `tcg`) overrides, and
    /// spares a run of many tests the probe in each.
    pub fn choose(tools: &Tools, scratch: &Path) -> Result<Self> {
        match std::env::var("SURPLUS_TEST_ACCEL").as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Tcg),
            _ => (),
        }
        let kvm = Path::new("/dev/kvm").exists() && nested() && kvm_runs(tools, scratch)?;
        Ok(if kvm { Self::Kvm } else { Self::Tcg })
    }

    /// The name for `SURPLUS_TEST_ACCEL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's `-accel`. The translation buffer is bounded: left alone, several
    /// machines together grow past a gigabyte each.
    pub fn argument(self, one_of_many: bool) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg if one_of_many => "tcg,thread=multi,tb-size=64",
            Self::Tcg => "tcg,thread=multi,tb-size=256",
        }
    }

    /// QEMU's `-cpu`, able to run KVM inside. Emulated, the processor's own
    /// SHA-256 takes twice as long as a program's.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max,sha-ni=off",
        }
    }

    /// QEMU's `-cpu` for a host that has no virtualisation.
    pub fn cpu_without_virtualisation(self) -> &'static str {
        match self {
            Self::Kvm => "host,vmx=off,svm=off",
            Self::Tcg => "max,sha-ni=off,svm=off",
        }
    }
}

/// Whether this machine's KVM lets a guest run KVM in turn: without it the
/// booted host could sell nothing.
fn nested() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        let setting = fs::read_to_string(format!("/sys/module/{module}/parameters/nested"));
        setting.is_ok_and(|setting| matches!(setting.trim(), "Y" | "1"))
    })
}

fn kvm_runs(tools: &Tools, scratch: &Path) -> Result<bool> {
    let disk = scratch.join("probe.raw");
    let mut sector = [0; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&disk, sector).with_context(|| format!("could not write {}", disk.display()))?;

    let mut qemu = tools.command("qemu-system-x86_64");
    qemu.args([
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "32",
        "-nodefaults",
        "-display",
        "none",
    ])
    .args([
        "-no-reboot",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-drive",
    ])
    .arg(format!("file={},format=raw,if=ide", disk.display()));
    let mut child = Supervised::spawn(&qemu, |command| {
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
    })?;
    let deadline = Instant::now() + PROBE_DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.ended()? {
            return Ok(status.code() == Some(RAN));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(false)
}
