//! Network boot beside the CD, in one run: how long, in how little memory, and
//! how fast the initramfs fetches its root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use surplus_tests::lab::run;
use surplus_tests::machine::Builder;
use surplus_tests::network::Port;
use surplus_tests::network::dhcp::Dhcp;
use surplus_tests::{
    BootServer, Firmware, Lab, Machine, Marketplace, Medium, Network, Nic, Plug, StageLine,
};

use super::boots::{self, ENROLLED};
use super::table::{Table, median};

const COMMAND: Duration = Duration::from_secs(120);
/// Downloads by curl for its median.
const DOWNLOADS: usize = 3;

/// A network with all that a rack needs.
struct Site<'a> {
    lab: &'a Lab,
    network: &'a Network<'a>,
    port: Port,
}

impl<'a> Site<'a> {
    /// A host on the one port, which boots by its ROM.
    fn host(&self, name: &str, memory_mib: u32) -> Builder<'a> {
        self.host_with(name, memory_mib, true)
    }

    /// Without a ROM the firmware's own network stack is alone.
    fn host_with(&self, name: &str, memory_mib: u32, rom: bool) -> Builder<'a> {
        let nic = Nic::Plugged(Plug {
            port: self.port.clone(),
            rom,
            link: true,
        });
        let machine = self.lab.machine(name).memory_mib(memory_mib);
        machine.plugged(self.network.switch(), [nic])
    }
}

pub(super) fn measure(
    lab: &Lab,
    runs: u32,
    firmwares: &[Firmware],
    grain: u32,
    table: &mut Table,
) -> Result<()> {
    let network = Network::new(lab)?;
    let _dhcp = Dhcp::start(&network)?;
    let marketplace = Marketplace::start_in(network.switch())?;
    let token = marketplace.token("bench-netboot", 1000)?;
    let text = marketplace.site_file(&token)?;
    let iso = marketplace.customised_iso("bench-netboot", &text)?;
    let server = BootServer::start(network.switch(), &text)?;
    let site = Site {
        lab,
        network: &network,
        port: network.port()?,
    };
    let rates = beside_the_cd(&site, &iso, runs, table)?;
    beside_curl(&site, &server, rates, table)?;
    least_memory(&site, firmwares, grain, table);
    Ok(())
}

/// The least memory by each way in.
fn least_memory(site: &Site<'_>, firmwares: &[Firmware], grain: u32, table: &mut Table) {
    for (firmware, way) in [
        (Firmware::Bios, "BIOS/PXE"),
        (Firmware::Uefi, "UEFI/PXE"),
        (Firmware::Uefi, "UEFI/HTTP"),
    ] {
        if !firmwares.contains(&firmware) {
            continue;
        }
        boots::least_memory(way, grain, table, |memory, within| {
            let rom = firmware == Firmware::Bios;
            let name = format!("memory-{memory}");
            let machine = site.host_with(&name, memory, rom).firmware(firmware);
            let machine = match way {
                "UEFI/HTTP" => machine.http_boot(),
                _ => machine,
            };
            let mut machine = machine.start()?;
            machine.wait_for_stage("enrolled", within).map(drop)
        });
    }
}

/// Kernel start to enrolled, in turns, so that both see the same computer.
/// Returns the rates of the transfers, in bytes per second.
fn beside_the_cd(site: &Site<'_>, iso: &Path, runs: u32, table: &mut Table) -> Result<Vec<f64>> {
    let (mut by_cd, mut by_network, mut transfers) = (Vec::new(), Vec::new(), Vec::new());
    let mut rates = Vec::new();
    for _ in 0..runs {
        let cd = site.host("cd", 1024).medium(Medium::Cd, iso);
        let mut machine = cd.start()?;
        by_cd.push(machine.wait_for_stage("enrolled", ENROLLED)?.elapsed);
        machine.kill();

        let mut machine = site.host("network", 1024).start()?;
        let (bytes, transfer) = fetched(&mut machine)?;
        let enrolled = machine.wait_for_stage("enrolled", ENROLLED)?.elapsed;
        machine.kill();
        by_network.push(enrolled - transfer);
        transfers.push(transfer);
        rates.push(bytes / transfer);
    }
    let ratio = median(&by_network) / median(&by_cd);
    table.row(
        format!("kernel start → enrolled, network without transfer / CD, median of {runs}"),
        format!(
            "{:.1} s / {:.1} s = {ratio:.2}",
            median(&by_network),
            median(&by_cd)
        ),
        "1.3",
    );
    table.row(
        "transfer of the root, by the initramfs",
        format!("{:.1} s", median(&transfers)),
        "",
    );
    Ok(rates)
}

