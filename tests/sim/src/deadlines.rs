//! What the agent tells the guard, kept in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use surplus_agent::guests::Placement;
use surplus_agent::guests::deadlines::{DeadlineError, Deadlines};

/// The deadlines of one boot: they outlive the agent.
#[derive(Debug, Default)]
pub struct SimDeadlines(Mutex<BTreeMap<Placement, u64>>);

impl SimDeadlines {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Placement, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is over at `boot_millis`.
    pub fn due(&self, boot_millis: u64) -> Vec<Placement> {
        let all = self.all();
        let due = all.iter().filter(|(_, at)| **at <= boot_millis);
        due.map(|(placement, _)| *placement).collect()
    }
}

impl Deadlines for SimDeadlines {
    fn known(&self) -> Result<BTreeMap<Placement, Option<u64>>, DeadlineError> {
        let all = self.all();
        Ok(all
            .iter()
            .map(|(at, millis)| (*at, Some(*millis)))
            .collect())
    }

    fn set(&self, placement: Placement, boot_millis: u64) -> Result<(), DeadlineError> {
        self.all().insert(placement, boot_millis);
        Ok(())
    }

    fn clear(&self, placement: Placement) -> Result<(), DeadlineError> {
        self.all().remove(&placement);
        Ok(())
    }
}
