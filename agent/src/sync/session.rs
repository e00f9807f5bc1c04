//! What one boot's syncs carry: a pure state machine, with no clock and no I/O.
//!
//! ```text
//! request() ──► sent ──► answered()   the answer is taken in, news is old news
//!                  └──► (lost)        nothing changes; the next request says it again
//! ```
//!
//! What always holds: `seq` grows with each request; inventory and capacity go
//! up until an answer to them has come, again when they change or are asked
//! for; a request that brings news asks for its answer at once, and one that
//! says what the last answered one said may be held by the marketplace. An
//! answer that asks for tickets counts for nothing else.

use surplus_protocol::agent::{MAX_WAIT_SECONDS, SyncRequest, SyncResponse};
use surplus_protocol::ids::{BootId, Epoch, Generation, LeaseId};
use surplus_protocol::inventory::{Capacity, Inventory};
use surplus_protocol::lease::{LeaseStatus, SignedReceipt, SignedTicket, UsageRecord};

/// What the host has to say now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    pub inventory: Inventory,
    pub capacity: Capacity,
    pub leases: Vec<LeaseStatus>,
    pub usage: Vec<UsageRecord>,
    pub receipts: Vec<Receipt>,
    /// Shown where they are asked for.
    pub tickets: Vec<SignedTicket>,
}

/// A receipt with what it is for, since signing the same twice gives two texts.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub signed: SignedReceipt,
}

impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        (self.lease, self.epoch) == (other.lease, other.epoch)
    }
}

/// The syncs of one boot.
#[derive(Debug)]
pub struct Session {
    boot: BootId,
    seq: u64,
    observed: Generation,
    /// What the marketplace has, by its last answer.
    known: Option<News>,
    /// It has no inventory or capacity of ours, whatever was sent.
    wanted: bool,
    /// Tickets go up with each request, since they were once asked for.
    show: bool,
    /// The marketplace's store may be an older one than what this host was told
    /// from: nothing is known of it yet, or it has gone back.
    doubt: bool,
    /// How long the marketplace may hold a request, in seconds.
    longest_wait: u32,
}

/// A request that is under way, with what it says.
#[derive(Clone, Debug)]
pub struct Sent {
    pub request: SyncRequest,
    news: News,
}

impl Sent {
    /// The capacity that this request tells of, or that is known already.
    pub fn capacity(&self) -> &Capacity {
        &self.news.capacity
    }
}

impl Session {
    /// The syncs of this boot, numbered above `after`.
    pub fn new(boot: BootId, after: u64) -> Self {
        Self {
            boot,
            seq: after,
            observed: 0,
            known: None,
            wanted: true,
            show: false,
            doubt: true,
            longest_wait: MAX_WAIT_SECONDS,
        }
    }

    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// From now on the marketplace may hold a request for so long, in seconds.
    pub fn hold_at_most(&mut self, seconds: u32) {
        self.longest_wait = seconds.min(MAX_WAIT_SECONDS);
    }

    /// The next request.
    pub fn request(&mut self, news: News) -> Sent {
        self.seq += 1;
        let known = self.known.as_ref().filter(|_| !self.wanted);
        let inventory = known.is_none_or(|known| known.inventory != news.inventory);
        let capacity = known.is_none_or(|known| known.capacity != news.capacity);
        let told = self.known.as_ref() == Some(&news);
        let request = SyncRequest {
            boot: self.boot,
            seq: self.seq,
            observed_generation: self.observed,
            wait_seconds: if told && !self.wanted {
                self.longest_wait
            } else {
                0
            },
            inventory: inventory.then(|| news.inventory.clone()),
            capacity: capacity.then(|| news.capacity.clone()),
            leases: news.leases.clone(),
            usage: news.usage.clone(),
            receipts: news
                .receipts
                .iter()
                .map(|receipt| receipt.signed.clone())
                .collect(),
            tickets: self.show.then(|| news.tickets.clone()),
        };
        Sent { request, news }
    }

    /// Whether the answer asks for tickets, and says nothing else that counts:
    /// its orders are not to be handed on. From now on tickets are shown.
    pub fn asks_for_tickets(&mut self, sent: &Sent, answer: &SyncResponse) -> bool {
        let asks = answer.want_tickets && sent.request.tickets.is_none();
        self.doubt |= answer.generation < self.observed;
        if asks {
            self.show = true;
            // What the request said may be forgotten, too.
            self.known = None;
        }
        asks
    }

    /// Whether the marketplace may have lost what it had of this host: the first
    /// answer of an agent, and one whose generation lies behind.
    pub fn may_be_forgetful(&self, answer: &SyncResponse) -> bool {
        self.doubt || answer.generation < self.observed
    }

    /// Takes in the answer to `sent`, once its orders were handed on.
    pub fn answered(&mut self, sent: Sent, answer: &SyncResponse) {
        self.doubt = false;
        self.observed = answer.generation;
        // An answer that asks for what its request carried is not obeyed at
        // once: it would be asked for without end.
        self.wanted = answer.want_inventory && sent.request.inventory.is_none();
        self.known = Some(sent.news);
    }

    /// Whether the marketplace has `capacity` of this host.
    pub fn is_known(&self, capacity: &Capacity) -> bool {
        !self.wanted
            && self
                .known
                .as_ref()
                .is_some_and(|known| known.capacity == *capacity)
    }
}

#[cfg(test)]
mod tests {
    use newtype_uuid::GenericUuid as _;
    use proptest::prelude::*;
    use surplus_protocol::ids::HostId;

    use super::*;

