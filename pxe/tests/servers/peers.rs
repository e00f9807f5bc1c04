//! Other people's DHCP servers with our settings, run until they are dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use surplus_tools::Tools;

use crate::namespace::{SERVER, SERVER_SIDE};
use crate::router::{self, Router};

/// A server, its settings and its log.
pub(crate) struct Peer {
    child: Child,
    dir: tempfile::TempDir,
}

impl Peer {
    fn start(mut command: Command, dir: tempfile::TempDir, missing: &str) -> Self {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect(missing);
        Self { child, dir }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}

fn settings(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The settings with the values of this network in the places that operators
/// are told to fill.
fn filled(name: &str, more: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(settings(name)).unwrap();
    let server = SERVER.to_string();
    let places = [
        ("192.0.2.254", "10.77.0.254"),
        ("192.0.2.100", "10.77.0.100"),
        ("192.0.2.200", "10.77.0.200"),
        ("192.0.2.0/24", "10.77.0.0/24"),
        ("192.0.2.1", &server),
    ];
    for (from, to) in places.iter().chain(more) {
        text = text.replace(from, to);
    }
    assert!(!text.contains("192.0.2."), "{text}");
    text
}

/// dnsmasq of the tools tree; the directory lies where the tree can see it.
fn run_dnsmasq(options: &[&str]) -> Command {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tools = Tools::ensure(workspace, &|line| eprintln!("{line}")).unwrap();
    let mut command = tools.command("dnsmasq");
    command.args(options).stdin(Stdio::null());
    command
}

fn start_dnsmasq(text: &str) -> Peer {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let file = dir.path().join("dnsmasq.conf");
    fs::write(&file, text).unwrap();
    let file = format!("--conf-file={}", file.display());
    let leases = format!("--dhcp-leasefile={}", dir.path().join("leases").display());
    let options = [
        "--keep-in-foreground",
        "--user=root",
        "--pid-file=",
        // It would wait for an answer to a ping before each offer.
        "--no-ping",
        "--log-facility=-",
        file.as_str(),
        leases.as_str(),
    ];
    Peer::start(run_dnsmasq(&options), dir, "cannot run dnsmasq")
}

pub(crate) fn dnsmasq_takes_the_settings_as_they_are() {
    let file = format!("--conf-file={}", settings("dnsmasq.conf").display());
    let status = run_dnsmasq(&["--test", &file]).status().unwrap();
    assert!(status.success(), "dnsmasq --test: {status}");
}

pub(crate) fn dnsmasq() -> Peer {
    start_dnsmasq(&filled("dnsmasq.conf", &[]))
}

/// One that knows nothing of booting, as it is found in the field.
pub(crate) fn plain_dnsmasq() -> Peer {
    start_dnsmasq(&format!(
        "interface={SERVER_SIDE}\nbind-interfaces\nport=0\n\
         dhcp-range=10.77.0.100,10.77.0.200,255.255.255.0,1h\n"
    ))
}

/// One that forwards to the server, as routers do.
pub(crate) fn dnsmasq_as_relay(router: &Router) -> Peer {
    let relay = format!("--dhcp-relay={},{SERVER}", router::ADDRESS);
    let options = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
        "--port=0",
        "--log-dhcp",
        "--log-facility=-",
        relay.as_str(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let command = router.enter(&run_dnsmasq(&options));
    Peer::start(command, dir, "cannot run dnsmasq")
}

fn run_kea(dir: &Path, option: &str, file: &Path) -> Command {
    let mut command = Command::new("kea-dhcp4");
    command
        .arg(option)
        .arg(file)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("KEA_LOCKFILE_DIR", dir)
        .env("KEA_PIDFILE_DIR", dir)
        .stdin(Stdio::null());
    command
}

const NO_KEA: &str = "cannot run kea-dhcp4; next: apt-get install kea-dhcp4-server";

pub(crate) fn kea_takes_the_settings_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = settings("kea-dhcp4.conf");
    let status = run_kea(dir.path(), "-t", &file).status().expect(NO_KEA);
    assert!(status.success(), "kea-dhcp4 -t: {status}");
}

pub(crate) fn kea() -> Peer {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kea-dhcp4.conf");
    let in_memory = ("\"memfile\"", "\"memfile\", \"persist\": false");
    fs::write(&file, filled("kea-dhcp4.conf", &[in_memory])).unwrap();
    let command = run_kea(dir.path(), "-c", &file);
    Peer::start(command, dir, NO_KEA)
}
