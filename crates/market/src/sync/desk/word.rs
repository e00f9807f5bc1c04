//! What the host says of leases: usage, receipts, and where each guest stands.

use std::collections::BTreeMap;

use surplus_protocol::agent::{ReceiptAck, SyncRequest, UsageAck};
use surplus_protocol::ids::{Epoch, LeaseId};
use surplus_protocol::lease::{
    EndReason, EndReceipt, GuestPhase, LeaseState, MAX_PORTS, SignedReceipt, UsageRecord,
};

use super::Desk;
use crate::bounds;
use crate::lease::Event;
use crate::records::ReceiptRecord;
use crate::store::{StoreError, Tx};
use crate::sync::Notary;

impl<T: Tx> Desk<'_, T> {
    async fn add_usage(&mut self, record: &UsageRecord) -> Result<(), StoreError> {
        let Some(lease) = self.held(record.lease, record.epoch).await? else {
            return Ok(());
        };
        let late = lease.life.state == LeaseState::Settled;
        self.wrote |= self.tx.add_usage(record, late).await?;
        Ok(())
    }

    pub(in crate::sync) async fn take_usage(
        &mut self,
        usage: &[UsageRecord],
    ) -> Result<Vec<UsageAck>, StoreError> {
        let mut acknowledged: BTreeMap<(LeaseId, Epoch), u64> = BTreeMap::new();
        for record in usage {
            // What makes no sense is acknowledged as well, with a remark: sent
            // again it would make no more.
            self.add_usage(record).await?;
            let seq = acknowledged
                .entry((record.lease, record.epoch))
                .or_default();
            *seq = record.seq.max(*seq);
        }
        let acks = acknowledged.into_iter();
        Ok(acks
            .map(|((lease, epoch), seq)| UsageAck { lease, epoch, seq })
            .collect())
    }

    /// Those receipts that are this host's own.
    pub(in crate::sync) fn read_receipts<'r>(
        &mut self,
        notary: &impl Notary,
        receipts: &'r [SignedReceipt],
    ) -> Vec<(&'r SignedReceipt, EndReceipt)> {
        let mut read = Vec::new();
        for signed in receipts {
            let receipt = match notary.read(signed) {
                Ok(receipt) => receipt,
                Err(error) => {
                    self.remarks
                        .push(format!("a receipt is not to be believed: {error}"));
                    continue;
                }
            };
            if receipt.host != self.host.id
                || (receipt.usage.lease, receipt.usage.epoch) != (receipt.lease, receipt.epoch)
            {
                self.remarks.push(format!(
                    "the receipt for lease {} names others",
                    receipt.lease
                ));
                continue;
            }
            read.push((signed, receipt));
        }
        read
    }

    pub(in crate::sync) async fn take_receipts(
        &mut self,
        receipts: &[(&SignedReceipt, EndReceipt)],
    ) -> Result<Vec<ReceiptAck>, StoreError> {
        for (signed, receipt) in receipts {
            self.take_receipt(signed, receipt).await?;
        }
        let acknowledged = receipts.iter().map(|(_, receipt)| ReceiptAck {
            lease: receipt.lease,
            epoch: receipt.epoch,
        });
        Ok(acknowledged.collect())
    }

    async fn take_receipt(
        &mut self,
        signed: &SignedReceipt,
        receipt: &EndReceipt,
    ) -> Result<(), StoreError> {
        let EndReceipt {
            lease: id, epoch, ..
        } = *receipt;
        let Some(lease) = self.held(id, epoch).await? else {
            return Ok(());
        };
        let present = lease.life.epoch == epoch;
        self.add_usage(&receipt.usage).await?;
        let record = ReceiptRecord {
            lease: id,
            epoch,
            host: self.host.id,
            signed: signed.0.clone(),
            received_at: self.now,
        };
        self.wrote |= self.tx.add_receipt(&record).await?;
        // One of an earlier epoch says nothing of the guest that runs now.
        if present {
            self.end_by_receipt(receipt);
        }
        self.settle(id).await
    }

    fn end_by_receipt(&mut self, receipt: &EndReceipt) {
        let EndReceipt {
            reason,
            started_at,
            disk,
            ..
        } = *receipt;
        let now = self.now;
        let detail = bounds::text(&receipt.detail);
        self.step(receipt.lease, |lease| {
            lease.disk = disk;
            match reason {
                EndReason::LinkLost => {
                    let why = "its host stopped it after a lost link, as its clause says";
                    lease.lose(reason, started_at, now, why)
                }
                EndReason::HostRebooted => lease.lose(reason, started_at, now, &detail),
                _ => {
                    let was_live = lease.life.is_live();
                    let actions = lease.apply(Event::Gone {
                        reason,
                        started_at,
                        at: receipt.ended_at.min(now),
                        anew: false,
                    })?;
                    if was_live {
                        lease.detail = detail;
                    }
                    Ok(actions)
                }
            }
        });
    }

    /// Closes the bill of a lease that ended, once each of its placements has
    /// its receipt: no usage is waited for any more.
    async fn settle(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let ended = self
            .lease(id)
            .filter(|lease| lease.life.state == LeaseState::Ended);
        let Some(former) = ended.map(|lease| lease.life.former.len()) else {
            return Ok(());
        };
        if former > 0 && self.tx.receipts(id).await?.len() <= former {
            return Ok(());
        }
        let entry = self.leases.get_mut(&id).or(self.left.get_mut(&id));
        if let Some(entry) = entry
            && let Err(invalid) = entry.lease.apply(Event::Settle)
        {
            self.remarks.push(format!("lease {id}: {invalid}"));
        }
        Ok(())
    }

    pub(in crate::sync) async fn take_statuses(
        &mut self,
        request: &SyncRequest,
    ) -> Result<(), StoreError> {
        let now = self.now;
        for status in &request.leases {
            let id = status.lease;
            let Some(lease) = self.held(id, status.epoch).await? else {
                continue;
            };
            if status.epoch != lease.life.epoch || !lease.life.is_placed() {
                continue;
            }
            self.step(id, |lease| {
                lease.phase = Some(status.phase);
                lease.detail = bounds::text(&status.detail);
                lease.addresses = bounds::texts(&status.addresses);
                lease.forwards = status.forwards.iter().take(MAX_PORTS).copied().collect();
                match status.phase {
                    GuestPhase::Running => lease.apply(Event::Running { at: now }),
                    _ => Ok(Vec::new()),
                }
            });
        }
        Ok(())
    }
}
