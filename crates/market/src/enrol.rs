//! The register of hosts: who is in it, under which key, and who may join.
//!
//! What always holds: a host is known by its key, and one key names one host.
//! The same hardware coming back with a new key keeps its id if a token or an
//! operator says so; from then on the old key is unknown. A machine that still
//! calls is never replaced by one that claims to be it: the claimant waits
//! until the old one is silent, or calls again and so proves to be another.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::Digest;
use surplus_protocol::api::HostState;
use surplus_protocol::ids::{BootId, HostId};
use surplus_protocol::inventory::HardwareIdentity;

use crate::presence::Presence;
use crate::records::{FormerBoot, HostRecord};
use crate::store::{StoreError, Tx};
use crate::token::{self, TokenRefusal};

/// How many former boots are remembered.
const FORMER_BOOTS: usize = 16;

/// A former boot that spoke up this often is alive beside the present one. One
/// sighting may be a request that a proxy held back.
const SIGHTINGS_OF_A_LIVE_BOOT: u32 = 2;

/// Most hosts that may wait for approval.
const MAX_PENDING: usize = 1000;

/// A pending host that asks again within this time asks on.
const ASKS_ON: SignedDuration = SignedDuration::from_secs(90);

/// A call that was on its way when its machine was restarted comes no later.
const LATE_CALL: SignedDuration = SignedDuration::from_secs(5);

/// Who asks to join.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// SHA-256 of its public key.
    pub key: Digest,
    /// SHA-256 of the join token's secret, where it has one.
    pub token: Option<Digest>,
    pub from: IpAddr,
    pub site: String,
    pub key_storage: String,
    pub identity: HardwareIdentity,
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

/// Enters an applicant in the register: enrolled with a good token, else
/// pending. Asking again with the same key is harmless and spends nothing.
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
        Some(hash) => {
            let token = tx.token(hash).await?.ok_or(TokenRefusal::Unknown)?;
            Some(token::spend(&token, now, applicant.from)?)
        }
        None => None,
    };
    let entered = known.is_some();
    let mut host = known.unwrap_or_else(|| newcomer(now, fresh, applicant));
    if host
        .last_seen_at
        .is_none_or(|at| now.duration_since(at) > ASKS_ON)
    {
        host.enrolled_at = now;
    }
    host.last_seen_at = Some(now);
    host.identity.clone_from(&applicant.identity);
    let Some(token) = token else {
        host.detail = format!(
            "asked to join without a token from {}",
            applicant.from.to_canonical()
        );
        if !entered {
            let hosts = tx.hosts().await?;
            let pending = hosts.iter().filter(|host| host.state == HostState::Pending);
            let waiting = pending.count();
            if waiting >= MAX_PENDING {
                return Err(EnrolError::Crowded { waiting });
            }
        }
        return enter(tx, host, applicant).await;
    };
    let hosts = tx.hosts().await?;
    let mut admitted = match standing(&hosts, &host, presence, now) {
        Standing::Waits(old) => {
            // The token is not spent yet: it is with the admission.
            host.detail =
                format!("waits: host {old} is the same hardware and was alive a moment ago");
            return enter(tx, host, applicant).await;
        }
        Standing::Back(old) => {
            if entered {
                tx.delete_host(host.id).await?;
            }
            HostRecord {
                key: applicant.key,
                next_key: None,
                ..old.clone()
            }
        }
        Standing::New => {
            inherit(tx, &hosts, &host, presence).await?;
            host
        }
    };
    tx.put_token(&token).await?;
    admitted.state = HostState::Enrolled;
    admitted.detail = format!("joined with token {:?}", token.name);
    enter(tx, admitted, applicant).await
}

/// Writes the record down with what the applicant says of itself.
async fn enter<T: Tx>(
    tx: &mut T,
    mut host: HostRecord,
    applicant: &Applicant,
) -> Result<HostRecord, EnrolError> {
    host.site.clone_from(&applicant.site);
    host.key_storage.clone_from(&applicant.key_storage);
    tx.put_host(&host).await?;
    Ok(host)
}

/// How an applicant that a token vouches for stands to the hosts that have
/// joined.
enum Standing<'a> {
    /// A machine that nobody knows, or one beside which its like is alive.
    New,
    /// The same hardware as a host that may be alive still.
    Waits(HostId),
    /// This host, come back with another key.
    Back(&'a HostRecord),
}

