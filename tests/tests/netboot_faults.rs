//! What goes wrong on the way over the network, and what a booting host makes
//! of it: it says what, goes on wherever that can help, and never runs on a
//! root or a site that is not its own.
//!
//! Where the fault meets the initramfs or the agent, QEMU puts kernel and
//! initramfs into memory itself: what comes after is the same, and the
//! firmware's half a minute is spared. The link's drop is seen through the
//! firmware's own way.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use surplus_tests::netboot::{copy_of_artefacts, kernel, plain_http};
use surplus_tests::network::dhcp::{Dhcp, Family, NAME};
use surplus_tests::network::{ipv4, ipv6};
use surplus_tests::{
    BootServer, Firmware, Lab, Machine, Marketplace, Network, Nic, Plug, StageLine, is_full,
};

const ENROLLED: Duration = Duration::from_secs(180);
/// From the kernel to the root, without a fault.
const ROOT: Duration = Duration::from_secs(90);
/// Longer than any pause between two attempts.
const RETRY: Duration = Duration::from_secs(60);

/// Enough of a download to be in the midst of it.
const SOME: u64 = 6_000_000;

/// What every fault meets: a network with plain DHCP.
fn lab_network<'a>(lab: &'a Lab) -> Result<(Network<'a>, Dhcp<'a>)> {
    let network = Network::new(lab)?;
    let dhcp = Dhcp::start(&network)?;
    Ok((network, dhcp))
}

fn site(marketplace: &Marketplace) -> Result<String> {
    let token = marketplace.token("faults", 1)?;
    marketplace.site_file(&token)
}

/// A site file of a marketplace that does not exist, for boots that end at
/// the root.
fn site_for_nobody() -> String {
    format!(
        "version = 1\n\n[marketplace]\nurl = \"https://{}:9\"\nca_sha256 = \"sha256:{}\"\n",
        ipv4(250),
        "5a".repeat(32)
    )
}

/// The first failure whose line contains one of `words`, with an advice.
fn complains(machine: &mut Machine, words: &[&str], within: Duration) -> Result<StageLine> {
    let what = format!("a failure with one of {words:?}");
    let stage = machine.wait_until(&what, within, |line| {
        let stage = StageLine::parse(line)?;
        let error = stage.error()?.to_lowercase();
        let said = words.iter().any(|word| error.contains(word));
        said.then_some(stage)
    })?;
    let next = stage.field("next").unwrap_or_default();
    ensure!(!next.is_empty(), "no advice in {stage:?}");
    Ok(stage)
}

/// The URL that all of the root has come from.
fn fetched_from(machine: &mut Machine, within: Duration) -> Result<String> {
    machine.wait_until("the root fetched", within, |line| {
        let stage = StageLine::parse(line).filter(|stage| stage.name == "medium")?;
        stage.field("seconds")?;
        stage.field("url").map(str::to_owned)
    })
}

/// A machine past its firmware, on a port of its own.
fn past_firmware(
    network: &Network<'_>,
    kernel: surplus_tests::Kernel,
    memory_mib: u32,
) -> Result<Machine> {
    let switch = network.switch();
    let machine = switch.lab().machine("host").memory_mib(memory_mib);
    let machine = machine.plugged(switch, [network.port()?]).kernel(kernel);
    machine.without_virtualisation().start()
}

/// UEFI's own PXE; the cable is out for a while in the midst of iPXE's
/// download, and again in the midst of ours.
#[test]
fn a_link_that_drops_in_mid_download_is_waited_for() -> Result<()> {
    surplus_tests::test("netboot-link", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let marketplace = Marketplace::start_in(network.switch())?;
        let _server = BootServer::start(network.switch(), &site(&marketplace)?)?;
        let port = network.port()?;
        let mut machine = lab
            .machine("host")
            .firmware(Firmware::Uefi)
            .memory_mib(512)
            .without_virtualisation()
            .plugged(network.switch(), [port.clone()])
            .start()?;
        machine.allow_errors();
        drop_the_link(&network, &port, &mut machine, 0)?;
        machine.wait_for_stage("network", ENROLLED)?;
        let before = network.bytes_to(&port)?;
        drop_the_link(&network, &port, &mut machine, before)?;
        fetched_from(&mut machine, RETRY)?;
        machine.wait_for_stage("enrolled", ENROLLED)?;
        Ok(())
    })
}

