//! Syncing with the marketplace: status up, desired state down, for ever.
//!
//! What always holds: an order is handed on only when the marketplace's ticket
//! signer signed it for this host and this boot; an answer that is lost changes
//! nothing; when the host's own state changes while a poll is held open, the
//! poll is dropped and the news goes up at once.

pub mod fence;
pub mod lines;
pub mod session;
pub mod tickets;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use surplus_https::{Body, ClientError};
use surplus_pki::jws;
use surplus_protocol::agent::{ReceiptAck, SYNC_PATH, SyncRequest, SyncResponse, UsageAck};
use surplus_protocol::inventory::{Capacity, Inventory};
use surplus_protocol::lease::{EndReceipt, SignedReceipt};
use surplus_stage::Stage;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::clock::MarketplaceTime;
use crate::enrol::Credentials;
use crate::guests::{Desired, Guests, GuestsReport};
use crate::hub::explain;
use crate::stages::{Announcer, Repeating};
use crate::status::Board;

use fence::FenceBook;
use lines::LeaseLines;
use session::{News, Receipt, Session};
use tickets::Verifier;

/// Beyond its wait, how long a held poll may be silent.
const POLL_MARGIN: Duration = Duration::from_secs(20);

/// Between two syncs at least, however much changes.
const SHORTEST_GAP: Duration = Duration::from_millis(200);

/// How long the last sync before the agent goes may take.
const LAST_SYNC: Duration = Duration::from_secs(3);

/// The marketplace, as far as syncing needs it.
pub trait Hub: Send + Sync {
    fn sync(
        &self,
        request: &SyncRequest,
    ) -> impl Future<Output = Result<SyncResponse, ClientError>> + Send;
}

/// The marketplace, with the credentials of the moment.
#[derive(Clone, Debug)]
pub struct Marketplace(pub watch::Receiver<Credentials>);

impl Hub for Marketplace {
    async fn sync(&self, request: &SyncRequest) -> Result<SyncResponse, ClientError> {
        let client = self.0.borrow().client.clone();
        let wait = Duration::from_secs(request.wait_seconds.into());
        let body = serde_json::to_vec(request).map_err(|source| ClientError::Encode { source })?;
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json.clone());
        headers.insert(header::CONTENT_TYPE, json);
        let client = client.with_timeout(wait + POLL_MARGIN);
        let answer = client.request(Method::POST, SYNC_PATH, headers, Body::from(body));
        answer.await?.json().await
    }
}

/// The host's leases, as far as syncing needs them.
pub trait Workload: Send + Sync {
    /// Hands on what shall run and what shall stop. Tickets are verified.
    fn order(&self, desired: Desired);

    fn acknowledge(&self, usage: Vec<UsageAck>, receipts: Vec<ReceiptAck>);

    /// Says receipts again that were acknowledged: the marketplace may have lost
    /// them.
    fn recall(&self);
}

impl Workload for Guests {
    fn order(&self, desired: Desired) {
        self.set_desired(desired);
    }

    fn acknowledge(&self, usage: Vec<UsageAck>, receipts: Vec<ReceiptAck>) {
        Self::acknowledge(self, usage, receipts);
    }

    fn recall(&self) {
        Self::recall(self);
    }
}

/// The host's hardware and what is for sale, as last seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    pub inventory: Inventory,
    pub capacity: Capacity,
}

/// One host's syncing.
#[derive(Debug)]
pub struct Syncing<H, W> {
    pub hub: H,
    pub workload: W,
    pub credentials: watch::Receiver<Credentials>,
    pub verifier: Verifier,
    pub fences: FenceBook,
    pub offer: watch::Receiver<Offer>,
    /// The workload's report.
    pub report: watch::Receiver<GuestsReport>,
    pub time: MarketplaceTime,
    /// Hears that the register does not know this host.
    pub stranger: Arc<Notify>,
    pub consoles: Announcer,
    pub board: Board,
}

/// The problem of a host that the register does not hold (any more).
const NOT_REGISTERED: &str = "not-registered";

/// Why one round of syncing ended.
enum Round {
    Answered,
    /// The host has news; the poll was dropped.
    News,
    Failed(ClientError),
    Stopping,
}

impl<H: Hub, W: Workload> Syncing<H, W> {
    /// Syncs until `stop` turns true; then once more, quickly.
    pub async fn run(mut self, mut session: Session, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::quick();
        let mut slow = Backoff::slow();
        let mut said = Repeating::default();
        let mut lines = LeaseLines::default();
        let mut clock_said = false;
        loop {
            let started = Instant::now();
            match self.round(&mut session, &mut lines, &mut stop).await {
                Round::Stopping => break,
                Round::News => {}
                Round::Answered => {
                    backoff.reset();
                    slow.reset();
                    said.clear();
                    self.note_success();
                    self.say_clock(&mut clock_said);
                }
                Round::Failed(error) => {
                    if is(&error, NOT_REGISTERED) {
                        self.stranger.notify_one();
                    }
                    let for_good = !error.retryable() && error.status().is_some();
                    let own = if for_good {
                        slow.wait()
                    } else {
                        backoff.wait()
                    };
                    let wait = error.retry_after().unwrap_or(own).max(own);
                    self.note_failure(&error, &mut said);
                    if pause(wait, &mut stop).await {
                        break;
                    }
                }
            }
            let gap = SHORTEST_GAP.saturating_sub(started.elapsed());
            if pause(gap, &mut stop).await {
                break;
            }
        }
        let sent = session.request(self.news());
        let mut request = sent.request.clone();
        request.wait_seconds = 0;
        // The marketplace hears the last state if it is there to hear it.
        let _ = tokio::time::timeout(LAST_SYNC, self.hub.sync(&request)).await;
    }