fn standing<'a>(
    hosts: &'a [HostRecord],
    applicant: &HostRecord,
    presence: &Presence,
    now: Timestamp,
) -> Standing<'a> {
    let same = || {
        hosts
            .iter()
            .filter(|old| old.state == HostState::Enrolled && is_same(old, applicant))
    };
    if let Some(old) = same().find(|old| presence.is_gone(old, now)) {
        return Standing::Back(old);
    }
    // A machine that was restarted does not call under its old key again.
    let alive_beside = |old: &&HostRecord| {
        presence
            .last_call(old.id)
            .is_some_and(|at| at.duration_since(applicant.enrolled_at) > LATE_CALL)
    };
    match same().find(|old| !alive_beside(old)) {
        Some(old) => Standing::Waits(old.id),
        None => Standing::New,
    }
}

/// Notes on hosts that were turned away that `host`, now vouched for, is their
/// hardware: its first sync says that their guests are gone.
async fn inherit<T: Tx>(
    tx: &mut T,
    hosts: &[HostRecord],
    host: &HostRecord,
    presence: &Presence,
) -> Result<(), StoreError> {
    for old in hosts {
        let silent = presence
            .last_call(old.id)
            .is_none_or(|at| at <= host.enrolled_at);
        if old.state == HostState::Rejected && is_same(old, host) && silent {
            tx.put_host(&HostRecord {
                replaced_by: Some(host.id),
                ..old.clone()
            })
            .await?;
        }
    }
    Ok(())
}

/// The record for a key that nobody knows.
fn newcomer(now: Timestamp, fresh: HostId, applicant: &Applicant) -> HostRecord {
    HostRecord {
        id: fresh,
        state: HostState::Pending,
        detail: String::new(),
        site: applicant.site.clone(),
        key_storage: applicant.key_storage.clone(),
        key: applicant.key,
        next_key: None,
        identity: applicant.identity.clone(),
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

/// Whether both are one machine, as far as it says of itself. A UUID alone does
/// not tell: boards with the same one exist.
fn is_same(old: &HostRecord, host: &HostRecord) -> bool {
    let telling = host.identity.system_uuid.is_some() && !host.identity.macs.is_empty();
    telling && old.id != host.id && old.identity == host.identity
}

/// An operator lets a host in: a pending one, or one that was turned away or
/// quarantined and is known to be good again. Where it is the hardware of a
/// silent host come back with a new key, the old certificate is refused from
/// then on.
///
/// # Errors
///
/// [`JudgeError::Unknown`] where there is no such host.
pub async fn approve<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    id: HostId,
) -> Result<HostRecord, JudgeError> {
    let mut host = tx.host(id).await?.ok_or(JudgeError::Unknown { id })?;
    if host.state == HostState::Enrolled {
        return Ok(host);
    }
    if host.state == HostState::Pending {
        let hosts = tx.hosts().await?;
        inherit(tx, &hosts, &host, presence).await?;
        for mut old in hosts {
            let joined = old.state == HostState::Enrolled;
            if joined && is_same(&old, &host) && presence.is_gone(&old, now) {
                old.state = HostState::Rejected;
                old.detail = format!("its hardware came back as host {id}");
                old.replaced_by = Some(id);
                tx.put_host(&old).await?;
            }
        }
    }
    host.state = HostState::Enrolled;
    host.replaced_by = None;
    "approved by an operator".clone_into(&mut host.detail);
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

/// Whose boot a sync comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootSeen {
    /// The one that speaks for the host.
    Same,
    /// A new one: the host was restarted.
    New,
    /// One that another took over from: an old request, or a second machine.
    Former,
    /// It keeps speaking up beside the present one: two machines are alive.
    Double,
}

/// Takes in the boot id of a sync. Two boots alive under one identity
/// quarantine the host.
pub fn see_boot(host: &mut HostRecord, boot: BootId) -> BootSeen {
    if host.boot == Some(boot) {
        return BootSeen::Same;
    }
    if let Some(former) = host
        .former_boots
        .iter_mut()
        .find(|former| former.boot == boot)
    {
        former.sightings = former.sightings.saturating_add(1);
        if former.sightings < SIGHTINGS_OF_A_LIVE_BOOT {
            return BootSeen::Former;
        }
        host.state = HostState::Quarantined;
        host.detail = format!(
            "two machines are alive under this identity: boot {boot} and {}",
            host.boot
                .map_or_else(|| "none".to_owned(), |boot| boot.to_string())
        );
        return BootSeen::Double;
    }
    if let Some(old) = host.boot.replace(boot) {
        host.former_boots.push(FormerBoot {
            boot: old,
            sightings: 0,
        });
        let surplus = host.former_boots.len().saturating_sub(FORMER_BOOTS);
        host.former_boots.drain(..surplus);
    }
    host.inventory = None;
    host.capacity = None;
    BootSeen::New
}

#[cfg(test)]
mod tests;
