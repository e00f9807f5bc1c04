//! Whether guests really run under KVM here.
//!
//! Opening `/dev/kvm`, even creating a virtual machine, proves nothing: there
//! are machines that allow both and then run no kernel. So a tiny guest is
//! started that goes from reset to 64-bit mode, touches memory and answers.
//! Nothing but QEMU itself is needed for it.

use std::io;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use surplus_protocol::inventory::KvmProbe;
use tokio::process::Command;

/// QEMU as Debian installs it.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Long, since a host that is itself emulated takes seconds to start QEMU.
const DEADLINE: Duration = Duration::from_secs(60);

/// Either says that KVM's driver is loaded, or that none fits this machine:
/// its device, or libvirt's socket, since libvirtd.service loads drivers first.
const DRIVERS_LOADED: [&str; 2] = ["/dev/kvm", "/run/libvirt/libvirt-sock"];

/// How long that is waited for; libvirt may be broken.
const DRIVERS: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(200);

/// Size of the firmware image, which ends at 4 GiB.
const FIRMWARE_BYTES: usize = 64 << 10;
/// Where the code begins in it, and the reset vector, 16 bytes below its end.
const CODE_AT: usize = FIRMWARE_BYTES - 0x1000;
const RESET_AT: usize = FIRMWARE_BYTES - 16;
/// A jump from the reset vector to the code.
const RESET: [u8; 3] = [0xe9, 0x0d, 0xf0];

/// What the guest answers when all went well, as QEMU's exit code
/// (isa-debug-exit: the value 0x2a, doubled, plus one).
const GOOD: i32 = (0x2a << 1) | 1;

/// The guest, assembled from `probe/guest.S`.
#[rustfmt::skip]
const GUEST: [u8; 262] = [
    0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x00, 0xf1, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0x66, 0xea, 0x18, 0xf0, 0xff, 0xff, 0x08, 0x00, 0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e,
    0xc0, 0x8e, 0xd0, 0x31, 0xc0, 0xbf, 0x00, 0x10, 0x00, 0x00, 0xb9, 0x00, 0x10, 0x00, 0x00, 0xf3,
    0xab, 0xc7, 0x05, 0x00, 0x10, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00, 0xc7, 0x05, 0x00, 0x20, 0x00,
    0x00, 0x03, 0x30, 0x00, 0x00, 0xc7, 0x05, 0x18, 0x20, 0x00, 0x00, 0x03, 0x40, 0x00, 0x00, 0xc7,
    0x05, 0x00, 0x30, 0x00, 0x00, 0x83, 0x00, 0x00, 0x00, 0xc7, 0x05, 0xf8, 0x4f, 0x00, 0x00, 0x83,
    0x00, 0xe0, 0xff, 0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x10, 0x00,
    0x00, 0x0f, 0x22, 0xd8, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x00, 0x00,
    0x0f, 0x30, 0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x94, 0xf0,
    0xff, 0xff, 0x18, 0x00, 0x48, 0xb8, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0xbf, 0x00,
    0x00, 0x10, 0x00, 0xb9, 0x00, 0x20, 0x00, 0x00, 0xf3, 0x48, 0xab, 0xbe, 0x00, 0x00, 0x10, 0x00,
    0xb9, 0x00, 0x20, 0x00, 0x00, 0x31, 0xdb, 0x48, 0xad, 0x48, 0x01, 0xc3, 0xff, 0xc9, 0x75, 0xf7,
    0x48, 0xb8, 0x00, 0xe0, 0xbd, 0x79, 0x35, 0xf1, 0xac, 0x68, 0xb2, 0x2a, 0x48, 0x39, 0xc3, 0x74,
    0x02, 0xb2, 0x01, 0x89, 0xd0, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x8d, 0xb4, 0x00, 0x00, 0x66, 0x90,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xaf, 0x00,
    0x1f, 0x00, 0xe0, 0xf0, 0xff, 0xff,
];

