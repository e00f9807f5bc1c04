//! One placement of a lease on this host, and every name derived from it.
//!
//! Names are pure functions of the placement, so that whoever comes later (the
//! agent after a crash, isolation's rules, a person) finds the same ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
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

    /// The name of the guest's interface on the host; at most 15 bytes.
    pub fn interface_name(&self) -> String {
        format!("sg{}", hex::encode(&self.hash()[..6]))
    }

    /// The guest's MAC address, locally administered. The same for every epoch,
    /// so that a guest that is placed anew keeps its address.
    pub fn mac(&self) -> String {
        let hash = self.hash();
        let tail: Vec<_> = hash[..5].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("02:{}", tail.join(":"))
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.lease.as_untyped_uuid().as_bytes()).into()
    }
}

use newtype_uuid::GenericUuid as _;

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
    fn names_are_stable_and_fit_the_kernel() {
        let text = "0190a1b2-0000-7000-8000-000000000001.3";
        let placement: Placement = text.parse().unwrap();
        assert_eq!(placement.to_string(), text);
        assert_eq!(placement.interface_name().len(), 14);
        let later = Placement::new(placement.lease, 4);
        assert_eq!(later.mac(), placement.mac());
        assert_ne!(later.domain_name(), placement.domain_name());
        // Locally administered, unicast.
        assert!(placement.mac().starts_with("02:"));
    }
}
