//! Moments at random, which a seed brings back.
//!
//! `SURPLUS_TEST_SEED` and `SURPLUS_TEST_ROUNDS` are what `cargo xtask test`
//! was given as `--seed` and `--rounds`. What a real machine does between two
//! moments is its own affair: a seed brings back what is done to it, and when.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The chances of one test.
#[derive(Debug)]
pub struct Chance(StdRng);

impl Chance {
    /// Those of this test, by the seed that was asked for.
    pub fn of(test: &str) -> Self {
        let seed = setting("SURPLUS_TEST_SEED").unwrap_or(0);
        eprintln!("{test}: --seed {seed} --rounds {}", rounds());
        let name = test.bytes().fold(seed, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Self(StdRng::seed_from_u64(name))
    }

    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.0.random_range(0..all.len())]
    }

    /// Lets up to so much time pass: for a moment that nothing announces.
    pub fn wait(&mut self, at_most: Duration) -> Duration {
        let time = at_most.mul_f64(self.0.random());
        std::thread::sleep(time);
        time
    }
}

/// How many rounds were asked for; 1 unless more.
pub fn rounds() -> u64 {
    setting("SURPLUS_TEST_ROUNDS").unwrap_or(1).max(1)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
