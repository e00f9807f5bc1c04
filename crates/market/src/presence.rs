//! When each host last got an answer, kept in memory and written down now and
//! then, so that a sync that changes nothing writes nothing.
//!
//! What is written down is older than the truth. So after a start nobody counts
//! as silent before the process itself has listened for long enough.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::ids::{BootId, HostId};

use crate::records::HostRecord;

/// Silence after which a host counts as unreachable: twice the longest sync
/// and some time to reconnect.
pub const UNREACHABLE_AFTER: SignedDuration = SignedDuration::from_secs(120);

/// Silence that suffices where the host hung up on a request of its own: an
/// agent that lives calls again within its longest wait.
pub const HUNG_UP_FOR: SignedDuration = SignedDuration::from_secs(60);

/// What was heard of a host since this process began to listen.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// When it last called.
    at: Option<Timestamp>,
    /// Its syncs that are being held.
    open: u32,
    /// When it broke off the last of them, and has not called since.
    hung_up: Option<Timestamp>,
    /// The newest sync that was taken in.
    newest: Option<(BootId, u64)>,
}

/// Who was answered when, since this process began to listen.
#[derive(Clone, Debug)]
pub struct Presence {
    since: Timestamp,
    seen: BTreeMap<HostId, Timestamp>,
    heard: BTreeMap<HostId, Heard>,
    unwritten: BTreeMap<HostId, Timestamp>,
}

impl Presence {
    /// Since when this process listens.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Nobody seen yet.
    pub fn new(since: Timestamp) -> Self {
        Self {
            since,
            seen: BTreeMap::new(),
            heard: BTreeMap::new(),
            unwritten: BTreeMap::new(),
        }
    }

    /// `host` just called, and was answered or is about to be.
    pub fn answered(&mut self, host: HostId, now: Timestamp) {
        let heard = self.heard.entry(host).or_default();
        heard.at = heard.at.max(Some(now));
        heard.hung_up = None;
        self.let_go(host, now);
    }

    /// A sync of `host` is held from now on, until [`Presence::closed`].
    pub fn opened(&mut self, host: HostId) {
        let heard = self.heard.entry(host).or_default();
        heard.open = heard.open.saturating_add(1);
    }

    /// A sync of `host` is held no more; whether the host itself broke it off.
    pub fn closed(&mut self, host: HostId, now: Timestamp, broke_off: bool) {
        let heard = self.heard.entry(host).or_default();
        heard.open = heard.open.saturating_sub(1);
        if broke_off && heard.open == 0 {
            heard.hung_up = Some(now);
        }
    }

    /// Whether this is the newest sync of its boot so far; from now on it is.
    /// Requests do not outlive the process, so this is kept in memory alone.
    pub fn is_newest(&mut self, host: HostId, boot: BootId, seq: u64) -> bool {
        let heard = self.heard.entry(host).or_default();
        if heard
            .newest
            .is_some_and(|(of, newest)| of == boot && seq < newest)
        {
            return false;
        }
        heard.newest = Some((boot, seq));
        true
    }

    /// A held sync of `host` was answered. Nobody may be there to read it, so
    /// this delays fences and proves no life.
    pub fn let_go(&mut self, host: HostId, now: Timestamp) {
        self.seen.insert(host, now);
        self.unwritten.insert(host, now);
    }

    /// What has not been written down yet; the caller writes it.
    pub fn take_unwritten(&mut self) -> Vec<(HostId, Timestamp)> {
        std::mem::take(&mut self.unwritten).into_iter().collect()
    }

    /// When the host was last answered, as far as anybody knows.
    pub fn last_seen(&self, host: &HostRecord) -> Option<Timestamp> {
        self.seen.get(&host.id).copied().max(host.last_seen_at)
    }

    /// The latest time at which the host may have been answered: from here a
    /// fence deadline counts.
    pub fn last_possible(&self, host: &HostRecord) -> Timestamp {
        self.last_seen(host).unwrap_or(self.since).max(self.since)
    }

    /// When the host last called this process.
    pub fn last_call(&self, host: HostId) -> Option<Timestamp> {
        self.heard.get(&host).and_then(|heard| heard.at)
    }

    /// Silent for longer than a sync may take. Says nothing about its guests.
    pub fn is_unreachable(&self, host: &HostRecord, now: Timestamp) -> bool {
        let last = self.last_call(host.id);
        let last = last.unwrap_or_else(|| host.last_seen_at.unwrap_or(self.since).max(self.since));
        now.duration_since(last) > UNREACHABLE_AFTER
    }

    /// Whether another boot of the same hardware may take the host's place:
    /// it is unreachable, or hung up and did not call again.
    pub fn is_gone(&self, host: &HostRecord, now: Timestamp) -> bool {
        let hung_up = self.heard.get(&host.id).and_then(|heard| heard.hung_up);
        self.is_unreachable(host, now)
            || hung_up.is_some_and(|at| now.duration_since(at) > HUNG_UP_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{host_record, second};

    #[test]
    fn an_answer_to_a_held_sync_proves_no_life() {
        let host = host_record(1);
        let mut presence = Presence::new(second(0));
        presence.answered(host.id, second(10));
        presence.let_go(host.id, second(65));
        assert_eq!(presence.last_possible(&host), second(65));
        assert!(!presence.is_unreachable(&host, second(130)));
        assert!(presence.is_unreachable(&host, second(131)));
    }

    #[test]
    fn a_host_that_hung_up_is_gone_earlier_unless_it_calls_again() {
        let host = host_record(1);
        let mut presence = Presence::new(second(0));
        presence.answered(host.id, second(10));
        presence.opened(host.id);
        presence.closed(host.id, second(20), true);
        assert!(!presence.is_gone(&host, second(80)));
        assert!(presence.is_gone(&host, second(81)));
        presence.answered(host.id, second(81));
        assert!(!presence.is_gone(&host, second(82)));
        // A broken connection whose host has another one open.
        presence.opened(host.id);
        presence.opened(host.id);
        presence.closed(host.id, second(83), true);
        assert!(!presence.is_gone(&host, second(190)));
    }

    #[test]
    fn an_older_sync_of_the_same_boot_is_told_from_the_newest() {
        let host = host_record(1);
        let (one, two) = (BootId::from_bytes([1; 16]), BootId::from_bytes([2; 16]));
        let mut presence = Presence::new(second(0));
        assert!(presence.is_newest(host.id, one, 5));
        assert!(presence.is_newest(host.id, one, 5), "repeated");
        assert!(!presence.is_newest(host.id, one, 4));
        assert!(presence.is_newest(host.id, two, 1), "another boot");
    }
}
