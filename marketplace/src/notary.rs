//! Signs tickets, and believes receipts that the calling host's key signed.

use jiff::Timestamp;
use surplus_market::sync::{Notary, NotaryError};
use surplus_pki::certificate::Role;
use surplus_pki::{Certificate, KeyPair, jws};
use surplus_protocol::lease::{EndReceipt, SignedReceipt, SignedTicket, Ticket};

/// The key that signs tickets and its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    pub key: KeyPair,
    pub certificate: Certificate,
}

/// The notary of one host's request.
#[derive(Debug)]
pub(crate) struct HostNotary<'a> {
    pub signer: &'a Signer,
    pub authority: &'a Certificate,
    /// The calling host's registered public key (SubjectPublicKeyInfo, DER).
    pub host_key: &'a [u8],
}

impl Notary for HostNotary<'_> {
    fn sign(&self, ticket: &Ticket) -> Result<SignedTicket, NotaryError> {
        let chain = std::slice::from_ref(&self.signer.certificate);
        jws::sign(&self.signer.key, chain, ticket)
            .map(SignedTicket)
            .map_err(|source| NotaryError {
                attempt: format!("cannot sign the ticket of lease {}", ticket.lease),
                source: Some(Box::new(source)),
            })
    }

    fn read(&self, receipt: &SignedReceipt) -> Result<EndReceipt, NotaryError> {
        jws::verify_with_spki(&receipt.0, self.host_key).map_err(|source| NotaryError {
            attempt: source.to_string(),
            source: Some(Box::new(source)),
        })
    }

    fn recall(&self, ticket: &SignedTicket, now: Timestamp) -> Result<Ticket, NotaryError> {
        // Its signer may have been another key of this CA.
        jws::verify_chained(&ticket.0, self.authority, now, Role::TicketSigner).map_err(|source| {
            NotaryError {
                attempt: source.to_string(),
                source: Some(Box::new(source)),
            }
        })
    }
}
