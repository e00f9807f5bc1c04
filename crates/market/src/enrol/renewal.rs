//! Renewal of a host's certificate, and the change of its key.
//!
//! What always holds: the answer that brings a certificate for a new key may be
//! lost, so both keys are good until the new one is used.

use jiff::Timestamp;
use surplus_protocol::Digest;
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;

use crate::records::HostRecord;
use crate::store::{StoreError, Tx};

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("the register holds no host {id} with this key")]
    Unknown { id: HostId },
    #[error("host {id} is not enrolled: {detail}")]
    NotEnrolled {
        id: HostId,
        state: HostState,
        detail: String,
    },
    #[error("another host has the new key")]
    KeyTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Allows host `id`, which proved `key`, a certificate for `new_key` until
/// `expires`. A new key takes the old one's place with its first use.
///
/// # Errors
///
/// [`RenewError`] where the register does not know the host by `key`.
pub async fn renew<T: Tx>(
    tx: &mut T,
    id: HostId,
    key: Digest,
    new_key: Digest,
    expires: Timestamp,
) -> Result<HostRecord, RenewError> {
    let host = tx.host_of_key(&key).await?.filter(|host| host.id == id);
    let mut host = host.ok_or(RenewError::Unknown { id })?;
    if host.state != HostState::Enrolled {
        let HostRecord { state, detail, .. } = host;
        return Err(RenewError::NotEnrolled { id, state, detail });
    }
    if tx
        .host_of_key(&new_key)
        .await?
        .is_some_and(|other| other.id != id)
    {
        return Err(RenewError::KeyTaken);
    }
    use_key(&mut host, key);
    host.next_key = Some(new_key).filter(|new| *new != host.key);
    host.certificate_expires_at = expires;
    tx.put_host(&host).await?;
    Ok(host)
}

/// Takes in that the host used this one of its keys: a next key takes the old
/// one's place. Whether anything changed.
pub fn use_key(host: &mut HostRecord, key: Digest) -> bool {
    if host.next_key != Some(key) {
        return false;
    }
    host.key = key;
    host.next_key = None;
    true
}
