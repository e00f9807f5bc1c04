//! Which orders are believed: tickets that the marketplace's ticket signer
//! signed for this host in this boot.

use std::collections::BTreeSet;

use jiff::Timestamp;
use surplus_pki::certificate::Role;
use surplus_pki::{Certificate, jws};
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::lease::{SignedTicket, Ticket};

use crate::hub::in_one_line;

/// Verifies tickets for one host in one boot.
#[derive(Debug)]
pub struct Verifier {
    ca: Certificate,
    host: HostId,
    boot: BootId,
    /// Reasons already given, so that a ticket that stays bad is said once.
    refused: BTreeSet<String>,
}

/// What came of verifying an answer's tickets.
#[derive(Debug, Default)]
pub struct Verified {
    pub tickets: Vec<Ticket>,
    /// Why others are not believed, where that was not said before.
    pub newly_refused: Vec<String>,
}

/// Why a ticket is not believed.
#[derive(Debug, thiserror::Error)]
enum RefusedTicket {
    #[error("a ticket is not believed")]
    Signature(#[from] jws::VerifyError),
    #[error("the ticket of lease {lease} is for host {host}, not for this one")]
    Host {
        lease: surplus_protocol::ids::LeaseId,
        host: HostId,
    },
    #[error("the ticket of lease {lease} is for boot {boot} of this host, which is over")]
    Boot {
        lease: surplus_protocol::ids::LeaseId,
        boot: BootId,
    },
}

impl Verifier {
    pub fn new(ca: Certificate, host: HostId, boot: BootId) -> Self {
        Self {
            ca,
            host,
            boot,
            refused: BTreeSet::new(),
        }
    }

    /// The tickets that are good at `now`. `not_after` is judged where a guest
    /// is started, since it says nothing about one that runs.
    pub fn verify(&mut self, signed: &[SignedTicket], now: Timestamp) -> Verified {
        let mut verified = Verified::default();
        let mut refused = BTreeSet::new();
        for ticket in signed {
            match self.verify_one(ticket, now) {
                Ok(ticket) => verified.tickets.push(ticket),
                Err(error) => {
                    refused.insert(in_one_line(&error));
                }
            }
        }
        verified.newly_refused = refused.difference(&self.refused).cloned().collect();
        self.refused = refused;
        verified
    }

    fn verify_one(&self, signed: &SignedTicket, now: Timestamp) -> Result<Ticket, RefusedTicket> {
        let mut ticket: Ticket = jws::verify_chained(&signed.0, &self.ca, now, Role::TicketSigner)?;
        ticket.proof = Some(signed.clone());
        let (lease, host, boot) = (ticket.lease, ticket.host, ticket.boot);
        if host != self.host {
            return Err(RefusedTicket::Host { lease, host });
        }
        if boot != self.boot {
            return Err(RefusedTicket::Boot { lease, boot });
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use surplus_pki::{Authority, KeyPair};

    use super::*;

    fn id<T: newtype_uuid::GenericUuid>() -> T {
        T::from_untyped_uuid(uuid::Uuid::new_v4())
    }

    fn ticket(host: HostId, boot: BootId) -> Ticket {
        Ticket {
            host,
            boot,
            ..crate::sync::fixture::ticket()
        }
    }

    #[test]
    fn only_tickets_of_the_signer_for_this_host_and_boot_are_believed() {
        let now = Timestamp::now();
        let (authority, key) = (
            Authority::create(now).unwrap(),
            KeyPair::generate().unwrap(),
        );
        let signer = authority.issue_signer(&key, now).unwrap();
        let other = Authority::create(now)
            .unwrap()
            .issue_signer(&key, now)
            .unwrap();
        let (host, boot) = (id::<HostId>(), id::<BootId>());
        let good = ticket(host, boot);
        let sign = |ticket: &Ticket, by| SignedTicket(jws::sign(&key, &[by], ticket).unwrap());
        let signed = [
            sign(&good, signer.clone()),
            sign(&ticket(id(), boot), signer.clone()),
            sign(&ticket(host, id()), signer.clone()),
            sign(&ticket(host, boot), other),
            SignedTicket("garbage".to_owned()),
        ];
        let mut verifier = Verifier::new(authority.certificate().clone(), host, boot);
        let verified = verifier.verify(&signed, now);
        let proof = Some(signed[0].clone());
        assert_eq!(verified.tickets, [Ticket { proof, ..good }]);
        assert_eq!(
            verified.newly_refused.len(),
            4,
            "{:?}",
            verified.newly_refused
        );
        assert!(verifier.verify(&signed, now).newly_refused.is_empty());
    }
}
