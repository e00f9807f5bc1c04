//! Joining the marketplace, and staying in it: EST (RFC 7030).
//!
//! ```text
//! key kept ──► ask ──► issued: kept, said, done
//!               ├────► pending: say so, ask again when told
//!               ├────► refused: say why and what next, ask again slowly
//!               ├────► not reached, not trusted: say why, ask again
//!               └────► not valid yet: set the clock by the marketplace's, ask again
//! ```
//!
//! What always holds: asking never ends; it is always the same key that asks,
//! so that no token is spent twice; the certificate that is shown is replaced
//! by half of its life, without a pause in syncing.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use surplus_https::Client;
use surplus_https::client::TimeError;
use surplus_pki::{CertificateRequest, KeyPair};
use surplus_protocol::enrol::HostFacts;
use surplus_protocol::ids::HostId;
use surplus_stage::Stage;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::clock::{self, SystemClock};
use crate::hub::{self, Enrolment, EstError, Road, about_time, explain, in_one_line};
use crate::identity::{Identity, IdentityError, Storage, StorageError};
use crate::stages::{Announce, Repeating};
use crate::status::Board;

/// How long to wait for an approval where the marketplace does not say.
const APPROVAL_WAIT: Duration = Duration::from_secs(10);

/// … and at most, whatever it says.
const LONGEST_APPROVAL_WAIT: Duration = Duration::from_secs(300);

/// Between looks at the clock while a certificate is not due for renewal.
const RENEWAL_LOOK: Duration = Duration::from_secs(60);

/// The marketplace, as far as joining needs it.
pub trait Registrar: Sync {
    fn enrol(
        &self,
        request: &CertificateRequest,
    ) -> impl Future<Output = Result<Enrolment, EstError>> + Send;

    fn time(&self) -> impl Future<Output = Result<Timestamp, TimeError>> + Send;

    /// Whether a join token is shown with each request.
    fn has_token(&self) -> bool;
}

/// The marketplace at the end of a road.
#[derive(Debug)]
pub struct Marketplace<'a> {
    pub road: &'a Road,
    pub client: Client,
    pub token: Option<&'a SecretString>,
    pub facts: &'a HostFacts,
}

impl Registrar for Marketplace<'_> {
    async fn enrol(&self, request: &CertificateRequest) -> Result<Enrolment, EstError> {
        hub::enrol(&self.client, request, self.token, self.facts).await
    }

    async fn time(&self) -> Result<Timestamp, TimeError> {
        self.road.time().await
    }

    fn has_token(&self) -> bool {
        self.token.is_some()
    }
}

/// What joining needs beside the marketplace.
#[derive(Debug)]
pub struct Means<'a> {
    pub storage: &'a dyn Storage,
    pub clock: &'a dyn SystemClock,
    /// When the image was built: no time before it is believed.
    pub floor: Timestamp,
    pub consoles: &'a dyn Announce,
    pub board: &'a Board,
    pub pace: Pace,
}

/// How the waits between tries are made.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For what may pass by itself.
    pub quick: fn() -> Backoff,
    /// For what a person has to mend.
    pub slow: fn() -> Backoff,
    /// The shortest wait for an approval, whatever the marketplace says.
    pub approval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quick: Backoff::quick,
            slow: Backoff::slow,
            approval: Duration::from_secs(1),
        }
    }
}

/// Why a host cannot even ask.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot make the host's key")]
    Key(#[from] surplus_pki::key::KeyError),
    #[error("cannot make the request for a certificate")]
    Request(#[from] surplus_pki::request::CreateError),
}

/// The identity kept from earlier in this boot, or a new one.
pub async fn identity(
    registrar: &impl Registrar,
    means: &Means<'_>,
) -> Result<Identity, EnrolError> {
    match means.storage.identity() {
        Ok(Some(identity)) => {
            say_enrolled(means, &identity, true);
            return Ok(identity);
        }
        Ok(None) => {}
        // Half a file of a killed agent: a new key and certificate mend it.
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "kept identity is of no use"
        ),
    }
    let key = match means.storage.key() {
        Ok(Some(key)) => key,
        Ok(None) | Err(StorageError::Damaged { .. }) => {
            let key = KeyPair::generate()?;
            means.storage.keep_key(&key)?;
            key
        }
        Err(error) => return Err(error.into()),
    };
    // The marketplace names the host; what the request says is not looked at.
    let request = CertificateRequest::create(&key, "new host", &[])?;
    if means.clock.now() < means.floor {
        set_clock(registrar, means).await;
    }
    Ok(ask(registrar, means, &key, &request).await)
}

