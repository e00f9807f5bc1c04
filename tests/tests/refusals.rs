//! What a booting host does when something is wrong: it says what, and what to
//! do next; it goes on trying where trying can help; it never runs on damaged.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::api::{Host, Offer};
use surplus_tests::marketplace::{customise, free_port};
use surplus_tests::medium::{copy_of_iso, flip_blocks, root_extent, write_site_unchecked};
use surplus_tests::{Machine, Marketplace, Medium, Nic, StageLine};

const BOOT: Duration = Duration::from_secs(120);
const POWER_OFF: Duration = Duration::from_secs(30);
/// Retries back off; the longest pause is a minute.
const RETRY: Duration = Duration::from_secs(150);

/// The first failure whose error contains `text`, with an advice.
fn complains(machine: &mut Machine, text: &str, within: Duration) -> Result<StageLine> {
    let stage = machine.wait_until(&format!("the failure {text:?}"), within, |line| {
        StageLine::parse(line).filter(|stage| stage.error().is_some_and(|e| e.contains(text)))
    })?;
    ensure!(
        stage.field("next").is_some_and(|next| !next.is_empty()),
        "no advice in {stage:?}"
    );
    Ok(stage)
}

#[test]
fn a_host_waits_for_its_own_marketplace_and_trusts_no_other() -> Result<()> {
    surplus_tests::test("refusal-trust", |lab| {
        let mut ours = Marketplace::start(lab)?;
        let iso = ours.joining_iso("host")?;
        ours.stop();
        let mut machine = lab.machine("host").medium(Medium::Cd, iso).start()?;
        machine.allow_errors();
        complains(&mut machine, "cannot connect to https://10.0.2.2:", BOOT)?;

        // A stranger with another CA takes its place.
        machine.mark();
        let mut stranger = Marketplace::start_on(lab, "stranger", ours.port())?;
        complains(
            &mut machine,
            "its certificate was not issued by the CA that was given",
            RETRY,
        )?;
        stranger.stop();

        machine.mark();
        ours.resume()?;
        machine.wait_for_stage("enrolled", RETRY)?;
        Ok(())
    })
}

/// Two machines, one token for one host; and without KVM there is nothing to
/// offer. The second has another UUID and, as happens, the first one's MAC.
#[test]
fn a_host_without_kvm_offers_nothing_and_a_spent_token_lets_nobody_in() -> Result<()> {
    surplus_tests::test("refusal-kvm-token", |lab| {
        let marketplace = Marketplace::start(lab)?;
        let operator = marketplace.operator()?;
        let iso = marketplace.joining_iso("host")?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, &iso)
            .without_virtualisation()
            .start()?;
        machine.allow_errors();
        machine.wait_for_stage("enrolled", BOOT)?;
        complains(
            &mut machine,
            "nothing is offered: no guest runs under KVM here",
            BOOT,
        )?;
        let host: Host = operator.wait_until(
            &["hosts"],
            "host that says why it offers nothing",
            BOOT,
            |hosts: Vec<Host>| {
                let says = |host: &Host| host.capacity.as_ref()?.withheld.clone();
                hosts.into_iter().find(|host| says(host).is_some())
            },
        )?;
        let capacity = host.capacity.context("just seen")?;
        ensure!(
            capacity.sellable.vcpus == 0,
            "{capacity:?} is for sale without KVM"
        );
        let offers: Vec<Offer> = operator.ask(&["offers"])?;
        ensure!(offers.is_empty(), "offers without KVM: {offers:?}");

        drop(machine);
        let mut other = lab.machine("other").medium(Medium::Cd, &iso).start()?;
        other.allow_errors();
        complains(
            &mut other,
            "join token \"host\" is spent: used 1 of 1 times",
            BOOT,
        )?;
        let hosts: Vec<Host> = operator.ask(&["hosts"])?;
        ensure!(
            hosts.len() == 1 && hosts[0].id == host.id,
            "a spent token made another host: {hosts:?}"
        );
        Ok(())
    })
}

#[test]
fn a_host_without_a_network_card_says_so() -> Result<()> {
    surplus_tests::test("refusal-nic", |lab| {
        let site = site_for_nobody()?;
        let iso = copy_of_iso(lab, "host")?;
        write_site_unchecked(&iso, &site)?;
        let mut machine = lab
            .machine("host")
            .medium(Medium::Cd, iso)
            .nic(Nic::None)
            .start()?;
        machine.allow_errors();
        complains(
            &mut machine,
            "this machine has no network card that the kernel knows",
            BOOT,
        )?;
        ensure!(machine.running()?, "the host gave up");
        Ok(())
    })
}

#[test]
fn an_unknown_key_in_the_site_file_is_named_with_the_nearest_one() -> Result<()> {
    surplus_tests::test("refusal-site", |lab| {
        let site = format!("{}\n[reserve]\nmemmory = \"1GiB\"\n", site_for_nobody()?);
        let refused = customise(lab, "refused", &site);
        let refused = refused
            .err()
            .context("surplus-image took a site file with an unknown key")?;
        let text = format!("{refused:#}");
        ensure!(
            text.contains("memmory") && text.contains("memory"),
            "{text}"
        );

        let iso = copy_of_iso(lab, "host")?;
        write_site_unchecked(&iso, &site)?;
        let mut machine = lab.machine("host").medium(Medium::Cd, iso).start()?;
        machine.allow_errors();
        let stage = complains(&mut machine, "unknown key `reserve.memmory`", BOOT)?;
        ensure!(
            stage.field("next") == Some("did you mean `reserve.memory`?"),
            "no nearest key: {stage:?}"
        );
        Ok(())
    })
}

#[test]
fn a_damaged_medium_ends_in_a_clear_line_and_power_off() -> Result<()> {
    surplus_tests::test("refusal-medium", |lab| {
        let iso = copy_of_iso(lab, "host")?;
        let root = root_extent(lab, &iso)?;
        // The file system's first block: no boot can go without it.
        flip_blocks(&iso, root, 0, 1)?;
        let mut machine = lab.machine("host").medium(Medium::Cd, iso).start()?;
        machine.allow_errors();
        complains(
            &mut machine,
            "block 0 of the root does not match the root hash",
            BOOT,
        )?;
        machine.wait_for_power_off(POWER_OFF)
    })
}

/// A valid site file of a marketplace that does not exist.
fn site_for_nobody() -> Result<String> {
    Ok(format!(
        "version = 1\n\n[marketplace]\nurl = \"https://10.0.2.2:{}\"\nca_sha256 = \"sha256:{}\"\n",
        free_port()?,
        "5a".repeat(32)
    ))
}