/// How the probe runs its guest.
#[derive(Clone, Debug)]
pub struct Prober {
    pub qemu: Utf8PathBuf,
    /// `kvm`; tests of the guest itself use `tcg`.
    pub accelerator: String,
    pub deadline: Duration,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            qemu: QEMU.into(),
            accelerator: "kvm".into(),
            deadline: DEADLINE,
        }
    }
}

/// Why the probe's guest did not run.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("the firmware of the test guest could not be written to {path}: {source}")]
    Firmware {
        path: Utf8PathBuf,
        source: io::Error,
    },
    #[error("{qemu} could not be started: {source}")]
    Start {
        qemu: Utf8PathBuf,
        source: io::Error,
    },
    #[error("a test guest was started, but did not run its first instructions within {0} s")]
    Hangs(u64),
    #[error("a test guest did not run ({status}): {message}")]
    Fails { status: String, message: String },
}

/// Runs the probe. `runtime_dir` takes a small file meanwhile. Where KVM does
/// not work, the answer is [`KvmProbe::Emulated`] if the site file allows that
/// and a guest runs under emulation.
pub async fn probe(runtime_dir: &Utf8Path, emulation_allowed: bool) -> KvmProbe {
    let paths = DRIVERS_LOADED.map(Utf8Path::new);
    if tokio::time::timeout(DRIVERS, any_exists(&paths))
        .await
        .is_err()
    {
        tracing::warn!("neither KVM nor libvirt is there yet; KVM is probed all the same");
    }
    probe_with(&Prober::default(), runtime_dir, emulation_allowed).await
}

/// Cancel-safe: it only looks.
async fn any_exists(paths: &[&Utf8Path]) {
    while !paths.iter().any(|path| path.exists()) {
        tokio::time::sleep(GLANCE).await;
    }
}

async fn probe_with(kvm: &Prober, runtime_dir: &Utf8Path, emulation_allowed: bool) -> KvmProbe {
    let error = match kvm.run(runtime_dir).await {
        Ok(millis) => return KvmProbe::Works { millis },
        Err(error) => error,
    };
    if !emulation_allowed {
        let reason = format!(
            "{error}; switch on hardware virtualisation (VT-x, AMD-V or SVM) in the firmware"
        );
        return KvmProbe::Fails { reason };
    }
    let emulation = Prober {
        accelerator: "tcg".into(),
        ..kvm.clone()
    };
    match emulation.run(runtime_dir).await {
        Ok(_) => {
            tracing::warn!(%error, "KVM does not work; guests are emulated, as the site file allows");
            KvmProbe::Emulated
        }
        Err(emulated) => KvmProbe::Fails {
            reason: format!("{error}; under emulation, which the site file allows: {emulated}"),
        },
    }
}

impl Prober {
    /// Milliseconds from QEMU's start to the guest's answer.
    async fn run(&self, runtime_dir: &Utf8Path) -> Result<u64, ProbeError> {
        let path = runtime_dir.join("kvm-probe.bin");
        let written = tokio::fs::write(&path, firmware()).await;
        written.map_err(|source| ProbeError::Firmware {
            path: path.clone(),
            source,
        })?;
        let result = self.guest(&path).await;
        // A file too many in a directory of our own hurts nobody.
        let _ = tokio::fs::remove_file(&path).await;
        result
    }

