//! What a lease looks like on its host, and what must be left of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Bill, Lease, Offer, PriceBook};
use surplus_protocol::lease::LeaseState;

use crate::bill;
use crate::client::Client;
use crate::machine::Machine;

const SOON: Duration = Duration::from_secs(60);
/// The probe is a guest of its own, under emulation at worst.
const PROBED: Duration = Duration::from_secs(180);

/// What a buyer asks for.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    pub name: &'a str,
    pub image: &'a str,
    pub memory: &'a str,
    pub disk: &'a str,
    pub window: &'a str,
    /// More of what `surplus rent` takes.
    pub more: &'a [&'a str],
}

impl<'a> Order<'a> {
    /// The small guest, for longer than any test takes.
    pub fn hello(name: &'a str) -> Self {
        Self {
            name,
            image: "hello",
            memory: "192MiB",
            disk: "100MB",
            window: "1h",
            more: &[],
        }
    }

    /// What to type.
    pub fn arguments(&self) -> Vec<&'a str> {
        let asked = [
            "rent",
            "--name",
            self.name,
            "--image",
            self.image,
            "--vcpus",
            "1",
            "--memory",
            self.memory,
            "--disk",
            self.disk,
            "--for",
            self.window,
        ];
        [&asked, self.more].concat()
    }

    /// Rents it.
    pub fn place(&self, buyer: &Client) -> Result<Lease> {
        buyer.ask(&self.arguments())
    }

    /// Rents it, and waits until it runs.
    pub fn start(&self, buyer: &Client) -> Result<Lease> {
        let waiting = ["--wait", "--timeout", "5m"];
        let lease: Lease = buyer.ask(&[&self.arguments()[..], &waiting].concat())?;
        ensure!(lease.state == LeaseState::Active, "{lease:?}");
        Ok(lease)
    }
}

/// Waits until something is for sale: an agent that was started again tries KVM
/// before it offers.
pub fn offered(buyer: &Client) -> Result<()> {
    let some = |offers: Vec<Offer>| (!offers.is_empty()).then_some(());
    buyer.wait_until(&["offers"], "an offer", PROBED, some)
}

/// QEMU's processes on the host, which are its guests.
pub fn qemu(machine: &mut Machine) -> Result<Option<String>> {
    let found = machine.shell()?.attempt("pidof qemu-system-x86_64", SOON)?;
    Ok((found.status == 0).then_some(found.output))
}

/// No process, no disk, no network port and no domain is left.
pub fn guest_is_gone(machine: &mut Machine) -> Result<()> {
    ensure!(
        qemu(machine)?.is_none(),
        "QEMU still runs after the lease's end"
    );
    let left = "ls -A /var/lib/surplus/guests; ls /sys/class/net | grep '^sg'; \
                ls /run/libvirt/qemu/*.xml 2>/dev/null; true";
    let left = machine.shell()?.run(left, SOON)?;
    ensure!(left.is_empty(), "left over: {left}");
    Ok(())
}

/// The bill is closed and right to the unit, for something that was measured
/// and no more than the lease's window. Returns the milliseconds billed.
pub fn bill_is_right(buyer: &Client, lease: &Lease) -> Result<u64> {
    let id = lease.id.to_string();
    let closed = |bill: Bill| bill.closed.then_some(bill);
    let bill = buyer.wait_until(&["bill", &id], "closed bill", SOON, closed)?;
    let book: PriceBook = buyer.ask(&["prices"])?;
    bill::check(&bill, &book, &lease.resources)?;
    let millis: u64 = bill.usage.iter().map(|record| record.running_millis).sum();
    let started = lease.started_at.context("the lease never started")?;
    let ended = lease.ended_at.context("the lease never ended")?;
    let window = ended.duration_since(started).as_millis();
    ensure!(millis > 0, "nothing was measured");
    ensure!(
        i128::from(millis) <= window + 2000,
        "{millis} ms are billed of {window} ms"
    );
    ensure!(bill.total.0 > 0, "a lease of {millis} ms costs nothing");
    Ok(millis)
}
