//! A port and a real dnsmasq at the other end of its cable, in a network namespace.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use surplus_tools::Tools;

use super::*;
use crate::net::ipv6;

const INSIDE: &str = "SURPLUS_TEST_INSIDE";
const OURS: &str = "host0";
const THEIRS: &str = "server0";
const WITHIN: Duration = Duration::from_secs(20);

/// Whether the test of this name is to be run now. If not it was, in a namespace.
fn enter(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        for line in [
            format!("link add {OURS} type veth peer name {THEIRS}"),
            format!("link set {OURS} address 52:54:00:01:02:03"),
            format!("address add fd77::1/64 dev {THEIRS} nodad"),
            format!("link set {THEIRS} up"),
            format!("link set {OURS} up"),
        ] {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        }
        return true;
    }
    // Inside there is no way to where the tree comes from.
    tools();
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(if root { "unshare" } else { "bwrap" });
    if root {
        command.args(["--net", "--"]);
    } else {
        command
            .args(["--die-with-parent", "--dev-bind", "/", "/", "--unshare-net"])
            .args(["--unshare-user", "--uid", "0", "--gid", "0"])
            .args(["--cap-add", "ALL", "--"]);
    }
    let status = command
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            &format!("{}::{name}", module_path!().split_once("::").unwrap().1),
        ])
        .env(INSIDE, "yes")
        .status()
        .unwrap();
    assert!(
        status.success(),
        "failed inside the network namespace ({status}); if it could not be made: run as root, \
         or allow unprivileged user namespaces for bubblewrap"
    );
    false
}

fn tools() -> Tools {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Tools::ensure(workspace, &|line| eprintln!("{line}")).unwrap()
}

/// dnsmasq of the tools tree.
struct Server(Child);

impl Server {
    fn start(options: &[&str]) -> Self {
        let mut command = tools().command("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file=",
            ])
            .args([
                "--port=0",
                "--log-dhcp",
                "--log-facility=-",
                "--leasefile-ro",
                "--bind-interfaces",
            ])
            .args([&format!("--interface={THEIRS}"), "--enable-ra"])
            .args(["--dhcp-option=option6:dns-server,[fd77::2]"])
            .args(["--dhcp-userclass=set:ours,surplus-init"])
            .args(["--dhcp-option=tag:ours,option6:59,http://[fd77::1]:8080/root.img"])
            .args(options)
            .stdin(Stdio::null())
            .process_group(0);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // With the sandbox around it, which would end alone.
        let group = i32::try_from(self.0.id()).unwrap();
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Speaks on a port until `done`, or fails with what it waited for.
struct Speaker {
    port: Port,
    urls: Vec<RootUrl>,
}

impl Speaker {
    fn plug_in() -> Self {
        let link = Link {
            name: OURS.into(),
            index: if_nametoindex(OURS).unwrap(),
            mac: [0x52, 0x54, 0, 1, 2, 3],
            up: true,
            linked: true,
        };
        let port = Port::open(link, true).unwrap();
        Self {
            port,
            urls: Vec::new(),
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + WITHIN;
        while !done(self) {
            let now = Instant::now();
            assert!(
                now < end,
                "no {what} within {WITHIN:?}: {self:?}",
                self = self.port
            );
            if own_addresses().iter().any(Ipv6Addr::is_unicast_link_local) {
                self.port.begin_ipv6(true);
            }
            if let Some(six) = &mut self.port.six {
                six.act(now);
                self.urls.extend(six.receive(now));
            }
            let mut sockets: Vec<_> = self.port.sockets().collect();
            let _ = poll(&mut sockets, PollTimeout::from(50_u8));
        }
    }

    fn six(&self) -> &Six {
        self.port.six.as_ref().expect("DHCPv6 has begun")
    }

    fn held(&self) -> Option<&v6::Lease> {
        self.port.six.as_ref()?.held.as_ref()
    }
}

fn own_addresses() -> Vec<Ipv6Addr> {
    let all = ipv6::addresses().into_iter();
    let ours = all.filter(|(name, _)| name == OURS);
    ours.map(|(_, address)| address).collect()
}

fn knows_the_rest(speaker: &Speaker) -> bool {
    let six = speaker.port.six.as_ref();
    let servers: Vec<_> = six.into_iter().flat_map(Six::name_servers).collect();
    let urls: Vec<_> = speaker.urls.iter().map(RootUrl::text).collect();
    servers == ["[fd77::2]:53".parse().unwrap()] && urls.contains(&"http://[fd77::1]:8080/root.img")
}

#[test]
fn an_address_and_the_rest_come_by_stateful_dhcpv6() {
    if !enter("an_address_and_the_rest_come_by_stateful_dhcpv6") {
        return;
    }
    let _server = Server::start(&["--dhcp-range=fd77::100,fd77::1ff,64,10m"]);
    let mut speaker = Speaker::plug_in();
    speaker.until("address", |speaker| speaker.held().is_some());
    let address = speaker.held().unwrap().address;
    assert!(
        (0x100..=0x1ff).contains(&address.segments()[7]),
        "{address}"
    );
    speaker.until("address in use", |_| own_addresses().contains(&address));
    speaker.until("name server and root", knows_the_rest);
    assert!(speaker.six().server_of(address).is_some());

    // Plugged in again, the host is the same one.
    speaker.port.six.as_mut().unwrap().give_up();
    assert!(!own_addresses().contains(&address));
    drop(speaker);
    let mut again = Speaker::plug_in();
    again.until("address", |speaker| speaker.held().is_some());
    assert_eq!(again.held().unwrap().address, address);
}

#[test]
fn the_rest_comes_without_an_address_by_stateless_dhcpv6() {
    if !enter("the_rest_comes_without_an_address_by_stateless_dhcpv6") {
        return;
    }
    let _server = Server::start(&["--dhcp-range=fd77::,ra-stateless"]);
    let mut speaker = Speaker::plug_in();
    speaker.until("name server and root", knows_the_rest);
    assert_eq!(speaker.held(), None);
    // The address is of the host's own making.
    speaker.until("address", |_| {
        own_addresses()
            .iter()
            .any(|own| own.segments()[0] == 0xfd77)
    });
}
