//! A computer of its own at the other end of the cable, with a second cable to
//! a network behind it; hosts are there.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::namespace::{HOST_SIDE, SERVER_SIDE, ip};

/// The network behind it, the host's interface there, and its own address.
pub(crate) const AFAR: &str = "10.78.0.0/24";
pub(crate) const FAR_SIDE: &str = "far0";
pub(crate) const ADDRESS: &str = "10.78.0.254";

/// Gone with everything in it when it is dropped.
pub(crate) struct Router(Child);

impl Router {
    pub(crate) fn new() -> Self {
        // It is in its namespace once it has said something.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = holder.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut String::new()).unwrap();
        let router = Self(holder);
        let pid = router.0.id();
        for line in [
            format!("link set {HOST_SIDE} netns {pid}"),
            format!("link add {FAR_SIDE} type veth peer name down0 netns {pid}"),
            format!("link set {FAR_SIDE} up"),
            format!("route add {AFAR} via 10.77.0.254 dev {SERVER_SIDE} onlink"),
        ] {
            ip(Command::new("ip"), &line);
        }
        for line in [
            "link set lo up".to_owned(),
            format!("address add 10.77.0.254/24 dev {HOST_SIDE}"),
            format!("address add {ADDRESS}/24 dev down0"),
            format!("link set {HOST_SIDE} up"),
            "link set down0 up".to_owned(),
        ] {
            ip(router.enter(&Command::new("ip")), &line);
        }
        router
    }

    /// The same command, run there.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.0.id().to_string(), "--net", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
