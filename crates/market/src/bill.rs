//! A bill: a pure function of a lease's usage and one version of the prices.
//!
//! What always holds: time in which the guest did not run is not billed, and
//! nobody pays for more time than the window that was sold.

use surplus_protocol::api::{Bill, PriceBook};
use surplus_protocol::lease::{LeaseState, UsageRecord};

use crate::pricing;
use crate::records::LeaseRecord;
use crate::store::{StoreError, Tx};

/// The bill of a lease, as far as it was used.
///
/// `usage` is the last record of each epoch.
pub fn bill(lease: &LeaseRecord, book: &PriceBook, usage: Vec<UsageRecord>) -> Bill {
    let sum = |of: fn(&UsageRecord) -> u64| usage.iter().map(of).fold(0, u64::saturating_add);
    let running = sum(|r| r.running_millis).min(lease.seconds.saturating_mul(1000));
    let mut lines = pricing::time_lines(book, lease.resources, running);
    lines.extend(pricing::traffic_lines(
        book,
        sum(|r| r.rx_bytes),
        sum(|r| r.tx_bytes),
    ));
    Bill {
        lease: lease.id,
        price_book: book.version,
        currency: book.currency.clone(),
        closed: lease.life.state == LeaseState::Settled,
        total: pricing::total(&lines),
        lines,
        usage,
    }
}

/// Why there is no bill.
#[derive(Debug, thiserror::Error)]
pub enum BillError {
    #[error("price book {version} that the lease was sold under is not in the store")]
    NoPriceBook { version: u32 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bill of a stored lease.
///
/// # Errors
///
/// [`BillError`] where the store or its price book is missing.
pub async fn bill_of<T: Tx>(tx: &mut T, lease: &LeaseRecord) -> Result<Bill, BillError> {
    let version = lease.price_book;
    let book = tx
        .price_book(version)
        .await?
        .ok_or(BillError::NoPriceBook { version })?;
    let usage = tx.usage(lease.id).await?;
    Ok(bill(lease, &book, usage))
}