    async fn guest(&self, firmware: &Utf8Path) -> Result<u64, ProbeError> {
        let cpu = if self.accelerator == "kvm" {
            "host"
        } else {
            "max"
        };
        let started = Instant::now();
        let run = Command::new(&self.qemu)
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-machine",
                "q35",
            ])
            .args(["-accel", &self.accelerator, "-cpu", cpu, "-m", "16"])
            .args(["-display", "none", "-monitor", "none", "-serial", "none"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(["-bios", firmware.as_str()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let Output { status, stderr, .. } = tokio::time::timeout(self.deadline, run)
            .await
            .map_err(|_| ProbeError::Hangs(self.deadline.as_secs()))?
            .map_err(|source| ProbeError::Start {
                qemu: self.qemu.clone(),
                source,
            })?;
        if status.code() == Some(GOOD) {
            return Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        let stderr = String::from_utf8_lossy(&stderr);
        let message = match stderr.trim() {
            "" => "QEMU gave no reason".to_owned(),
            text => text
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(300)
                .collect(),
        };
        Err(ProbeError::Fails {
            status: status.to_string(),
            message,
        })
    }
}

fn firmware() -> Vec<u8> {
    let mut firmware = vec![0; FIRMWARE_BYTES];
    firmware[CODE_AT..CODE_AT + GUEST.len()].copy_from_slice(&GUEST);
    firmware[RESET_AT..RESET_AT + RESET.len()].copy_from_slice(&RESET);
    firmware
}

#[cfg(test)]
mod tests {
    use std::process::Command as Blocking;

    use super::*;

    fn there(program: &str) -> bool {
        let there = Utf8Path::new(program).exists();
        if !there {
            eprintln!("not checked: {program} is not installed");
        }
        there
    }

    #[test]
    fn the_guest_is_what_its_source_says() {
        if !there("/usr/bin/as") || !there("/usr/bin/ld") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guests/probe/guest.S");
        let run = |program: &str, arguments: &[&str]| {
            let done = Blocking::new(program)
                .args(arguments)
                .current_dir(&dir)
                .status()
                .unwrap();
            assert!(done.success(), "{program} failed");
        };
        run("as", &["--64", "-o", "guest.o", source]);
        run(
            "ld",
            &[
                "-Ttext=0xfffff000",
                "--oformat",
                "binary",
                "-o",
                "guest.bin",
                "guest.o",
            ],
        );
        let assembled = std::fs::read(dir.path().join("guest.bin")).unwrap();
        assert_eq!(firmware()[CODE_AT..], assembled);
    }

    #[tokio::test]
    async fn the_guest_runs_and_answers() {
        if !there(QEMU) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let prober = Prober {
            accelerator: "tcg".into(),
            ..Prober::default()
        };
        prober
            .run(Utf8Path::from_path(dir.path()).unwrap())
            .await
            .unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_waits_until_one_of_its_signs_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let (device, socket) = (dir.join("kvm"), dir.join("libvirt-sock"));
        let paths = [device.as_path(), socket.as_path()];
        let wait = tokio::time::timeout(DRIVERS, any_exists(&paths)).await;
        assert!(wait.is_err(), "neither was there");
        std::fs::write(&socket, "").unwrap();
        any_exists(&paths).await;
    }

    #[tokio::test]
    async fn guests_are_emulated_only_where_one_was_seen_to_run_so() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let broken = Prober {
            qemu: "/nonexistent/qemu".into(),
            ..Prober::default()
        };
        let answer = probe_with(&broken, dir, true).await;
        let KvmProbe::Fails { reason } = answer else {
            panic!("{answer:?}");
        };
        assert!(reason.contains("under emulation"), "{reason}");
        if there(QEMU) {
            let without_kvm = Prober {
                accelerator: "none-such".into(),
                ..Prober::default()
            };
            let answer = probe_with(&without_kvm, dir, true).await;
            assert_eq!(answer, KvmProbe::Emulated);
        }
    }

    #[tokio::test]
    async fn a_host_without_a_working_qemu_says_why_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let prober = Prober {
            qemu: "/nonexistent/qemu".into(),
            ..Prober::default()
        };
        let error = prober.run(dir).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/nonexistent/qemu could not be started"),
            "{error}"
        );
        let prober = Prober {
            qemu: "/bin/false".into(),
            ..Prober::default()
        };
        let error = prober.run(dir).await.unwrap_err();
        assert!(matches!(error, ProbeError::Fails { .. }), "{error}");
    }
}
