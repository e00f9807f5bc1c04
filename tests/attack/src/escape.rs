//! A program in QEMU's place: what somebody could do who broke out of a guest.
//!
//! It takes on the confinement of a QEMU that runs (control group, mount name
//! space, user, no new privileges, AppArmor's profile), then tries what it
//! should not be able to do, and says what it could. QEMU's seccomp filters end
//! who tries some of what they forbid, so that those attempts are made one by one
//! ([`forbidden`]); what they stop must be stopped by the rest, too.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::ptrace;
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{Gid, Pid, Uid, setgid, setgroups, setuid};

use crate::kernel::{self as running, unsigned_module};
use crate::seccomp::Filters;

/// A part of QEMU's confinement, which can be left out to see that it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The control group: its limits, and what devices it may use.
    Group,
    /// The mount name space with its own `/dev`.
    Namespace,
    /// The seat's user, without rights.
    User,
    /// The mandatory profile.
    Profile,
    /// The filters of system calls.
    Seccomp,
}

impl FromStr for Guard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            "namespace" => Ok(Self::Namespace),
            "user" => Ok(Self::User),
            "profile" => Ok(Self::Profile),
            "seccomp" => Ok(Self::Seccomp),
            _ => Err(format!("{text} is no guard")),
        }
    }
}

/// Whom it has to do with.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The QEMU that it is like, and another tenant's.
    pub like: i32,
    pub neighbour: i32,
    pub agent: i32,
    /// The host's disk.
    pub disk: PathBuf,
}

/// What `/proc` says of a process.
struct Process(PathBuf);

impl Process {
    fn of(pid: i32) -> Self {
        Self(Path::new("/proc").join(pid.to_string()))
    }

    fn text(&self, name: &str) -> Result<String> {
        let path = self.0.join(name);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("could not read {}", path.display()))?;
        Ok(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// The first number in a line of `status`.
    fn number(&self, key: &str) -> Result<u32> {
        let status = self.text("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let word = line.and_then(|line| line.split_whitespace().next());
        let word = word.with_context(|| format!("no {key} in {}", self.0.display()))?;
        Ok(word.parse()?)
    }

    /// The directory of files that the guest is made of.
    fn directory(&self) -> Result<PathBuf> {
        let line = self.text("cmdline")?;
        let words = line.split(['\0', ',', '"']);
        let path = words.map(Path::new).find(|path| {
            path.starts_with("/var/lib/surplus/guests") && path.ends_with("disk.qcow2")
        });
        let directory = path.and_then(Path::parent);
        Ok(directory.context("a QEMU without a disk")?.to_owned())
    }
}

/// Takes on what holds the QEMU `pid`, save for what is left out and its seccomp
/// filters.
fn confine(pid: i32, without: &[Guard]) -> Result<()> {
    let with = |guard| !without.contains(&guard);
    let qemu = Process::of(pid);
    let (uid, gid) = (qemu.number("Uid:")?, qemu.number("Gid:")?);
    let profile = qemu.text("attr/apparmor/current")?;
    let profile = profile.split(' ').next().unwrap_or_default().to_owned();
    let group = qemu.text("cgroup")?;
    let group = group.strip_prefix("0::/").context("not one hierarchy")?;
    let mounts = File::open(qemu.0.join("ns/mnt"))?;
    // Opened by the one who may, written to by the one who has to.
    let mut label = OpenOptions::new()
        .write(true)
        .open("/proc/self/attr/apparmor/current")?;
    if with(Guard::Group) {
        let procs = Path::new("/sys/fs/cgroup").join(group).join("cgroup.procs");
        let me = std::process::id().to_string();
        fs::write(&procs, me).with_context(|| format!("could not join {}", procs.display()))?;
    }
    if with(Guard::Namespace) {
        setns(mounts, CloneFlags::CLONE_NEWNS)?;
    }
    if with(Guard::User) {
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    set_no_new_privs()?;
    if with(Guard::Profile) {
        if profile == "unconfined" {
            bail!("QEMU {pid} has no profile");
        }
        let change = format!("changeprofile {profile}");
        label.write_all(change.as_bytes()).context("no profile")?;
    }
    Ok(())
}

/// How an attempt ended.
pub(crate) struct Attempt {
    name: &'static str,
    outcome: Result<(), String>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(()) => write!(f, "came through: {}", self.name),
            Err(error) => write!(f, "stopped: {}: {error}", self.name),
        }
    }
}

pub(crate) fn attempt<T, E: fmt::Display>(name: &'static str, outcome: Result<T, E>) -> Attempt {
    let outcome = outcome.map(drop).map_err(|error| error.to_string());
    Attempt { name, outcome }
}

fn write(path: impl AsRef<Path>) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Says what somebody in QEMU's place can do.
pub fn tries(cast: &Cast, without: &[Guard]) -> Result<String> {
    let mine = Process::of(cast.like).directory()?;
    let others = Process::of(cast.neighbour).directory()?;
    let image = fs::read_dir("/var/lib/surplus/images")?
        .next()
        .context("no image in the cache")??
        .path();
    let key = key()?;
    let module = unsigned_module()?;
    confine(cast.like, without)?;

    let mut said = String::new();
    for attempt in allowed(&mine, &image)
        .into_iter()
        .chain(files(cast, &others, &image, &key))
        .chain(processes(cast))
        .chain(kernel())
        .chain(running::attempts(&module))
    {
        said += &format!("{attempt}\n");
    }
    Ok(said)
}

/// What QEMU never has to ask of the kernel.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Forbidden {
    /// Another process, and another program in it
    Spawn,
    /// More rights
    Elevate,
    /// A call of former times
    Obsolete,
}

