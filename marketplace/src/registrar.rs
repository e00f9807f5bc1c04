//! Who gets a certificate: EST's questions, answered from the register.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use surplus_market::bounds;
use surplus_market::enrol::{self, EnrolError, RenewError};
use surplus_market::store::{Store as _, StoreError, Tx as _};
use surplus_pki::authority::{HOST_LIFETIME, IssueError};
use surplus_pki::{Certificate, CertificateRequest};
use surplus_protocol::api::HostState;
use surplus_protocol::ids::HostId;
use surplus_protocol::{Digest, Problem};

use crate::app::App;
use crate::est::{Applicant, Outcome, Registrar, Renewal, problems};
use crate::refusal::{Refusal, chain};
use crate::secret;

/// After how long a pending host shall ask again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The same for one that a token or an operator vouches for, and that waits for
/// an earlier boot of its hardware to fall silent.
const ASK_SOON: Duration = Duration::from_secs(15);

impl Registrar for App {
    fn authorities(&self) -> Vec<Certificate> {
        vec![self.authority.certificate().clone()]
    }

    async fn enrol(&self, applicant: Applicant) -> Outcome {
        self.admit(applicant).await.unwrap_or_else(Outcome::Refused)
    }

    async fn renew(&self, renewal: Renewal) -> Outcome {
        self.prolong(renewal).await.unwrap_or_else(Outcome::Refused)
    }
}

impl App {
    async fn admit(&self, applicant: Applicant) -> Result<Outcome, Problem> {
        let from = applicant.from;
        let asks = enrol::Applicant {
            key: Digest::from_sha256(applicant.request.key_fingerprint()),
            token: applicant
                .token
                .as_ref()
                .map(|token| secret::hash(token.expose_secret())),
            from,
            site: named(applicant.facts.site, "default"),
            rack: named(applicant.facts.rack, ""),
            key_storage: named(applicant.facts.key_storage, "unknown"),
            identity: bounds::identity(applicant.facts.identity),
            cpu_model: bounds::text(&applicant.facts.cpu_model),
            memory_bytes: applicant.facts.memory_bytes,
        };
        let presence = self.presence_now();
        let mut tx = self.store.begin().await.map_err(store)?;
        let entered = enrol::enrol(&mut tx, &presence, self.now(), HostId::new_v4(), &asks).await;
        let mut host = entered.map_err(|error| {
            tracing::warn!(%from, error = chain(&error), "enrolment refused");
            refuse_enrolment(error)
        })?;
        if host.state != HostState::Enrolled {
            tx.commit().await.map_err(store)?;
            tracing::info!(host = %host.id, %from, detail = host.detail, "host waits");
            let vouched_for = asks.token.is_some() || host.admitted_by.is_some();
            return Ok(Outcome::Pending {
                retry_after: if vouched_for { ASK_SOON } else { ASK_AGAIN },
                detail: format!("host {} {}", host.id, host.detail),
            });
        }
        let certificate = self
            .certify(&applicant.request, host.id)
            .map_err(unissued)?;
        host.certificate_expires_at = certificate.not_after();
        tx.put_host(&host).await.map_err(store)?;
        tx.commit().await.map_err(store)?;
        self.metrics.enrolments.inc();
        tracing::info!(host = %host.id, site = host.site, %from, detail = host.detail, "host enrolled");
        Ok(Outcome::Issued(certificate))
    }

    async fn prolong(&self, renewal: Renewal) -> Result<Outcome, Problem> {
        let id = renewal.host;
        let certificate = self.certify(&renewal.request, id).map_err(unissued)?;
        let mut tx = self.store.begin().await.map_err(store)?;
        let renewed = enrol::renew(
            &mut tx,
            id,
            Digest::from_sha256(renewal.certificate.key_fingerprint()),
            Digest::from_sha256(renewal.request.key_fingerprint()),
            certificate.not_after(),
        )
        .await;
        renewed.map_err(|error| {
            tracing::warn!(host = %id, from = %renewal.from, error = chain(&error), "renewal refused");
            refuse_renewal(error)
        })?;
        tx.commit().await.map_err(store)?;
        tracing::info!(host = %id, until = %certificate.not_after(), "certificate renewed");
        Ok(Outcome::Issued(certificate))
    }

    fn certify(&self, request: &CertificateRequest, id: HostId) -> Result<Certificate, IssueError> {
        self.authority
            .issue_host(request, &id.to_string(), self.now(), HOST_LIFETIME)
    }
}

fn unissued(error: IssueError) -> Problem {
    *Refusal::internal("issuing a certificate", &error).problem
}

/// What was said, cut to a size that a table can show.
fn named(text: String, otherwise: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if text.trim().is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

fn store(error: StoreError) -> Problem {
    *Refusal::from(error).problem
}

fn refuse_enrolment(error: EnrolError) -> Problem {
    match error {
        EnrolError::Token(refusal) => problems::token(&refusal),
        EnrolError::Rejected { id, detail } => problems::rejected(&id.to_string(), &detail),
        EnrolError::Quarantined { id, detail } => problems::quarantined(&id.to_string(), &detail),
        error @ EnrolError::Crowded { .. } => problems::crowded(&error.to_string()),
        EnrolError::Store(error) => store(error),
    }
}

fn refuse_renewal(error: RenewError) -> Problem {
    match error {
        RenewError::Unknown { id } => problems::not_registered(&id.to_string()),
        RenewError::NotEnrolled {
            id,
            state: HostState::Quarantined,
            detail,
        } => problems::quarantined(&id.to_string(), &detail),
        RenewError::NotEnrolled { id, detail, .. } => problems::rejected(&id.to_string(), &detail),
        RenewError::KeyTaken => {
            *Refusal::conflict(
                "key-taken",
                RenewError::KeyTaken,
                "make another key, or renew with the present one",
            )
            .problem
        }
        RenewError::Store(error) => store(error),
    }
}
