//! What a host tries on itself before it offers anything, tried on a host without
//! the host: under the image's packet filter it passes, and with a guard out it
//! says what comes through, and nothing else.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use surplus_protocol::inventory::SelfCheck;
use surplus_tests::Lab;
use surplus_tests::lab::run;
use surplus_tests::network::guests::{GuestsNetwork, Setup};

fn tried(lab: &Lab, setup: &Setup) -> Result<Vec<SelfCheck>> {
    let network = GuestsNetwork::new(lab, setup, &[])?;
    let mut program = lab.program("surplus-attack")?;
    let said = run(&mut network.host().enter(program.arg("trial")))?;
    let checks: Vec<SelfCheck> = serde_json::from_slice(&said).context("no checks were said")?;
    for check in &checks {
        println!("{check:?}");
    }
    Ok(checks)
}

fn failed(checks: &[SelfCheck]) -> BTreeSet<&str> {
    let failed = checks.iter().filter(|check| check.failure.is_some());
    failed.map(|check| check.name.as_str()).collect()
}

/// Guards, what of the filter stands in their place, and which check says so.
const GUARDS: &[(&str, &str, &str, &str)] = &[
    (
        "the sender's MAC address",
        "\t\tiifname . ether saddr != @seats drop\n",
        "",
        "forged-frames",
    ),
    (
        "ARP, IPv4 and IPv6 alone",
        "goto speak_ip6 }\n\t\tdrop\n",
        "goto speak_ip6 }\n",
        "forged-frames",
    ),
    (
        "what the bridge floods is for whom it is for",
        "\t\toifname \"sg*\" goto hear\n",
        "",
        "neighbour",
    ),
    (
        "no guest reaches the host",
        "\t\tiifname \"surplus0\" drop\n",
        "\t\tiifname \"surplus0\" accept\n",
        "host",
    ),
    (
        "a guest has its own IPv6 address",
        "\t\tiifname . ip6 saddr != @addresses6 drop\n",
        "",
        "forged-frames",
    ),
    (
        "no guest reaches the site's networks",
        "\t\tiifname \"surplus0\" ip daddr @near drop\n",
        "",
        "site-network",
    ),
    (
        "the seats are told to the filter",
        "add element bridge surplus_guests seats",
        "add element bridge surplus_guests others",
        "honest-frames",
    ),
];

#[test]
fn a_host_finds_by_its_own_test_which_guard_is_out() -> Result<()> {
    surplus_tests::test("self-test", |lab| {
        let image = Setup::of_the_image(lab)?;
        // Also where guests leave by a network of their own.
        for whole in [&image, &Setup::of_the_image_with_a_way(lab)?] {
            let checks = tried(lab, whole)?;
            ensure!(checks.len() == 5, "{checks:?}");
            ensure!(failed(&checks).is_empty(), "with every guard: {checks:?}");
        }
        for (what, old, new, name) in GUARDS {
            let mut setup = image.clone().with(old, new)?;
            if *name == "honest-frames" {
                let others = "add element bridge surplus_guests others";
                let set = "add set bridge surplus_guests others { type ifname . ether_addr; }\n";
                setup = setup.with(others, &format!("{set}{others}"))?;
            }
            let checks = tried(lab, &setup)?;
            ensure!(
                failed(&checks) == BTreeSet::from([*name]),
                "without {what}: {checks:?}"
            );
        }
        Ok(())
    })
}