/// Tries it under QEMU's filters of system calls as well, which may end it.
pub fn forbidden(pid: i32, without: &[Guard], what: Forbidden) -> Result<String> {
    let filters = Filters::of(Pid::from_raw(pid)).context("could not read QEMU's filters")?;
    if filters.len() == 0 {
        bail!("QEMU {pid} has no seccomp filter");
    }
    confine(pid, without)?;
    if !without.contains(&Guard::Seccomp) {
        filters.take_on().context("no seccomp filter")?;
    }
    let tried = match what {
        Forbidden::Spawn => attempt("running itself", itself()),
        Forbidden::Elevate => attempt("another user", setuid(Uid::from_raw(0))),
        Forbidden::Obsolete => attempt("mounting", mounted()),
    };
    Ok(format!("{tried}\n"))
}

/// The agent's private key, or what lies beside it.
fn key() -> Result<PathBuf> {
    let directory = "/run/surplus/identity";
    let entry = fs::read_dir(directory)?.next();
    let entry = entry.with_context(|| format!("nothing in {directory}"))??;
    Ok(entry.path())
}

/// What it must be able to do, or nothing else would mean anything.
fn allowed(mine: &Path, image: &Path) -> Vec<Attempt> {
    vec![
        attempt("own disk", write(mine.join("disk.qcow2"))),
        attempt("base image", File::open(image)),
    ]
}

fn files(cast: &Cast, others: &Path, image: &Path, key: &Path) -> Vec<Attempt> {
    let agent = Process::of(cast.agent).0;
    let neighbour = Process::of(cast.neighbour).0;
    vec![
        attempt("another's disk", File::open(others.join("disk.qcow2"))),
        attempt("another's seed", File::open(others.join("seed.img"))),
        attempt("another's console", File::open(others.join("console.log"))),
        attempt("list of guests", fs::read_dir("/var/lib/surplus/guests")),
        attempt("list of images", fs::read_dir("/var/lib/surplus/images")),
        attempt("write to the base image", write(image)),
        attempt(
            "new file beside the images",
            File::create("/var/lib/surplus/images/new"),
        ),
        attempt("the agent's key", File::open(key)),
        attempt(
            "the agent's ledger",
            fs::read_dir("/var/lib/surplus/ledger"),
        ),
        attempt(
            "the agent's deadlines",
            fs::read_dir("/run/surplus/deadlines"),
        ),
        attempt("the agent's status", File::open("/run/surplus/status.json")),
        attempt("the host's passwords", File::open("/etc/shadow")),
        attempt("the host's users", File::open("/etc/passwd")),
        attempt("the command line", File::open("/proc/cmdline")),
        attempt("the agent's memory", File::open(agent.join("mem"))),
        attempt("the agent's environment", fs::read(agent.join("environ"))),
        attempt("the agent's command line", fs::read(agent.join("cmdline"))),
        attempt(
            "another's command line",
            fs::read(neighbour.join("cmdline")),
        ),
        attempt("another's memory map", fs::read(neighbour.join("maps"))),
        attempt(
            "file in shared memory",
            File::create("/dev/shm/surplus-attack"),
        ),
        attempt("file in /tmp", File::create("/tmp/surplus-attack")),
        attempt("file in /run", File::create("/run/surplus-attack")),
        attempt("the host's disk", File::open(&cast.disk)),
    ]
}