/// Pulls the cable once `SOME` bytes have gone through it, for five seconds.
fn drop_the_link(
    network: &Network<'_>,
    port: &surplus_tests::network::Port,
    machine: &mut Machine,
    since: u64,
) -> Result<()> {
    network.wait_for_bytes(port, since, SOME, ROOT)?;
    machine.set_link(false)?;
    nothing_for(machine, Duration::from_secs(5))?;
    machine.set_link(true)
}

/// Lets the machine be for so long, and sees to it that it runs on.
fn nothing_for(machine: &mut Machine, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        ensure!(machine.running()?, "the host gave up");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

/// The first port is dead, the server goes away in the midst of the root and
/// comes back: the download goes on where it was.
#[test]
fn a_server_that_restarts_in_mid_download_and_a_dead_port_cost_little() -> Result<()> {
    surplus_tests::test("netboot-restart", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let switch = network.switch();
        let marketplace = Marketplace::start_in(switch)?;
        let mut server = BootServer::start(switch, &site(&marketplace)?)?;
        let dead = Nic::Plugged(Plug {
            port: network.port()?,
            rom: false,
            link: false,
        });
        let good = network.port()?;
        let mut machine = lab
            .machine("host")
            .memory_mib(512)
            .without_virtualisation()
            .plugged(switch, [dead, good.clone().into()])
            .kernel(server.kernel()?)
            .start()?;
        machine.allow_errors();
        let lease = machine.wait_for_stage("network", ROOT)?;
        ensure!(
            lease.elapsed < 15.0,
            "the dead port cost time: an address after {} s",
            lease.elapsed
        );
        network.wait_for_bytes(&good, 0, SOME, ROOT)?;
        server.stop();
        let sent = network.bytes_to(&good)?;
        nothing_for(&mut machine, Duration::from_secs(3))?;
        server.resume()?;
        fetched_from(&mut machine, RETRY)?;
        let after = network.bytes_to(&good)? - sent;
        let root = fs::metadata(lab.artefact("root.img")?)?.len();
        ensure!(
            after < root - SOME / 2,
            "the download began anew: {after} bytes of {root} after the restart"
        );
        machine.wait_for_stage("enrolled", ENROLLED)?;
        Ok(())
    })
}

/// One server, whose root is cut short, then whole with a flipped bit, then
/// right: the host says what is wrong each time and takes only the last.
#[test]
fn a_truncated_root_and_a_flipped_bit_are_named_and_fetched_again() -> Result<()> {
    surplus_tests::test("netboot-damage", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let artefacts = copy_of_artefacts(lab, "damaged")?;
        let switch = network.switch();
        let server = BootServer::start_with(switch, "damaged", &site_for_nobody(), &artefacts)?;
        put_root(lab, &artefacts, |file| {
            let half = file.metadata()?.len() / 2;
            Ok(file.set_len(half)?)
        })?;
        let mut machine = past_firmware(&network, server.kernel()?, 512)?;
        let line = complains(&mut machine, &["truncated", "short", "bytes", "ends"], ROOT)?;
        goes_on(&line)?;

        put_root(lab, &artefacts, |file| flip(file, 3000))?;
        machine.mark();
        let piece = "bytes 12189696 to 12320768";
        let line = complains(&mut machine, &[piece], RETRY)?;
        goes_on(&line)?;

        put_root(lab, &artefacts, |_| Ok(()))?;
        machine.wait_for_stage("root", RETRY + ROOT)?;
        Ok(())
    })
}

