//! DHCP on one link, as a value: it says what to send when, and what an answer
//! means. No socket and no clock; the words are those of a [`Protocol`].
//!
//! ```text
//!             first good offer            ack
//! Selecting ───────────────────▶ Requesting ──▶ Bound ──half time──▶ Renewing ─▶ Bound
//!     ▲                                │          │                      │
//!     └──── nak, or no answer ─────────┘          └──── lease is over ◀──┘
//! ```
//!
//! A server that promised and did not keep it, or whose lease led nowhere, is
//! passed over while another one offers.
//!
//! Asking never ends. In every state an answer may bring addresses of the root;
//! a host that has an address but none of the root goes on asking for that.

use std::fmt::Debug;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::net::url::RootUrl;

/// Waiting time after each question; the last one is repeated.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 8];
/// Requests without an answer before everything starts over.
const REQUESTS: usize = 3;
/// Between questions for the root's address alone.
const FOR_ROOT: Duration = Duration::from_secs(5);
const SHORTEST_RENEWAL: Duration = Duration::from_secs(5);
/// How long offers of others count once a lease led nowhere.
const ELSEWHERE: Duration = Duration::from_secs(3);
/// Before asking again after a lease that could not be used.
const UNUSABLE: Duration = Duration::from_secs(5);
/// Servers that are remembered because they failed.
const MOST_FAILED: usize = 16;

/// How one port speaks with servers.
pub(crate) trait Protocol: Debug {
    type Lease: Lease;

    /// The conversation's number.
    fn xid(&self) -> u32;

    /// The packets of a question, so long after the first one.
    fn question(&self, question: Question<'_, Self::Lease>, elapsed: Duration) -> Vec<Vec<u8>>;

    /// Reads an answer; `None` is none of ours, or nothing that can be used.
    fn answer(&self, bytes: &[u8]) -> Option<Answer<Self::Lease>>;
}

/// An address for some time.
pub(crate) trait Lease: Clone + Debug + Eq {
    type Server: Clone + Debug + Eq;

    fn server(&self) -> &Self::Server;

    fn time(&self) -> Duration;

