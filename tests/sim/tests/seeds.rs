//! Some seeds, and each safeguard taken out. Many seeds: `cargo xtask test sim`.

use surplus_safeguard::{Safeguard, without};
use surplus_sim::world::{DAY, seconds};
use surplus_sim::{Broken, Summary, World};

/// Seeds in which a removed safeguard is looked for.
const SEEDS: u64 = 150;

/// Worlds in which the marketplace is gone for a week.
const WEEKS: u64 = 1;

fn run(seed: u64) -> Result<Summary, Broken> {
    match surplus_sim::run(seed, false) {
        Ok(result) => result,
        Err(error) => panic!("this computer cannot simulate: {error}"),
    }
}

#[test]
fn every_promise_holds_in_the_worlds_of_forty_seeds() {
    for seed in 0..40 {
        if let Err(broken) = run(seed) {
            panic!(
                "seed {seed}, at {:.3} s: {}\nreplay it: cargo xtask test sim --seed {seed}",
                seconds(broken.at),
                broken.what
            );
        }
    }
}

/// Leases run to their ends, hosts come back by themselves, nothing is billed
/// twice or lost.
#[test]
fn a_marketplace_that_is_gone_for_a_week_costs_nothing() {
    for seed in 0..WEEKS {
        let result = World::without_marketplace(seed).map(World::run);
        let Ok(Ok(summary)) = result else {
            panic!("seed {seed}: {result:?}");
        };
        assert!(summary.took > 7 * DAY && summary.leases > 4, "{summary:?}");
        assert!(summary.ran > 2 * DAY, "{summary:?}");
    }
}

/// Some world breaks without the rule, and not with it; one is known at `first`.
fn is_needed(rule: Safeguard, first: u64) {
    is_needed_in(rule, first, run);
}

fn is_needed_in(rule: Safeguard, first: u64, run: impl Fn(u64) -> Result<Summary, Broken>) {
    let breaks = |seed: &u64| {
        let broken = without(Some(rule), || run(*seed)).is_err();
        broken && run(*seed).is_ok()
    };
    let found = std::iter::once(first).chain(0..SEEDS).find(breaks);
    assert!(
        found.is_some(),
        "nothing breaks in {SEEDS} worlds without {rule:?}"
    );
}

#[test]
fn without_the_epoch_check_a_promise_breaks() {
    is_needed(Safeguard::Epoch, 0);
}

#[test]
fn without_a_tickets_time_a_promise_breaks() {
    is_needed(Safeguard::NotAfter, 34);
}

#[test]
fn without_the_unique_usage_key_a_promise_breaks() {
    is_needed_in(Safeguard::UsageKey, 0, |seed| {
        match World::with_copies(seed) {
            Ok(world) => world.run(),
            Err(error) => panic!("this computer cannot simulate: {error}"),
        }
    });
}

#[test]
fn without_the_brake_a_promise_breaks() {
    is_needed(Safeguard::Brake, 0);
}

#[test]
fn where_a_restarted_marketplace_does_not_wait_a_promise_breaks() {
    is_needed(Safeguard::Restart, 245);
}

#[test]
fn without_the_tombstone_rule_a_promise_breaks() {
    is_needed(Safeguard::Tombstone, 0);
}

#[test]
fn a_seed_gives_the_same_world_each_time() {
    assert_eq!(run(7), run(7));
}
