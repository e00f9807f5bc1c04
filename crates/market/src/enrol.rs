//! The register of hosts: who is in it, under which key, and who may join.
//!
//! What always holds: a host is known by its key, and one key names one host.
//! The same hardware coming back with a new key keeps its id if a token, an
//! operator or an admission rule says so; from then on the old key is unknown.
//! What admitted it does not count it again, if its key lived in memory.
//! A machine that still calls is never replaced by one that claims to be it:
//! the claimant waits until the old one is silent, or calls again and so proves
//! to be another. An admission rule, which no secret stands behind, undoes no
//! operator's decision and lets no second machine in beside its like.

mod boots;
mod renewal;
mod standing;
mod voucher;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::Digest;
use surplus_protocol::admission::Admission;
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;
use surplus_protocol::inventory::HardwareIdentity;

use crate::presence::Presence;
use crate::records::HostRecord;
use crate::store::{StoreError, Tx};
use crate::token::{self, TokenRefusal};

pub use boots::{BootSeen, see_boot};
pub use renewal::{RenewError, renew, use_key};
use standing::{Standing, inherit, is_same, standing};
use voucher::Voucher;

/// Most hosts that may wait for approval.
const MAX_PENDING: usize = 1000;

/// A pending host that asks again within this time asks on.
const ASKS_ON: SignedDuration = SignedDuration::from_secs(90);

/// Who asks to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// SHA-256 of its public key.
    pub key: Digest,
    /// SHA-256 of the join token's secret, where it has one.
    pub token: Option<Digest>,
    pub from: IpAddr,
    pub site: String,
    pub rack: String,
    pub key_storage: String,
    pub identity: HardwareIdentity,
    pub cpu_model: String,
    pub memory_bytes: u64,
}

/// Why a host may not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error("host {id} was rejected: {detail}")]
    Rejected { id: HostId, detail: String },
    #[error("host {id} is quarantined: {detail}")]
    Quarantined { id: HostId, detail: String },
    #[error("{waiting} hosts wait for approval already")]
    Crowded { waiting: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an operator's word on a host had no effect.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    #[error("host {id} is not in the register")]
    Unknown { id: HostId },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Enters an applicant in the register: enrolled with a good token, by an
/// operator's approval or by an admission rule, else pending. Asking again with
/// the same key is harmless and spends nothing.
///
/// # Errors
///
/// [`EnrolError`] where the token is no good or the host was turned away.
pub async fn enrol<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    fresh: HostId,
    applicant: &Applicant,
) -> Result<HostRecord, EnrolError> {
    let known = tx.host_of_key(&applicant.key).await?;
    if let Some(host) = &known {
        let (id, detail) = (host.id, host.detail.clone());
        match host.state {
            HostState::Enrolled => return Ok(host.clone()),
            HostState::Rejected => return Err(EnrolError::Rejected { id, detail }),
            HostState::Quarantined => return Err(EnrolError::Quarantined { id, detail }),
            HostState::Pending => {}
        }
    }
    let token = match &applicant.token {
        Some(hash) => Some(tx.token(hash).await?.ok_or(TokenRefusal::Unknown)?),
        None => None,
    };
    let entered = known.is_some();
    let mut host = known.unwrap_or_else(|| newcomer(now, fresh, applicant));
    listen(&mut host, now, applicant);
    let hosts = forget_former_asks(tx, &host, now).await?;
    let standing = standing(&hosts, &host, presence, now);
    let voucher = match (token, &host.admitted_by) {
        (Some(token), _) => {
            let counted = voucher::counted(&token, &hosts, standing);
            let token = token::spend(&token, now, applicant.from, counted)?;
            Ok(Voucher::Token(token))
        }
        (None, Some(Admission::Operator { key })) => Ok(Voucher::Operator(key.clone())),
        (None, _) => voucher::by_rule(tx, now, &hosts, &host, standing).await?,
    };
    let waits = voucher.is_err() || matches!(standing, Standing::Waits(_));
    if waits && !entered {
        let pending = hosts.iter().filter(|host| host.state == HostState::Pending);
        let waiting = pending.count();
        if waiting >= MAX_PENDING {
            return Err(EnrolError::Crowded { waiting });
        }
    }
    match voucher {
        Ok(voucher) => Ok(admit(tx, presence, now, &hosts, standing, host, voucher).await?),
        Err(why) => {
            host.detail = format!(
                "waits for approval: asked to join without a token from {}; {why}",
                applicant.from.to_canonical()
            );
            tx.put_host(&host).await?;
            Ok(host)
        }
    }
}

/// Takes in what the applicant says of itself.
fn listen(host: &mut HostRecord, now: Timestamp, applicant: &Applicant) {
    let asks_on = |at: Timestamp| now.duration_since(at) <= ASKS_ON;
    if !host.last_seen_at.is_some_and(asks_on) {
        host.enrolled_at = now;
    }
    if host.identity != applicant.identity {
        // Another machine than the one that was approved.
        host.admitted_by = None;
    }
    host.last_seen_at = Some(now);
    host.address = Some(applicant.from.to_canonical());
    host.site.clone_from(&applicant.site);
    host.rack.clone_from(&applicant.rack);
    host.key_storage.clone_from(&applicant.key_storage);
    host.identity.clone_from(&applicant.identity);
    host.cpu_model.clone_from(&applicant.cpu_model);
    host.memory_bytes = applicant.memory_bytes;
}