    async fn round(
        &mut self,
        session: &mut Session,
        lines: &mut LeaseLines,
        stop: &mut watch::Receiver<bool>,
    ) -> Round {
        self.report.mark_unchanged();
        self.offer.mark_unchanged();
        let asked_at = crate::clock::since_boot();
        let news = self.news();
        lines.say(&news.leases, &*self.consoles);
        session.hold_at_most(self.fences.longest_wait());
        let sent = session.request(news);
        // Cancel-safe: a dropped poll leaves the session as it was, so that the
        // next request says all of this again under the next `seq`; an answer
        // that was on its way is whole in the next one (it is level-triggered).
        let answer = tokio::select! {
            answer = self.hub.sync(&sent.request) => answer,
            _ = self.report.changed(), if sent.request.wait_seconds > 0 => return Round::News,
            _ = self.offer.changed(), if sent.request.wait_seconds > 0 => return Round::News,
            _ = stop.wait_for(|stop| *stop) => return Round::Stopping,
        };
        match answer {
            Ok(answer) if session.asks_for_tickets(&sent, &answer) => {
                tracing::warn!(
                    "the marketplace does not know leases that are here (its store was restored?): \
                     their tickets are shown"
                );
                Round::Answered
            }
            Ok(answer) => {
                if session.may_be_forgetful(&answer) {
                    self.workload.recall();
                }
                self.take_in(&answer, asked_at);
                let known = session.is_known(sent.capacity());
                session.answered(sent, &answer);
                if !known {
                    self.say_offering(session);
                }
                Round::Answered
            }
            Err(error) => Round::Failed(error),
        }
    }

    fn news(&self) -> News {
        let report = self.report.borrow().clone();
        let Offer {
            inventory,
            capacity,
        } = self.offer.borrow().clone();
        let key = &self.credentials.borrow().identity.key;
        let receipts = report
            .receipts
            .iter()
            .filter_map(|receipt| sign(key, receipt))
            .collect();
        News {
            inventory,
            capacity,
            leases: report.leases,
            usage: report.usage,
            receipts,
            tickets: report.tickets,
        }
    }

    /// Hands on what the marketplace said.
    fn take_in(&mut self, answer: &SyncResponse, asked_at: Duration) {
        self.time.learn(answer.now);
        let verified = self.verifier.verify(&answer.tickets, self.time.now());
        for refused in verified.newly_refused {
            self.consoles.say(Stage::new("lease").failed(
                refused,
                "the marketplace's operator should compare its clock and its CA with this host's",
            ));
        }
        self.workload.acknowledge(
            answer.usage_acknowledged.clone(),
            answer.receipts_acknowledged.clone(),
        );
        let desired = Desired {
            tickets: verified.tickets,
            tombstones: answer.tombstones.clone(),
            ..Desired::default()
        };
        let here = self.report.borrow().leases.clone();
        self.fences.order(asked_at, desired, &here, &self.workload);
    }

    /// Says what is for sale once the marketplace has it.
    fn say_offering(&self, session: &Session) {
        let capacity = self.offer.borrow().capacity.clone();
        if !session.is_known(&capacity) {
            return;
        }
        if let Some(stage) = lines::offering(&self.offer.borrow()) {
            self.consoles.say(stage);
        }
    }

    /// Says once that the host's clock is off.
    fn say_clock(&self, said: &mut bool) {
        let off = self.time.ahead();
        if let Some(ahead) = off.filter(|_| !*said) {
            let what = format!(
                "this host's clock is {} s {} the marketplace's, by which leases are judged",
                ahead.unsigned_abs().as_secs(),
                if ahead.is_positive() {
                    "ahead of"
                } else {
                    "behind"
                }
            );
            let next =
                "set the clock in the firmware's setup, or name time servers in the site file";
            self.consoles.say(Stage::new("clock").failed(what, next));
        }
        *said = off.is_some();
    }

    fn note_success(&self) {
        let GuestsReport {
            leases, problems, ..
        } = self.report.borrow().clone();
        self.board.update(|status| {
            status.state = match leases.len() {
                0 => "syncing, no leases".to_owned(),
                count => format!("syncing, {count} leases"),
            };
            status.trouble = (!problems.is_empty()).then(|| problems.join("; "));
            status.leases = leases;
            status.last_sync_at = Some(Timestamp::now());
        });
    }

    fn note_failure(&self, error: &ClientError, said: &mut Repeating) {
        let (what, next) = explain(error);
        let stage = Stage::new("sync").failed(what, next);
        self.board
            .update(|status| status.trouble = Some(stage.line(0.0)));
        said.say(&*self.consoles, stage, Instant::now().into_std());
    }
}

/// Whether the marketplace refused with the problem of this name.
fn is(error: &ClientError, name: &str) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| problem.name() == name)
}

/// Waits, or ends early with `true` when the agent stops.
async fn pause(wait: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    // Cancel-safe: both sides only wait.
    tokio::select! {
        () = tokio::time::sleep(wait) => false,
        _ = stop.wait_for(|stop| *stop) => true,
    }
}

fn sign(key: &surplus_pki::KeyPair, receipt: &EndReceipt) -> Option<Receipt> {
    match jws::sign(key, &[], receipt) {
        Ok(text) => Some(Receipt {
            lease: receipt.lease,
            epoch: receipt.epoch,
            signed: SignedReceipt(text),
        }),
        Err(error) => {
            tracing::error!(lease = %receipt.lease, error = &error as &dyn std::error::Error, "cannot sign a receipt");
            None
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
