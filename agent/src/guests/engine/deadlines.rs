//! Keeps the guard told: every guest that may run has its deadline.

use std::collections::BTreeMap;

use super::{Engine, chain};
use crate::guests::deadlines::{self, DeadlineError};
use crate::guests::hypervisor::ObservedDomain;
use crate::guests::placement::Placement;
use crate::guests::record::{Record, Stage};

impl Engine {
    /// Writes what moved, mends what is missing or damaged, and removes what is
    /// left of guests that are gone.
    pub(super) fn keep_deadlines(
        &self,
        domains: Option<&[ObservedDomain]>,
        problems: &mut Vec<String>,
    ) {
        let known = match self.deadlines.known() {
            Ok(known) => known,
            Err(error) => {
                problems.push(chain(&error));
                BTreeMap::new()
            }
        };
        for record in self.records.values().filter(|it| self.may_run(it)) {
            let wanted = self.deadline(record);
            let known = known.get(&record.placement()).copied().flatten();
            if !deadlines::same(known, wanted)
                && let Err(error) = self.deadlines.set(record.placement(), wanted)
            {
                problems.push(chain(&error));
            }
        }
        // Whether a guest is gone is known only by looking.
        let Some(domains) = domains else { return };
        for placement in known.keys() {
            let name = placement.domain_name();
            let gone = !self.records.contains_key(placement)
                && domains.iter().all(|domain| domain.name != name);
            if gone && let Err(error) = self.deadlines.clear(*placement) {
                problems.push(chain(&error));
            }
        }
    }

    fn may_run(&self, record: &Record) -> bool {
        record.ticket.boot == self.config.boot && !matches!(record.stage, Stage::Accepted)
    }

    fn deadline(&self, record: &Record) -> u64 {
        let fenced_by = self.desired.fenced_by.get(&record.placement()).copied();
        let grace = self.config.shutdown_grace;
        deadlines::of(record, fenced_by, grace, &*self.clock)
    }

    /// Tells the guard of a placement's deadline, whatever it knows.
    pub(super) fn set_deadline(&self, placement: Placement) -> Result<(), DeadlineError> {
        match self.records.get(&placement) {
            Some(record) => self.deadlines.set(placement, self.deadline(record)),
            None => Ok(()),
        }
    }

    /// What the guard knows of a placement. The guest is gone by then, or a
    /// moment after.
    pub(super) fn known_deadline(&self, placement: Placement) -> Option<u64> {
        let known = self.deadlines.known().ok()?;
        known.get(&placement).copied().flatten()
    }
}
