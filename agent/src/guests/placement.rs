//! One placement of a lease on this host, and the names derived from it.
//!
//! Names are pure functions of the placement, so that whoever comes later (the
//! agent after a crash, a person) finds the same ones. What the guest's network
//! is called follows from its seat (`surplus-seat`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::Ticket;

/// A lease and its placement counter: what operations are idempotent by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Placement {
    pub lease: LeaseId,
    pub epoch: Epoch,
}

impl Placement {
    pub fn new(lease: LeaseId, epoch: Epoch) -> Self {
        Self { lease, epoch }
    }

    pub fn of(ticket: &Ticket) -> Self {
        Self::new(ticket.lease, ticket.epoch)
    }

    /// The libvirt domain's name.
    pub fn domain_name(&self) -> String {
        format!("lease-{self}")
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lease, self.epoch)
    }
}

/// Why a text is not a [`Placement`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a lease id, a dot and an epoch")]
pub struct InvalidPlacement(String);

impl FromStr for Placement {
    type Err = InvalidPlacement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPlacement(text.to_owned());
        let (lease, epoch) = text.split_once('.').ok_or_else(invalid)?;
        Ok(Self {
            lease: lease.parse().map_err(|_| invalid())?,
            epoch: epoch.parse().map_err(|_| invalid())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_read_as_it_is_written() {
        let text = "0190a1b2-0000-7000-8000-000000000001.3";
        let placement: Placement = text.parse().unwrap();
        assert_eq!(placement.to_string(), text);
        let later = Placement::new(placement.lease, 4);
        assert_ne!(later.domain_name(), placement.domain_name());
    }
}