fn processes(cast: &Cast) -> Vec<Attempt> {
    let (agent, neighbour) = (Pid::from_raw(cast.agent), Pid::from_raw(cast.neighbour));
    let connect = |path: &str| UnixStream::connect(path);
    vec![
        attempt("libvirt", connect("/run/libvirt/libvirt-sock")),
        attempt("the message bus", connect("/run/dbus/system_bus_socket")),
        attempt("the journal", connect("/run/systemd/journal/stdout")),
        attempt("datagrams to the site", UdpSocket::bind("0.0.0.0:0")),
        attempt("a port on the host", TcpListener::bind("0.0.0.0:0")),
        attempt(
            "raw frames",
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::empty(),
                None,
            ),
        ),
        attempt(
            "netlink",
            socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::empty(),
                None,
            ),
        ),
        attempt("signals to the agent", kill(agent, None)),
        attempt("signals to another's QEMU", kill(neighbour, None)),
        attempt("tracing another's QEMU", traced(neighbour)),
        attempt(
            "running a program",
            Command::new("/usr/bin/qemu-img").output(),
        ),
        attempt("running itself", itself()),
    ]
}

/// Ends the trace again: what it is done to has to go on.
fn traced(pid: Pid) -> nix::Result<()> {
    ptrace::seize(pid, ptrace::Options::empty())
}

fn itself() -> std::io::Result<()> {
    Command::new("/proc/self/exe")
        .arg("--version")
        .output()
        .map(drop)
}

fn mounted() -> nix::Result<()> {
    let (what, options) = (Some("none"), None::<&str>);
    mount(what, "/var/tmp", Some("tmpfs"), MsFlags::empty(), options)
}

fn kernel() -> Vec<Attempt> {
    vec![
        attempt("/dev/kmsg", File::open("/dev/kmsg")),
        attempt("/proc/kcore", File::open("/proc/kcore")),
        attempt("/proc/sysrq-trigger", write("/proc/sysrq-trigger")),
        attempt(
            "the kernel's settings",
            write("/proc/sys/kernel/core_pattern"),
        ),
        attempt("control groups", write("/sys/fs/cgroup/cgroup.procs")),
        attempt(
            "the kernel's rules for QEMU",
            write("/sys/kernel/security/apparmor/.remove"),
        ),
        attempt("mounting", mounted()),
        attempt("a user name space", unshare(CloneFlags::CLONE_NEWUSER)),
    ]
}

/// Starts threads until it cannot; how many there were. At most `most`.
pub fn threads(pid: i32, without: &[Guard], most: usize) -> Result<usize> {
    confine(pid, without)?;
    let (_keep, end) = std::sync::mpsc::channel::<()>();
    let end = std::sync::Arc::new(std::sync::Mutex::new(end));
    for count in 0..most {
        let end = std::sync::Arc::clone(&end);
        let started = std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || {
                // Until the program ends.
                let _ = end.lock().map(|end| end.recv());
            });
        if started.is_err() {
            return Ok(count);
        }
    }
    Ok(most)
}

/// Takes memory, all of which it uses, until it is ended or has `most` bytes.
pub fn memory(pid: i32, without: &[Guard], most: usize) -> Result<usize> {
    const PIECE: usize = 16 << 20;
    confine(pid, without)?;
    let mut pieces = Vec::new();
    while pieces.len() * PIECE < most {
        pieces.push(vec![0xa5_u8; PIECE]);
    }
    Ok(pieces.len() * PIECE)
}
