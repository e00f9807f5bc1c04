//! Who vouches for a host that asks to join, whom a token or a rule has counted
//! before, and what an admission rule may vouch for.
//!
//! What always holds: a rule, which no secret stands behind, admits no machine
//! beside a live one that says the same of itself, none that an operator turned
//! away or that is quarantined, and brings back only a host that is silent and
//! whose key lives in memory, so that a new key is what a reboot must bring.

use jiff::Timestamp;
use surplus_protocol::admission::Admission;
use surplus_protocol::api::HostState;

use super::standing::{Standing, is_same};
use crate::admission::{self, RuleRefusal};
use crate::records::{AdmissionRuleRecord, HostRecord, TokenRecord};
use crate::store::{StoreError, Tx};

/// Where the key of a host lives that loses it with each reboot.
const RAM: &str = "ram";

/// Who vouches for a host.
#[derive(Debug)]
pub(super) enum Voucher {
    /// A token, once more used unless the host was counted before.
    Token(TokenRecord),
    /// The operator with this API key.
    Operator(String),
    /// A rule, once more used unless the host was counted before.
    Rule(AdmissionRuleRecord),
}

impl Voucher {
    pub(super) fn admission(&self) -> Admission {
        match self {
            Self::Token(token) => Admission::Token {
                name: token.name.clone(),
                id: Some(token.id),
            },
            Self::Operator(key) => Admission::Operator { key: key.clone() },
            Self::Rule(rule) => Admission::Rule { id: rule.id },
        }
    }

    /// What it has done.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Token(token) => format!("joined with token {:?}", token.name),
            Self::Operator(key) => format!("approved by an operator (API key {key:?})"),
            Self::Rule(rule) => {
                format!("admitted by rule {} ({})", rule.id, rule.selectors)
            }
        }
    }

    /// What it will do once the earlier boot is silent.
    pub(super) fn promise(&self) -> String {
        match self {
            Self::Token(token) => format!("joins with token {:?} then", token.name),
            Self::Operator(_) => {
                "approved by an operator, it joins when that one is silent".to_owned()
            }
            Self::Rule(rule) => format!("rule {} admits it then", rule.id),
        }
    }

    /// Writes down that it was used.
    pub(super) async fn spend<T: Tx>(&self, tx: &mut T) -> Result<(), StoreError> {
        match self {
            Self::Token(token) => tx.put_token(token).await,
            Self::Rule(rule) => tx.put_admission_rule(rule).await,
            Self::Operator(_) => Ok(()),
        }
    }
}

/// The host that one who asks is, or will be once its earlier boot is silent.
fn known<'a>(hosts: &'a [HostRecord], standing: Standing<'a>) -> Option<&'a HostRecord> {
    match standing {
        Standing::Back(old) => Some(old),
        Standing::Waits(id) => hosts.iter().find(|old| old.id == id),
        Standing::New | Standing::Beside(_) => None,
    }
}

/// Whether one who asks is a host that this token admitted, and lost its key
/// with a reboot as it must.
pub(super) fn counted(token: &TokenRecord, hosts: &[HostRecord], standing: Standing<'_>) -> bool {
    let admitted = |old: &HostRecord| match &old.admitted_by {
        Some(Admission::Token { id, .. }) => *id == Some(token.id),
        _ => false,
    };
    known(hosts, standing).is_some_and(|old| old.key_storage == RAM && admitted(old))
}

/// The rule that vouches for the host, or why none does.
pub(super) async fn by_rule<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    hosts: &[HostRecord],
    host: &HostRecord,
    standing: Standing<'_>,
) -> Result<Result<Voucher, String>, StoreError> {
    let rules = tx.admission_rules().await?;
    let known = known(hosts, standing);
    let before = match known.and_then(|old| old.admitted_by.as_ref()) {
        Some(Admission::Rule { id }) => Some(*id),
        _ => None,
    };
    let rule = match admission::spend(&rules, now, &host.asker(), before) {
        Ok(rule) => rule,
        Err(refusal) => return Ok(Err(with_likeness(&refusal, standing))),
    };
    Ok(match held_back(hosts, host, standing) {
        Some(why) => Err(format!("rule {} does not decide: {why}", rule.id)),
        None => Ok(Voucher::Rule(rule)),
    })
}

fn with_likeness(refusal: &RuleRefusal, standing: Standing<'_>) -> String {
    match standing {
        Standing::New => refusal.to_string(),
        Standing::Back(old) => {
            format!(
                "{refusal}; it says that it is host {}, which is silent",
                old.id
            )
        }
        Standing::Waits(id) | Standing::Beside(id) => {
            format!("{refusal}; it says that it is the hardware of host {id}, which is alive")
        }
    }
}

/// Why no rule may decide about this host.
fn held_back(hosts: &[HostRecord], host: &HostRecord, standing: Standing<'_>) -> Option<String> {
    let judged = hosts.iter().find(|old| match old.state {
        HostState::Quarantined => is_same(old, host),
        // Later ones of the same hardware were let in by somebody since.
        HostState::Rejected => matches!(standing, Standing::New) && is_same(old, host),
        HostState::Enrolled | HostState::Pending => false,
    });
    if let Some(old) = judged {
        let what = match old.state {
            HostState::Quarantined => "is quarantined",
            _ => "was turned away",
        };
        return Some(format!("host {} is the same hardware and {what}", old.id));
    }
    let known = |id| hosts.iter().find(|old| old.id == id);
    match standing {
        Standing::New => None,
        Standing::Beside(id) => {
            let at = known(id).and_then(|old| old.address);
            let at = at.map_or_else(String::new, |at| format!(" at {at}"));
            Some(format!(
                "host {id}{at} says that it is the same hardware, and both are alive; one may be \
                 a copy: reject this one, or approve it where two machines say the same"
            ))
        }
        Standing::Waits(id) => known(id).and_then(keeps_its_key),
        Standing::Back(old) => keeps_its_key(old),
    }
}

/// A key in a TPM or on a disk outlives a reboot: who comes without it is
/// likely another.
fn keeps_its_key(old: &HostRecord) -> Option<String> {
    (old.key_storage != RAM).then(|| {
        format!(
            "it says that it is host {}, whose key lives in {} and should not be lost",
            old.id, old.key_storage
        )
    })
}

#[cfg(test)]
mod tests;