/// Removes what the same hardware left when it asked under keys that it has no
/// more; the hosts that remain.
async fn forget_former_asks<T: Tx>(
    tx: &mut T,
    host: &HostRecord,
    now: Timestamp,
) -> Result<Vec<HostRecord>, StoreError> {
    let mut remain = Vec::new();
    for old in tx.hosts().await? {
        let silent = old
            .last_seen_at
            .is_none_or(|at| now.duration_since(at) > ASKS_ON);
        if old.state == HostState::Pending && silent && is_same(&old, host) {
            tx.delete_host(old.id).await?;
        } else {
            remain.push(old);
        }
    }
    Ok(remain)
}

/// Lets `host` in on the voucher's word, as itself where it is a host come
/// back; or leaves it pending, with nothing spent, while an earlier boot of its
/// hardware may be alive.
async fn admit<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    hosts: &[HostRecord],
    standing: Standing<'_>,
    mut host: HostRecord,
    voucher: Voucher,
) -> Result<HostRecord, StoreError> {
    let mut admitted = match standing {
        Standing::Waits(old) => {
            host.detail = format!(
                "waits: host {old} is the same hardware and was alive a moment ago; {}",
                voucher.promise()
            );
            tx.put_host(&host).await?;
            return Ok(host);
        }
        Standing::Back(old) => {
            tx.delete_host(host.id).await?;
            come_back(old, host)
        }
        Standing::New | Standing::Beside(_) => {
            inherit(tx, hosts, &host, presence).await?;
            host.enrolled_at = now;
            host
        }
    };
    let word = voucher.word();
    admitted.detail = match standing {
        Standing::New | Standing::Waits(_) => word,
        Standing::Back(_) => format!("came back with a new key; {word}"),
        Standing::Beside(like) => {
            format!("{word}; host {like} says that it is the same hardware, and both are alive")
        }
    };
    admitted.state = HostState::Enrolled;
    admitted.admitted_by = Some(voucher.admission());
    voucher.spend(tx).await?;
    tx.put_host(&admitted).await?;
    Ok(admitted)
}

/// The host `old` under the key, and with the facts, that it came back with.
fn come_back(old: &HostRecord, now: HostRecord) -> HostRecord {
    HostRecord {
        key: now.key,
        next_key: None,
        site: now.site,
        rack: now.rack,
        key_storage: now.key_storage,
        identity: now.identity,
        cpu_model: now.cpu_model,
        memory_bytes: now.memory_bytes,
        address: now.address,
        ..old.clone()
    }
}

/// The record for a key that nobody knows.
fn newcomer(now: Timestamp, fresh: HostId, applicant: &Applicant) -> HostRecord {
    HostRecord {
        id: fresh,
        state: HostState::Pending,
        detail: String::new(),
        site: applicant.site.clone(),
        rack: applicant.rack.clone(),
        key_storage: applicant.key_storage.clone(),
        key: applicant.key,
        next_key: None,
        identity: applicant.identity.clone(),
        cpu_model: applicant.cpu_model.clone(),
        memory_bytes: applicant.memory_bytes,
        address: None,
        admitted_by: None,
        enrolled_at: now,
        certificate_expires_at: now,
        last_seen_at: None,
        boot: None,
        former_boots: Vec::new(),
        inventory: None,
        capacity: None,
        generation: 1,
        replaced_by: None,
    }
}

/// The operator with the API key `by` lets a host in: a pending one, or one
/// that was turned away or quarantined and is known to be good again. A silent
/// host's hardware come back with a new key is that host again, and the old
/// certificate is refused from then on; while the old one may be alive the
/// approval is kept, and takes effect when the host asks on.
///
/// # Errors
///
/// [`JudgeError::Unknown`] where there is no such host.
pub async fn approve<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    id: HostId,
    by: &str,
) -> Result<HostRecord, JudgeError> {
    let mut host = tx.host(id).await?.ok_or(JudgeError::Unknown { id })?;
    let voucher = Voucher::Operator(by.to_owned());
    match host.state {
        HostState::Enrolled => return Ok(host),
        HostState::Pending => {
            host.admitted_by = Some(voucher.admission());
            let hosts = tx.hosts().await?;
            let standing = standing(&hosts, &host, presence, now);
            return Ok(admit(tx, presence, now, &hosts, standing, host, voucher).await?);
        }
        HostState::Rejected | HostState::Quarantined => {}
    }
    host.state = HostState::Enrolled;
    host.replaced_by = None;
    host.detail = voucher.word();
    host.admitted_by = Some(voucher.admission());
    host.former_boots.clear();
    tx.put_host(&host).await?;
    Ok(host)
}

/// An operator turns a host away, or removes one that had joined. Its guests
/// are not thereby known to be gone.
///
/// # Errors
///
/// [`JudgeError::Unknown`] where there is no such host.
pub async fn reject<T: Tx>(tx: &mut T, id: HostId) -> Result<HostRecord, JudgeError> {
    let mut host = tx.host(id).await?.ok_or(JudgeError::Unknown { id })?;
    if host.state != HostState::Rejected {
        host.state = HostState::Rejected;
        "turned away by an operator".clone_into(&mut host.detail);
        tx.put_host(&host).await?;
    }
    Ok(host)
}

#[cfg(test)]
mod tests;