    fn answer(generation: Generation, want_inventory: bool) -> SyncResponse {
        SyncResponse {
            host: HostId::from_untyped_uuid(uuid::Uuid::nil()),
            now: jiff::Timestamp::now(),
            generation,
            want_inventory,
            want_tickets: false,
            tickets: Vec::new(),
            tombstones: Vec::new(),
            usage_acknowledged: Vec::new(),
            receipts_acknowledged: Vec::new(),
        }
    }

    fn session() -> Session {
        Session::new(BootId::from_untyped_uuid(uuid::Uuid::nil()), 0)
    }

    fn news(memory_bytes: u64) -> News {
        News {
            inventory: Inventory {
                memory_bytes,
                ..Inventory::default()
            },
            ..News::default()
        }
    }

    #[test]
    fn inventory_goes_up_until_it_is_answered_and_again_when_it_changes() {
        let mut session = session();
        let lost = session.request(news(1));
        assert!(lost.request.inventory.is_some() && lost.request.wait_seconds == 0);
        let sent = session.request(news(1));
        assert!(sent.request.inventory.is_some());
        assert_eq!((sent.request.seq, sent.request.observed_generation), (2, 0));
        session.answered(sent, &answer(7, false));
        let quiet = session.request(news(1));
        assert!(quiet.request.inventory.is_none() && quiet.request.capacity.is_none());
        assert_eq!(quiet.request.observed_generation, 7);
        assert_eq!(quiet.request.wait_seconds, MAX_WAIT_SECONDS);
        let changed = session.request(news(2));
        assert!(changed.request.inventory.is_some() && changed.request.capacity.is_none());
        assert_eq!(changed.request.wait_seconds, 0);
    }

    #[test]
    fn a_marketplace_that_asks_gets_everything_and_one_that_never_stops_asking_is_not_flooded() {
        let mut session = session();
        let first = session.request(news(1));
        session.answered(first, &answer(1, false));
        let quiet = session.request(news(1));
        session.answered(quiet, &answer(1, true));
        let asked = session.request(news(1));
        assert!(asked.request.inventory.is_some() && asked.request.capacity.is_some());
        session.answered(asked, &answer(1, true));
        assert_eq!(
            session.request(news(1)).request.wait_seconds,
            MAX_WAIT_SECONDS
        );
    }

    #[test]
    fn a_first_answer_is_in_doubt_and_so_is_one_that_lies_behind() {
        let mut session = session();
        let mut answered = |generation, doubtful| {
            let answer = answer(generation, false);
            assert_eq!(session.may_be_forgetful(&answer), doubtful, "{generation}");
            let sent = session.request(news(1));
            session.answered(sent, &answer);
        };
        answered(5, true);
        answered(5, false);
        answered(6, false);
        answered(4, true);
        answered(4, false);
        // One that only asks for tickets is not forgotten either.
        let sent = session.request(news(1));
        let asks = SyncResponse {
            want_tickets: true,
            ..answer(3, false)
        };
        assert!(session.asks_for_tickets(&sent, &asks));
        assert!(session.may_be_forgetful(&answer(7, false)));
    }

    #[test]
    fn tickets_are_shown_once_they_are_asked_for_and_from_then_on() {
        let mut session = session();
        let ticket = SignedTicket("signed".to_owned());
        let news = || News {
            tickets: vec![ticket.clone()],
            ..news(1)
        };
        let first = session.request(news());
        assert_eq!(first.request.tickets, None);
        let asks = SyncResponse {
            want_tickets: true,
            ..answer(1, false)
        };
        assert!(session.asks_for_tickets(&first, &asks));
        let shown = session.request(news());
        assert_eq!(shown.request.tickets, Some(vec![ticket.clone()]));
        assert_eq!(shown.request.wait_seconds, 0, "at once");
        // One that asks on and on is answered, and obeyed otherwise.
        assert!(!session.asks_for_tickets(&shown, &asks));
        session.answered(shown, &answer(1, false));
        assert!(session.request(news()).request.tickets.is_some());
    }

    #[test]
    fn a_receipt_that_stays_unacknowledged_is_sent_again_without_haste() {
        let receipt = |text: &str| Receipt {
            lease: LeaseId::from_untyped_uuid(uuid::Uuid::nil()),
            epoch: 1,
            signed: SignedReceipt(text.to_owned()),
        };
        let mut session = session();
        let with = |text| News {
            receipts: vec![receipt(text)],
            ..news(1)
        };
        let first = session.request(with("a"));
        assert_eq!(first.request.wait_seconds, 0);
        session.answered(first, &answer(1, false));
        let again = session.request(with("b"));
        assert_eq!(again.request.receipts.len(), 1);
        assert_eq!(again.request.wait_seconds, MAX_WAIT_SECONDS);
    }

    proptest! {
        #[test]
        fn seq_only_grows_and_the_marketplace_always_ends_up_with_the_last_inventory(
            steps in prop::collection::vec((0_u64..4, any::<bool>(), any::<bool>()), 1..50),
        ) {
            let mut session = session();
            let mut held = None;
            let mut seq = 0;
            for (memory, lost, forgets) in steps {
                let sent = session.request(news(memory));
                prop_assert!(sent.request.seq > seq);
                seq = sent.request.seq;
                if lost {
                    continue;
                }
                if forgets {
                    held = None;
                }
                if let Some(inventory) = &sent.request.inventory {
                    held = Some(inventory.memory_bytes);
                }
                session.answered(sent, &answer(1, held.is_none()));
                if session.is_known(&Capacity::default()) {
                    prop_assert_eq!(held, Some(memory));
                }
            }
        }
    }
}
