//! A network of the test's own: the test runs again in a network namespace with
//! one cable in it. The kernel removes all of it when that process ends.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

/// Named as in the settings that operators get, which Kea checks.
pub(crate) const SERVER_SIDE: &str = "eth0";
pub(crate) const HOST_SIDE: &str = "host0";
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const INSIDE: &str = "SURPLUS_TEST_INSIDE";

/// Whether the test `name` is to be run now. If not it was, inside.
pub(crate) fn enter(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        lay_the_cable();
        return true;
    }
    // Root gets a bare namespace; anybody else needs one for users around it.
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if root {
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]);
        command
    } else {
        let mut command = Command::new("bwrap");
        command
            .args(["--die-with-parent", "--dev-bind", "/", "/", "--unshare-net"])
            .args(["--unshare-user", "--uid", "0", "--gid", "0"])
            .args(["--cap-add", "ALL", "--"]);
        command
    };
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "yes")
        .status()
        .unwrap_or_else(|error| panic!("cannot make a network namespace: {error}"));
    assert!(
        status.success(),
        "failed inside the network namespace ({status}); if it could not be made: run as root, \
         or allow unprivileged user namespaces for bubblewrap"
    );
    false
}

fn lay_the_cable() {
    for line in [
        format!("link add {SERVER_SIDE} type veth peer name {HOST_SIDE}"),
        format!("address add {SERVER}/24 dev {SERVER_SIDE}"),
        "link set lo up".to_owned(),
        format!("link set {SERVER_SIDE} up"),
        format!("link set {HOST_SIDE} up"),
    ] {
        ip(Command::new("ip"), &line);
    }
    // Both ends are on one machine, which would not believe its own address on
    // the other one.
    for (name, value) in [("accept_local", "1"), ("rp_filter", "0")] {
        for interface in ["all", SERVER_SIDE, HOST_SIDE] {
            let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
}

/// Runs `ip` with the words of a line.
pub(crate) fn ip(mut ip: Command, line: &str) {
    let status = ip.args(line.split(' ')).status();
    let status = status
        .unwrap_or_else(|error| panic!("cannot run ip: {error}; next: apt-get install iproute2"));
    assert!(status.success(), "ip {line}");
}