/// Bytes that the initramfs fetched, and in how many seconds.
fn fetched(machine: &mut Machine) -> Result<(f64, f64)> {
    // Lines before that say how far it is.
    let stage = machine.wait_until("the root fetched", ENROLLED, |line| {
        let stage = StageLine::parse(line).filter(|stage| stage.name == "medium")?;
        stage.field("seconds").is_some().then_some(stage)
    })?;
    let number = |key| -> Result<f64> {
        let text = stage
            .field(key)
            .with_context(|| format!("no {key} in {stage:?}"))?;
        Ok(text.parse()?)
    };
    Ok((number("bytes")?, number("seconds")?))
}

/// The same file by curl into the same guest's memory.
fn beside_curl(
    site: &Site<'_>,
    server: &BootServer<'_>,
    mut rates: Vec<f64>,
    table: &mut Table,
) -> Result<()> {
    let kit = site.lab.scratch().join("kit/curl");
    copy_with_libraries(site.lab, "/usr/bin/curl", &kit)?;
    let mut machine = site.host("curl", 1024).shell().start()?;
    let (bytes, seconds) = fetched(&mut machine)?;
    machine.wait_for_stage("enrolled", ENROLLED)?;
    machine.shell()?.wait_ready(COMMAND)?;
    let command = format!(
        "/run/testkit/curl/ld.so --library-path /run/testkit/curl /run/testkit/curl/curl \
         -sSf -o /run/fetched -w '%{{time_total}}' {}; rm /run/fetched",
        server.url("root.img")
    );
    let mut times = Vec::new();
    for _ in 0..DOWNLOADS {
        let said = machine.shell()?.run(&command, COMMAND)?;
        let time: f64 = said
            .parse()
            .with_context(|| format!("curl said {said:?}"))?;
        times.push(time);
    }
    machine.kill();
    rates.push(bytes / seconds);
    let (ours, curls) = (median(&rates) / 1e6, bytes / median(&times) / 1e6);
    table.row(
        "the initramfs's fetch / curl in the same guest",
        format!("{ours:.1} MB/s / {curls:.1} MB/s = {:.2}", ours / curls),
        "0.8",
    );
    hash_rate(&server.artefact("root.img"), table)
}

/// What of the fetch a real processor would not take: each block's hash.
fn hash_rate(root: &Path, table: &mut Table) -> Result<()> {
    let bytes = fs::read(root).with_context(|| format!("could not read {}", root.display()))?;
    let began = Instant::now();
    for block in bytes.chunks(4096) {
        std::hint::black_box(Sha256::digest(block));
    }
    let rate = bytes.len() as f64 / began.elapsed().as_secs_f64() / 1e6;
    table.row(
        "hashing the root's blocks, on this processor without emulation",
        format!("{rate:.0} MB/s"),
        "",
    );
    Ok(())
}

/// A program of the tools tree with everything that it loads, in one directory
/// that needs nothing else: `ld.so` starts it.
fn copy_with_libraries(lab: &Lab, program: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let copy = |from: &str, name: &str| {
        let from = in_tree(lab, from);
        fs::copy(&from, to.join(name)).with_context(|| format!("could not copy {}", from.display()))
    };
    let name = Path::new(program).file_name().unwrap_or_default();
    copy(program, &name.to_string_lossy())?;
    let list = run(lab.tools().command("ldd").arg(program))?;
    for line in String::from_utf8_lossy(&list).lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", path, _] => _ = copy(path, name)?,
            [path, _] if path.contains("/ld-linux") => _ = copy(path, "ld.so")?,
            _ => (),
        }
    }
    Ok(())
}

/// `/lib` and `/lib64` are links in the sandbox, and not in the tree.
fn in_tree(lab: &Lab, path: &str) -> PathBuf {
    let merged = lab.tools().path(&format!("/usr{path}"));
    if merged.exists() {
        merged
    } else {
        lab.tools().path(path)
    }
}