async fn ask(
    registrar: &impl Registrar,
    means: &Means<'_>,
    key: &KeyPair,
    request: &CertificateRequest,
) -> Identity {
    let mut quick = (means.pace.quick)();
    let mut slow = (means.pace.slow)();
    let mut said = Repeating::default();
    loop {
        let (stage, wait) = match registrar.enrol(request).await {
            Ok(Enrolment::Issued(certificates)) => match keep(means, key, certificates) {
                Ok(identity) => {
                    say_enrolled(means, &identity, false);
                    return identity;
                }
                Err(error) => (
                    Stage::new("enrol").failed(
                        in_one_line(&error),
                        "ask the marketplace's operator; the host goes on trying",
                    ),
                    slow.wait(),
                ),
            },
            Ok(Enrolment::Pending {
                detail,
                next,
                retry_after,
            }) => {
                let waiting = detail.unwrap_or_else(|| "an operator's approval".to_owned());
                let wait = approval_wait(retry_after, means.pace.approval);
                let next = next.unwrap_or_else(|| pending_next(&waiting, registrar.has_token()));
                (
                    Stage::new("enrol")
                        .with("waiting", waiting)
                        .with("next", next),
                    wait,
                )
            }
            Err(error) => {
                if matches!(&error, EstError::Client(error) if about_time(error))
                    && set_clock(registrar, means).await
                {
                    continue;
                }
                refused(&error, &mut quick, &mut slow)
            }
        };
        means.board.update(|status| {
            status.state = "waiting to enrol".to_owned();
            status.trouble = Some(stage.line(0.0));
        });
        said.say(means.consoles, stage, Instant::now().into_std());
        tokio::time::sleep(wait).await;
    }
}

/// How long until a pending host asks again.
fn approval_wait(told: Option<Duration>, shortest: Duration) -> Duration {
    told.unwrap_or(APPROVAL_WAIT)
        .clamp(shortest, LONGEST_APPROVAL_WAIT)
}

/// What lets a pending host in. The marketplace's words name it first.
fn pending_next(waiting: &str, has_token: bool) -> String {
    if has_token {
        return "wait: the marketplace lets the host in once that is over; the host goes on asking"
            .to_owned();
    }
    let mut words = waiting.split_ascii_whitespace();
    let id = words.find(|word| word.parse::<HostId>().is_ok());
    let id = id.unwrap_or("ID");
    format!(
        "run `surplus hosts approve {id}`, or make an admission rule that fits this host; the host goes on asking"
    )
}

/// The line for a failed try, and how long to wait.
fn refused(error: &EstError, quick: &mut Backoff, slow: &mut Backoff) -> (Stage, Duration) {
    let stage = Stage::new("enrol");
    match error {
        EstError::Client(error) => {
            let (what, next) = explain(error);
            // A refusal stands until a person acts; all else may pass.
            let for_good = !error.retryable() && error.status().is_some();
            let wait = if for_good { slow.wait() } else { quick.wait() };
            (stage.failed(what, next), error.retry_after().unwrap_or(wait).max(wait))
        }
        EstError::Decode(_) => (
            stage.failed(in_one_line(error), "check that the address in the site file is the marketplace's; the host goes on trying"),
            slow.wait(),
        ),
    }
}

/// Takes the marketplace's time where ours is behind; says whether it was.
async fn set_clock(registrar: &impl Registrar, means: &Means<'_>) -> bool {
    let offered = match registrar.time().await {
        Ok(offered) => offered,
        Err(error) => {
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "the marketplace gives no time"
            );
            return false;
        }
    };
    clock::adopt(means.clock, offered, means.floor, means.consoles)
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn keep(
    means: &Means<'_>,
    key: &KeyPair,
    certificates: Vec<surplus_pki::Certificate>,
) -> Result<Identity, KeepError> {
    let identity = Identity::new(key.clone(), certificates)?;
    means.storage.keep_certificates(&identity.chain)?;
    Ok(identity)
}

