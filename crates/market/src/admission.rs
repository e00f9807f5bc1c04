//! Admission rules: who may join without a token, how often and until when.
//!
//! What always holds: a rule is counted in the same transaction that enrols
//! the host, so hosts racing for its last use cannot all have it; a rule that
//! names nothing is never stored.

use jiff::Timestamp;
use surplus_protocol::admission::{
    AdmissionRule, Asker, CreateAdmissionRule, SelectorError, Selectors,
};
use surplus_protocol::ids::AdmissionRuleId;

use crate::records::AdmissionRuleRecord;
use crate::store::{StoreError, Tx};

/// Why a rule was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateRuleError {
    #[error(transparent)]
    Selectors(#[from] SelectorError),
    #[error("a rule with 0 uses admits nobody")]
    NoUses,
    #[error("the expiry {at} has passed already")]
    ExpiryPassed { at: Timestamp },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a rule that means a host does not admit it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleRefusal {
    #[error("no admission rule means it")]
    Nobody,
    #[error("admission rule {id} means it and is spent: used {used} of {uses} times")]
    Spent {
        id: AdmissionRuleId,
        used: u32,
        uses: u32,
    },
    #[error("admission rule {id} means it and expired at {at}")]
    Expired { id: AdmissionRuleId, at: Timestamp },
}

/// The rule that admits a host, once more used. A host that comes back on the
/// rule that admitted it (`before`) was counted already.
///
/// # Errors
///
/// [`RuleRefusal`] where none does.
pub fn spend(
    rules: &[AdmissionRuleRecord],
    now: Timestamp,
    host: &Asker<'_>,
    before: Option<AdmissionRuleId>,
) -> Result<AdmissionRuleRecord, RuleRefusal> {
    let mut refusal = RuleRefusal::Nobody;
    let mut admits: Option<AdmissionRuleRecord> = None;
    for rule in rules.iter().filter(|rule| rule.selectors.fit(host)) {
        let id = rule.id;
        if let Some(at) = rule.expires_at.filter(|at| *at <= now) {
            if refusal == RuleRefusal::Nobody {
                refusal = RuleRefusal::Expired { id, at };
            }
        } else if before == Some(id) {
            return Ok(rule.clone());
        } else if let Some(uses) = rule.uses.filter(|uses| rule.used >= *uses) {
            let used = rule.used;
            refusal = RuleRefusal::Spent { id, used, uses };
        } else {
            admits.get_or_insert_with(|| AdmissionRuleRecord {
                used: rule.used.saturating_add(1),
                ..rule.clone()
            });
        }
    }
    admits.ok_or(refusal)
}

/// Makes a rule, in the name of the operator with the API key `by`.
///
/// # Errors
///
/// [`CreateRuleError`] where the order makes no sense.
pub async fn create<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    id: AdmissionRuleId,
    by: &str,
    order: CreateAdmissionRule,
) -> Result<AdmissionRuleRecord, CreateRuleError> {
    let CreateAdmissionRule {
        selectors,
        uses,
        expires_at,
    } = order;
    let selectors: Selectors = selectors.checked()?;
    if uses == Some(0) {
        return Err(CreateRuleError::NoUses);
    }
    if let Some(at) = expires_at.filter(|at| *at <= now) {
        return Err(CreateRuleError::ExpiryPassed { at });
    }
    let rule = AdmissionRuleRecord {
        id,
        selectors,
        uses,
        used: 0,
        expires_at,
        created_by: by.to_owned(),
        created_at: now,
    };
    tx.put_admission_rule(&rule).await?;
    Ok(rule)
}

/// The rule as the interface shows it.
pub fn view(rule: AdmissionRuleRecord) -> AdmissionRule {
    let AdmissionRuleRecord {
        id,
        selectors,
        uses,
        used,
        expires_at,
        created_by,
        created_at,
    } = rule;
    AdmissionRule {
        id,
        selectors,
        uses,
        used,
        expires_at,
        created_by,
        created_at,
    }
}
