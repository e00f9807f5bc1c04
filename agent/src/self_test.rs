//! What a host tries on itself before it offers anything: a guest's attacks on its
//! networks, and what somebody could open who broke out of one.
//!
//! It is tried by a process of its own (surplus-selftest.service), once in a boot:
//! it takes seats of guests for it, and before the first offer there are none.

use std::io;
use std::process::Command;

use surplus_protocol::inventory::SelfCheck;
use surplus_trial::{network, qemu};

use crate::hub::in_one_line;
use crate::sysroot::SysRoot;
use crate::system::bus::Bus;
use crate::system::units;

const UNIT: &str = "surplus-selftest.service";

/// What the unit writes.
const FILE: &str = "/run/surplus/self-test.json";

/// Whether everything was tried and nothing came through.
pub fn is_passed(checks: &[SelfCheck]) -> bool {
    !checks.is_empty() && checks.iter().all(|check| check.failure.is_none())
}

/// The outcome in this boot; tried now, unless it was tried with success before.
pub async fn outcome(root: &SysRoot, bus: &Bus) -> Vec<SelfCheck> {
    let earlier = read(root).unwrap_or_default();
    if is_passed(&earlier) {
        return earlier;
    }
    let tried = match units::complete(bus, UNIT).await {
        Ok(()) => read(root),
        Err(error) => Err(io::Error::other(in_one_line(&error))),
    };
    tried.unwrap_or_else(|error| {
        vec![SelfCheck {
            name: "self-test".to_owned(),
            attempts: 0,
            failure: Some(format!("nothing was tried: {error}")),
        }]
    })
}

fn read(root: &SysRoot) -> io::Result<Vec<SelfCheck>> {
    let text = std::fs::read(root.path(FILE))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Tries everything; `as_qemu` is this program, which then calls [`qemu::tries`].
pub fn tries(as_qemu: &mut Command) -> Vec<SelfCheck> {
    let mut checks = network::checks();
    checks.push(qemu::check(as_qemu));
    checks
}

/// In a few words.
pub fn describe(checks: &[SelfCheck]) -> String {
    let failed: Vec<_> = checks
        .iter()
        .filter_map(|check| Some(format!("{}: {}", check.name, check.failure.as_ref()?)))
        .collect();
    if checks.is_empty() {
        "not tried yet".to_owned()
    } else if failed.is_empty() {
        let attempts: u32 = checks.iter().map(|check| check.attempts).sum();
        format!("passed ({attempts} attempts)")
    } else {
        format!("failed: {}", failed.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    fn check(failure: Option<&str>) -> SelfCheck {
        SelfCheck {
            name: "neighbour".to_owned(),
            attempts: 70,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_was_tried_and_held_is_passed() {
        assert!(!is_passed(&[]));
        assert!(!is_passed(&[check(None), check(Some("vlan"))]));
        assert!(is_passed(&[check(None), check(None)]));
        assert_eq!(describe(&[]), "not tried yet");
        assert_eq!(
            describe(&[check(None), check(None)]),
            "passed (140 attempts)"
        );
        assert_eq!(
            describe(&[check(None), check(Some("vlan"))]),
            "failed: neighbour: vlan"
        );
    }

    #[tokio::test]
    async fn a_success_of_this_boot_is_not_tried_again_and_a_failure_is() {
        let tree = Tree::new();
        let (nobody, _kept) = crate::system::bus::fake::serving("/nowhere", Nothing).await;
        let bus = Bus::of(nobody);
        let checks = vec![check(None)];
        tree.file(FILE, serde_json::to_vec(&checks).unwrap());
        assert_eq!(outcome(&tree.root(), &bus).await, checks);
        let failed = vec![check(Some("vlan"))];
        tree.file(FILE, serde_json::to_vec(&failed).unwrap());
        let tried = outcome(&tree.root(), &bus).await;
        assert!(
            tried[0]
                .failure
                .as_ref()
                .unwrap()
                .starts_with("nothing was tried")
        );
    }

    struct Nothing;

    #[zbus::interface(name = "org.example.Nothing")]
    impl Nothing {}
}