fn say_enrolled(means: &Means<'_>, identity: &Identity, again: bool) {
    let stage = Stage::new("enrolled")
        .with("host", identity.host)
        .with("key", means.storage.kind())
        .with("expires", identity.certificate().not_after());
    means.consoles.say(if again {
        stage.with("kept", "true")
    } else {
        stage
    });
    means.board.update(|status| {
        status.state = "enrolled".to_owned();
        status.trouble = None;
        status.host = Some(identity.host.to_string());
        status.key_storage = Some(means.storage.kind().to_owned());
        status.certificate_expires_at = Some(identity.certificate().not_after());
    });
}

/// Who the host is, and a client that shows it.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub identity: Identity,
    pub client: Client,
}

impl Credentials {
    pub fn new(road: &Road, identity: Identity) -> Result<Self, surplus_https::client::BuildError> {
        let client = road.client_of(&identity)?;
        Ok(Self { identity, client })
    }
}

/// Renews the certificate at half of its life, for ever; every holder of the
/// channel's other end sees the new credentials at once.
pub async fn keep_renewed(
    road: &Road,
    facts: &HostFacts,
    means: &Means<'_>,
    credentials: &watch::Sender<Credentials>,
) {
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
    let mut said = Repeating::default();
    loop {
        let due = credentials.borrow().identity.renewal_due_at();
        if means.clock.now() < due {
            // In small steps: the wall clock may be set meanwhile.
            tokio::time::sleep(RENEWAL_LOOK).await;
            continue;
        }
        match renew_once(road, facts, means, credentials).await {
            Ok(renewed) => {
                tracing::info!(expires = %renewed.identity.certificate().not_after(), "certificate renewed");
                means.board.update(|status| {
                    status.certificate_expires_at =
                        Some(renewed.identity.certificate().not_after());
                });
                credentials.send_replace(renewed);
                backoff.reset();
                said.clear();
            }
            Err(error) => {
                let (what, next) = match &error {
                    RenewError::Est(EstError::Client(error)) => explain(error),
                    other => (in_one_line(other), "the host goes on trying".to_owned()),
                };
                said.say(
                    means.consoles,
                    Stage::new("renew").failed(what, next),
                    Instant::now().into_std(),
                );
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

/// Enrols the same key again whenever the register says that it does not know
/// this host (it was restored from a backup), for ever. Between two tries lies
/// a pause that grows, so that a register that goes on saying so is not flooded.
pub async fn keep_registered(
    registrar: &impl Registrar,
    road: &Road,
    means: &Means<'_>,
    stranger: &Notify,
    credentials: &watch::Sender<Credentials>,
) {
    let mut backoff = (means.pace.slow)();
    loop {
        stranger.notified().await;
        let key = credentials.borrow().identity.key.clone();
        let was = credentials.borrow().identity.host;
        let request = match CertificateRequest::create(&key, "known host", &[]) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(error = in_one_line(&error), "cannot enrol again");
                return;
            }
        };
        means.consoles.say(Stage::new("enrol").with("again", was));
        let identity = ask(registrar, means, &key, &request).await;
        let same_host = identity.host == was;
        match Credentials::new(road, identity) {
            Ok(renewed) => drop(credentials.send_replace(renewed)),
            Err(error) => tracing::error!(error = in_one_line(&error), "cannot enrol again"),
        }
        if !same_host {
            // Tickets and records are another host's from here on.
            return;
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// Why a certificate was not renewed this time.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("cannot make the request for a new certificate")]
    Request(#[from] surplus_pki::request::CreateError),
    #[error(transparent)]
    Est(#[from] EstError),
    #[error("the marketplace wants an operator to approve the renewal")]
    Pending,
    #[error("the new certificate is of no use")]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot use the new certificate")]
    Client(#[from] surplus_https::client::BuildError),
}

/// One renewal, with the key as it is.
pub async fn renew_once(
    road: &Road,
    facts: &HostFacts,
    means: &Means<'_>,
    credentials: &watch::Sender<Credentials>,
) -> Result<Credentials, RenewError> {
    let Credentials { identity, client } = credentials.borrow().clone();
    let request = CertificateRequest::renew(&identity.key, identity.certificate())?;
    let certificates = match hub::renew(&client, &request, facts).await? {
        Enrolment::Issued(certificates) => certificates,
        Enrolment::Pending { .. } => return Err(RenewError::Pending),
    };
    let identity = Identity::new(identity.key, certificates)?;
    means.storage.keep_certificates(&identity.chain)?;
    Ok(Credentials::new(road, identity)?)
}

#[cfg(test)]
mod tests;