    fn same_address(&self, other: &Self) -> bool;
}

/// What is asked of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question<'a, L> {
    /// Who has an address, or knows where the root is?
    Search,
    /// I take this address of this server.
    Take(&'a L),
    /// I go on using this address of this server.
    Renew(&'a L),
    /// The same, of any server.
    Rebind(&'a L),
}

/// What was understood of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer<L: Lease> {
    pub(crate) kind: Kind<L>,
    pub(crate) urls: Vec<RootUrl>,
    /// Those that are known without a lease, too.
    pub(crate) name_servers: Vec<Ipv6Addr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind<L: Lease> {
    Offer(L),
    Ack(L),
    /// Of this server.
    Nak(L::Server),
    /// Without an address.
    Other,
}

/// What happened on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News<L> {
    /// There is an address now, or it is granted for longer.
    Leased(L),
    /// The address must not be used any more.
    Lost,
    /// The root is at these addresses, too.
    Urls(Vec<RootUrl>),
    NameServers(Vec<Ipv6Addr>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State<L> {
    Selecting,
    Requesting(L),
    Bound {
        lease: L,
        renew: Instant,
        end: Instant,
    },
}

/// One link's conversation with the servers on it.
#[derive(Clone, Debug)]
pub(crate) struct Client<P: Protocol> {
    protocol: P,
    state: State<P::Lease>,
    /// Questions in this state so far.
    asked: usize,
    next: Instant,
    began: Instant,
    /// Whether the root's address is asked for as well.
    wants_root: bool,
    /// Servers that failed, or whose lease led nowhere; the latest comes last.
    failed: Vec<<P::Lease as Lease>::Server>,
    /// The best offer of those while another server's is waited for.
    doubtful: Option<P::Lease>,
    /// Until when a lease of another server than the present one is taken.
    elsewhere: Option<Instant>,
}

impl<P: Protocol> Client<P> {
    pub(crate) fn new(protocol: P, wants_root: bool, now: Instant) -> Self {
        Self {
            protocol,
            state: State::Selecting,
            asked: 0,
            next: now,
            began: now,
            wants_root,
            failed: Vec::new(),
            doubtful: None,
            elsewhere: None,
        }
    }

    /// The root's address is known now.
    pub(crate) fn knows_root(&mut self) {
        self.wants_root = false;
    }

    /// The known addresses of the root do not serve: others are asked for.
    pub(crate) fn asks_for_root(&mut self, now: Instant) {
        self.wants_root = true;
        if let State::Bound { .. } = self.state {
            self.next = now;
        }
    }

    /// Nothing was reached with this lease: it is kept, but another server's is
    /// taken if there is one.
    pub(crate) fn led_nowhere(&mut self, now: Instant) {
        if let State::Bound { lease, .. } = &self.state {
            let server = lease.server().clone();
            self.failed_with(server);
            self.elsewhere = Some(now + ELSEWHERE);
            self.next = now;
        }
    }

    /// The lease could not be set: it is given up.
    pub(crate) fn unusable(&mut self, now: Instant) {
        if let State::Bound { lease, .. } = &self.state {
            let server = lease.server().clone();
            self.failed_with(server);
            self.enter(State::Selecting, now);
            self.next = now + UNUSABLE;
        }
    }

    fn failed_with(&mut self, server: <P::Lease as Lease>::Server) {
        self.failed.retain(|failed| *failed != server);
        if self.failed.len() >= MOST_FAILED {
            self.failed.remove(0);
        }
        self.failed.push(server);
    }

    /// How doubtful a lease is by its server: not at all, or the more the later that failed.
    fn doubt(&self, lease: &P::Lease) -> Option<usize> {
        let server = lease.server();
        self.failed.iter().position(|failed| failed == server)
    }

    /// When [`Client::act`] has something to do again.
    pub(crate) fn due(&self) -> Instant {
        let asks = self.wants_root || self.elsewhere.is_some_and(|until| self.next < until);
        match &self.state {
            State::Bound { renew, .. } if asks => self.next.min(*renew),
            State::Bound { renew, .. } => *renew,
            _ => self.next,
        }
    }

    /// What to send at this time, and what else this time means.
    pub(crate) fn act(&mut self, now: Instant) -> (Vec<Vec<u8>>, Option<News<P::Lease>>) {
        if now < self.due() {
            return (Vec::new(), None);
        }
        if self.state == State::Selecting
            && let Some(offer) = self.doubtful.take()
        {
            self.enter(State::Requesting(offer), now);
        }
        match self.state.clone() {
            State::Selecting => (self.ask(Question::Search, now), None),
            State::Requesting(offer) if self.asked >= REQUESTS => {
                self.failed_with(offer.server().clone());
                self.enter(State::Selecting, now);
                (self.ask(Question::Search, now), None)
            }
            State::Requesting(offer) => (self.ask(Question::Take(&offer), now), None),
            State::Bound { end, .. } if now >= end => {
                self.enter(State::Selecting, now);
                (self.ask(Question::Search, now), Some(News::Lost))
            }
            State::Bound { lease, renew, end } if now >= renew => {
                let question = match self.asked {
                    0 => Question::Renew(&lease),
                    _ => Question::Rebind(&lease),
                };
                let packets = self.packets(question, now);
                let wait = ((end - now) / 2).max(SHORTEST_RENEWAL);
                self.asked += 1;
                self.state = State::Bound {
                    lease,
                    renew: (now + wait).min(end),
                    end,
                };
                (packets, None)
            }
            State::Bound { .. } => {
                self.next = now + FOR_ROOT;
                (self.packets(Question::Search, now), None)
            }
        }
    }

    /// What an arrived packet means.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) -> Vec<News<P::Lease>> {
        let Some(answer) = self.protocol.answer(bytes) else {
            return Vec::new();
        };
        let mut news = Vec::new();
        if !answer.urls.is_empty() {
            news.push(News::Urls(answer.urls));
        }
        if !answer.name_servers.is_empty() {
            news.push(News::NameServers(answer.name_servers));
        }
        match (&self.state, answer.kind) {
            (State::Selecting, Kind::Offer(offer)) => self.consider(offer, now),
            (State::Bound { lease, .. }, Kind::Offer(offer))
                if self.elsewhere.is_some_and(|until| now < until)
                    && self.doubt(&offer) < self.doubt(lease) =>
            {
                self.enter(State::Requesting(offer), now);
            }
            (State::Requesting(offer), Kind::Ack(lease)) if lease.server() == offer.server() => {
                news.push(self.bind(lease, now));
            }
            (State::Bound { lease: old, .. }, Kind::Ack(lease)) if lease.same_address(old) => {
                news.push(self.bind(lease, now));
            }
            (State::Requesting(offer), Kind::Nak(server)) if server == *offer.server() => {
                self.failed_with(server);
                self.enter(State::Selecting, now);
                self.next = now + self.pause();
            }
            (State::Bound { lease, .. }, Kind::Nak(server)) if server == *lease.server() => {
                self.enter(State::Selecting, now);
                news.push(News::Lost);
            }
            _ => {}
        }
        news
    }

    /// Takes the offer of a server that never failed at once, any other when
    /// no better one came in time.
    fn consider(&mut self, offer: P::Lease, now: Instant) {
        let doubt = self.doubt(&offer);
        let better = |other: &P::Lease| doubt < self.doubt(other);
        if doubt.is_none() {
            self.enter(State::Requesting(offer), now);
        } else if self.doubtful.as_ref().is_none_or(better) {
            self.doubtful = Some(offer);
        }
    }

    fn bind(&mut self, lease: P::Lease, now: Instant) -> News<P::Lease> {
        let (renew, end) = (now + lease.time() / 2, now + lease.time());
        self.enter(
            State::Bound {
                lease: lease.clone(),
                renew,
                end,
            },
            now,
        );
        // A boot server beside may be a little later than the DHCP server.
        self.next = now + Duration::from_secs(1);
        News::Leased(lease)
    }

    fn enter(&mut self, state: State<P::Lease>, now: Instant) {
        self.state = state;
        self.asked = 0;
        self.next = now;
        self.doubtful = None;
        self.elsewhere = None;
    }

    fn ask(&mut self, question: Question<'_, P::Lease>, now: Instant) -> Vec<Vec<u8>> {
        let packets = self.packets(question, now);
        self.next = now + self.pause();
        self.asked += 1;
        packets
    }

    fn packets(&self, question: Question<'_, P::Lease>, now: Instant) -> Vec<Vec<u8>> {
        let elapsed = now.saturating_duration_since(self.began);
        self.protocol.question(question, elapsed)
    }

    /// Longer each time, and a little different on each host, so that a rack
    /// that is switched on does not ask in step.
    fn pause(&self) -> Duration {
        let seconds = PAUSES[self.asked.min(PAUSES.len() - 1)];
        let shift = self
            .protocol
            .xid()
            .rotate_left(u32::try_from(self.asked % 32).unwrap_or(0))
            % 256;
        Duration::from_millis(seconds * (900 + u64::from(shift)))
    }
}

#[cfg(test)]
mod tests;
