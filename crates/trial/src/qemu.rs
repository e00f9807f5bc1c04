//! A program in QEMU's place: it takes on the confinement that every QEMU comes
//! under (a seat's user, no new privileges, the mandatory profile) and tries to
//! open what it should not, and what it has to be able to.
//!
//! What is not there proves nothing and is not tried. A control group and QEMU's
//! own `/dev` come with a guest only; what they keep from it is kept by user and
//! profile too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{Gid, Group, Uid, setgid, setgroups, setuid};
use surplus_protocol::inventory::SelfCheck;
use surplus_seat::{SEATS, Seat};

const NAME: &str = "qemu-confinement";
const PROFILE: &str = "surplus-guest";
const LABEL: &str = "/proc/self/attr/apparmor/current";

/// What QEMU needs, or nothing else would mean anything.
const NEEDED: [&str; 2] = ["/usr/share/seabios/bios-256k.bin", "/dev/urandom"];

/// What is the host's alone.
const FILES: [&str; 7] = [
    "/etc/shadow",
    "/etc/passwd",
    "/proc/cmdline",
    "/dev/mem",
    "/dev/kmsg",
    "/run/surplus/status.json",
    "/run/surplus/disks.json",
];
const DIRECTORIES: [&str; 3] = [
    "/run/surplus/identity",
    "/run/surplus/deadlines",
    "/var/lib/surplus/ledger",
];
const SOCKETS: [&str; 3] = [
    "/run/libvirt/libvirt-sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/journal/stdout",
];

/// Runs `program`, which has to call [`tries`] and print what it says as JSON.
pub fn check(program: &mut Command) -> SelfCheck {
    let output = program.stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let failed = |why: String| SelfCheck {
        name: NAME.to_owned(),
        attempts: 0,
        failure: Some(why),
    };
    match output {
        Ok(output) if output.status.success() => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| failed(format!("its answer is not understood: {error}"))),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            failed(format!("it ended with {}: {}", output.status, said.trim()))
        }
        Err(error) => failed(format!("nothing could be tried: {error}")),
    }
}

/// Takes on the confinement, for good, and tries everything.
pub fn tries() -> SelfCheck {
    let files = existing(&FILES).chain(keys());
    let files: Vec<_> = files.collect();
    let directories: Vec<_> = existing(&DIRECTORIES).collect();
    let sockets: Vec<_> = existing(&SOCKETS).collect();
    let attempts = files.len() + directories.len() + sockets.len() + 2;
    let failure = match confine() {
        Err(why) => Some(why),
        Ok(()) => found_open(&files, &directories, &sockets),
    };
    SelfCheck {
        name: NAME.to_owned(),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        failure,
    }
}

fn found_open(files: &[PathBuf], directories: &[PathBuf], sockets: &[PathBuf]) -> Option<String> {
    for path in NEEDED {
        if let Err(error) = File::open(path) {
            return Some(format!(
                "{path}, which QEMU needs, cannot be opened: {error}"
            ));
        }
    }
    let mut open: Vec<String> = Vec::new();
    let mut note = |what: &Path, came: bool| open.extend(came.then(|| what.display().to_string()));
    for path in files {
        note(path, File::open(path).is_ok());
    }
    for path in directories {
        note(path, fs::read_dir(path).is_ok());
    }
    for path in sockets {
        note(path, UnixStream::connect(path).is_ok());
    }
    let datagrams = UdpSocket::bind("0.0.0.0:0").is_ok();
    note(Path::new("datagrams to the site"), datagrams);
    let itself = Command::new("/proc/self/exe").arg("--version").output();
    note(Path::new("running a program"), itself.is_ok());
    (!open.is_empty()).then(|| format!("a program in QEMU's place can reach {}", open.join(", ")))
}

fn existing<'a>(paths: &'a [&'a str]) -> impl Iterator<Item = PathBuf> + 'a {
    paths.iter().map(PathBuf::from).filter(|path| path.exists())
}

/// The host's private keys.
fn keys() -> Vec<PathBuf> {
    let entries = fs::read_dir(DIRECTORIES[0]).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// As libvirt starts a guest.
fn confine() -> Result<(), String> {
    let failed = |what: &'static str| move |error: nix::Error| format!("{what}: {error}");
    let seat = Seat::try_from(SEATS).map_err(|error| error.to_string())?;
    let group = Group::from_name("kvm").ok().flatten();
    let group = group.map_or(Gid::from_raw(seat.uid()), |group| group.gid);
    // Opened by the one who may, written to by the one who has to.
    let label = OpenOptions::new().write(true).open(LABEL);
    let mut label = label.map_err(|error| format!("the kernel has no AppArmor: {error}"))?;
    setgroups(&[]).map_err(failed("the groups could not be left"))?;
    setgid(group).map_err(failed("the guests' group could not be taken"))?;
    setuid(Uid::from_raw(seat.uid())).map_err(failed("a guest's user could not be taken"))?;
    set_no_new_privs().map_err(failed("privileges could not be given up"))?;
    let change = format!("changeprofile {PROFILE}");
    label
        .write_all(change.as_bytes())
        .map_err(|error: io::Error| {
            format!("QEMU's profile {PROFILE} could not be taken on: {error}")
        })
}