fn goes_on(line: &StageLine) -> Result<()> {
    let next = line.field("next").unwrap_or_default();
    ensure!(next.contains("the host goes on"), "{line:?}");
    Ok(())
}

/// Puts a changed copy of the root into `artefacts`, at once. The server
/// would refuse it at its start, and does not look again.
fn put_root(
    lab: &Lab,
    artefacts: &Path,
    change: impl FnOnce(&mut File) -> Result<()>,
) -> Result<()> {
    let beside = artefacts.join("root.new");
    fs::copy(lab.artefact("root.img")?, &beside)?;
    change(&mut File::options().read(true).write(true).open(&beside)?)?;
    fs::rename(&beside, artefacts.join("root.img"))?;
    Ok(())
}

/// Flips a bit in this block of 4096 bytes.
fn flip(file: &mut File, block: u64) -> Result<()> {
    let mut byte = [0];
    let at = SeekFrom::Start(block * 4096 + 17);
    file.seek(at)?;
    file.read_exact(&mut byte)?;
    file.seek(at)?;
    file.write_all(&[byte[0] ^ 0x10])?;
    Ok(())
}

/// Three servers: nobody at the first address, a flipped bit at the second.
#[test]
fn a_dead_server_and_a_damaged_one_beside_a_good_one_are_passed_over() -> Result<()> {
    surplus_tests::test("netboot-servers", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let switch = network.switch();
        let marketplace = Marketplace::start_in(switch)?;
        let site = site(&marketplace)?;
        let artefacts = copy_of_artefacts(lab, "damaged")?;
        let station = network.station("damaged", 3)?;
        let damaged = BootServer::start_with(&station, "damaged", &site, &artefacts)?;
        put_root(lab, &artefacts, |file| flip(file, 3000))?;
        let good = BootServer::start(switch, &site)?;
        let dead = ipv4(250);
        let words = format!(
            "surplus.root=http://{dead}:8080/root.img,{} surplus.root={} \
             surplus.site=https://{dead}:8444/site.toml {}",
            damaged.url("root.img"),
            good.url("root.img"),
            good.words()?
        );
        let mut machine = past_firmware(&network, kernel(lab, &words)?, 512)?;
        machine.wait_for_stage("root", ROOT)?;
        machine.wait_for_stage("enrolled", ENROLLED)?;
        Ok(())
    })
}

/// Somebody else answers at the boot server's address: with another
/// certificate the site file is not taken. The true one comes back.
#[test]
fn a_site_server_with_another_certificate_is_refused_until_the_true_one_answers() -> Result<()> {
    surplus_tests::test("netboot-pin", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let switch = network.switch();
        let marketplace = Marketplace::start_in(switch)?;
        let mut good = BootServer::start(switch, &site(&marketplace)?)?;
        let kernel = good.kernel()?;
        good.stop();
        let image = lab.root().join("target/image");
        let stranger = BootServer::start_with(switch, "stranger", &site_for_nobody(), &image)?;
        let mut machine = past_firmware(&network, kernel, 512)?;
        let line = complains(
            &mut machine,
            &["certificate", "pin", "surplus.ca"],
            ENROLLED,
        )?;
        ensure!(line.name == "site", "{line:?}");
        goes_on(&line)?;
        drop(stranger);
        good.resume()?;
        machine.wait_for_stage("enrolled", ENROLLED)?;
        Ok(())
    })
}

