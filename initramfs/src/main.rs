//! `/init` of the appliance: from a running kernel to a verified root.
//!
//! ```text
//! mounts → modules → medium (or the network, or root in the initramfs)
//!        → dm-verity → watcher → SquashFS → /run/surplus → switch to systemd
//! ```
//!
//! What always holds: nothing of the root is used before the kernel verifies
//! it against the hash that came with this program, and from that moment on a
//! watcher looks after every bad block. Each failure puts a line with its cause
//! and the next step on every console; where waiting can help we wait, else the
//! host is powered off. Nothing here ever hands over to a root that it does
//! not know.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use surplus_stage::Stage;

use crate::conf::RootConf;
use crate::failure::{Context as _, Failure};
use crate::modules::Modules;
use crate::source::Source;

mod conf;
mod dm;
mod failure;
mod handover;
mod loopdev;
mod medium;
mod modules;
mod mounts;
mod net;
mod source;
mod switch;
mod uevent;
mod verity;
mod watcher;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.first().is_some_and(|name| name == watcher::NAME) {
        return watcher::run(&arguments[1..]);
    }
    if arguments.first().is_some_and(|name| name == net::NAME) {
        failure::announce_panics();
        return net::run();
    }
    if std::process::id() != 1 {
        eprintln!(
            "surplus-init: this is the first program of a booting host; it runs as process 1 only"
        );
        return ExitCode::FAILURE;
    }
    failure::announce_panics();
    let Err(failure) = boot(&arguments);
    failure.announce();
    failure::power_off()
}

/// All stages in their order; returns only if one failed for good.
fn boot(arguments: &[String]) -> Result<std::convert::Infallible, Failure> {
    mounts::mount_kernel_filesystems()?;
    let conf = RootConf::read(Path::new("/root.conf"))?;
    let command_line = conf::command_line()?;
    conf.agrees_with(&command_line)?;

    // Opened before the first module, so that no device can appear unseen.
    let uevents =
        uevent::open().failed("root", "opening the kernel's event socket", failure::KERNEL)?;
    let mut modules = Modules::read(Path::new("/modules"))?;
    let for_root = modules.load_always()?;

    let source = source::find(&conf, &command_line, &mut modules, &uevents)?;
    for_root.wait()?;
    let root = verity::set_up(&source, &conf)?;
    // From here on the watcher reads the events; this process needs none.
    start_watcher(uevents, &root, &source)?;
    mount_root(&root)?;
    handover::write(&conf, &source)?;
    Stage::new("root")
        .with("device", &root.name)
        .with("verity", format!("sha256:{}", conf.hash))
        .announce();
    switch::switch(Path::new(mounts::ROOT), arguments)
}

fn start_watcher(uevents: OwnedFd, root: &dm::Device, source: &Source) -> Result<(), Failure> {
    watcher::start(uevents, &root.kernel_name(), source.device()).failed(
        "root",
        "starting the watcher over the root",
        failure::KERNEL,
    )
}

fn mount_root(root: &dm::Device) -> Result<(), Failure> {
    let mounted = mounts::mount_root(&root.node());
    if mounted.is_err() && verity::is_corrupted() {
        // The watcher knows which block, and has the word.
        watcher::leave_it_the_word();
    }
    mounted
}