/// A second proxy answers as loudly as ours and serves garbage.
#[test]
fn a_rogue_answer_with_garbage_is_passed_over() -> Result<()> {
    surplus_tests::test("netboot-rogue", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let switch = network.switch();
        let artefacts = copy_of_artefacts(lab, "garbage")?;
        let station = network.station("rogue", 66)?;
        let _rogue = BootServer::start_with(&station, "rogue", &site_for_nobody(), &artefacts)?;
        put_root(lab, &artefacts, |file| {
            let length = usize::try_from(file.metadata()?.len())?;
            Ok(file.write_all(&vec![0xa5; length])?)
        })?;
        let good = BootServer::start(switch, &site_for_nobody())?;
        // Without surplus.root the answers alone tell where the root is.
        let mut machine = past_firmware(&network, kernel(lab, &good.words()?)?, 512)?;
        let url = fetched_from(&mut machine, ROOT + RETRY)?;
        ensure!(url == good.url("root.img"), "the root came from {url}");
        machine.wait_for_stage("root", ROOT)?;
        Ok(())
    })
}

/// How late DHCP is: two minutes in a full run.
fn delay() -> Duration {
    Duration::from_secs(if is_full() { 120 } else { 25 })
}

#[test]
fn dhcp_that_comes_late_is_waited_for() -> Result<()> {
    surplus_tests::test("netboot-late", |lab| {
        let (network, mut dhcp) = lab_network(lab)?;
        let server = BootServer::start(network.switch(), &site_for_nobody())?;
        let kernel = server.kernel()?;
        dhcp.stop();
        let mut machine = past_firmware(&network, kernel, 512)?;
        let begun = Instant::now();
        let line = complains(&mut machine, &["address", "dhcp", "lease"], ROOT)?;
        goes_on(&line)?;
        nothing_for(&mut machine, delay().saturating_sub(begun.elapsed()))?;
        dhcp.resume()?;
        let again = Instant::now();
        machine.wait_for_stage("network", RETRY)?;
        println!(
            "an address {:.1} s after DHCP came back",
            again.elapsed().as_secs_f64()
        );
        machine.wait_for_stage("root", ROOT)?;
        Ok(())
    })
}

/// No IPv4 at all: address and name server come by DHCPv6, the routes by the router's
/// word. The booted host is the same one to the DHCP server, and asks the name server.
#[test]
fn a_network_with_ipv6_alone_is_enough_to_fetch_the_root() -> Result<()> {
    surplus_tests::test("netboot-ipv6", |lab| {
        let network = Network::new(lab)?;
        let _dhcp = Dhcp::start_for(&network, Family::V6)?;
        let image = lab.root().join("target/image");
        let _server = plain_http(network.switch(), ipv6(1).into(), 8081, &image)?;
        let words = format!(
            "surplus.root=http://{NAME}:8081/root.img surplus.site=https://{NAME}:9/site.toml \
             surplus.ca=sha256:{}",
            "5a".repeat(32)
        );
        let mut machine = past_firmware(&network, kernel(lab, &words)?, 512)?;
        let lease = machine.wait_for_stage("network", ROOT)?;
        let address = lease.field("address").context("no address")?.to_owned();
        ensure!(address.starts_with("fd77::1"), "{lease:?}");
        ensure!(lease.field("dhcp").is_some(), "{lease:?}");
        machine.wait_for_stage("root", ROOT)?;
        machine.mark();
        let again = machine.wait_for_stage("network", ROOT)?;
        ensure!(again.field("address") == Some(&*address), "{again:?}");
        // Its name leads there; nobody serves the site file.
        machine.allow_errors();
        complains(&mut machine, &["connection refused"], ROOT).map(drop)
    })
}

#[test]
fn too_little_memory_is_said_in_a_line() -> Result<()> {
    surplus_tests::test("netboot-memory", |lab| {
        let (network, _dhcp) = lab_network(lab)?;
        let server = BootServer::start(network.switch(), &site_for_nobody())?;
        let mut machine = past_firmware(&network, server.kernel()?, 144)?;
        machine.allow_errors();
        // Before anything is fetched: a memory that fills up is said, too.
        let line = complains(&mut machine, &["mib are needed"], ROOT)?;
        ensure!(line.name == "medium", "{line:?}");
        Ok(())
    })
}
