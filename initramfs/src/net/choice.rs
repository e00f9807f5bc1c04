//! Which of the leases is in use, as a value.
//!
//! What always holds: at most one is, so that the way out is never in doubt
//! with several ports on one network. The first one wins, and stays until it is
//! lost, its cable is pulled and another one has a lease or gets one, or nothing
//! could be reached over it and the next one's turn comes.

use std::time::Instant;

use crate::net::dhcp::v4::Lease;
use crate::net::link::Link;

/// What has to be done to the links, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Remove(Link, Lease),
    Use(Link, Lease),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    link: Link,
    lease: Lease,
    end: Instant,
    /// Whether its cable is in.
    linked: bool,
}

/// The leases of all links, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    held: Vec<Held>,
    used: Option<Held>,
}

impl Choice {
    /// The link and lease in use.
    pub(crate) fn used(&self) -> Option<(&Link, &Lease)> {
        self.used.as_ref().map(|held| (&held.link, &held.lease))
    }

    pub(crate) fn leased(&mut self, link: &Link, lease: Lease, now: Instant) -> Vec<Step> {
        let held = Held {
            link: link.clone(),
            end: now + lease.time,
            lease,
            linked: true,
        };
        match self.position(link) {
            Some(at) => self.held[at] = held,
            None => self.held.push(held),
        }
        self.settle()
    }

    pub(crate) fn lost(&mut self, link: &Link) -> Vec<Step> {
        self.held.retain(|held| held.link.name != link.name);
        self.settle()
    }

    /// The cable is out: a link that has one takes over, now or when it gets a
    /// lease. Until then the lease stays in use, since most cables come back.
    pub(crate) fn unlinked(&mut self, link: &Link) -> Vec<Step> {
        if let Some(at) = self.position(link) {
            self.held[at].linked = false;
        }
        self.settle()
    }

    /// Gives up what is over at this time.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Step> {
        self.held.retain(|held| held.end > now);
        self.settle()
    }

    /// Nothing was reached over the one in use: the next one's turn.
    pub(crate) fn next(&mut self) -> Vec<Step> {
        if let Some(used) = &self.used
            && let Some(at) = self.position(&used.link)
        {
            let tried = self.held.remove(at);
            self.held.push(tried);
            self.used_is_over()
        } else {
            Vec::new()
        }
    }

    fn used_is_over(&mut self) -> Vec<Step> {
        let first = self.held.first().cloned();
        self.replace(first)
    }

    /// Keeps the one in use if it is still held, else takes the first. Those
    /// without a cable count only while there is no other.
    fn settle(&mut self) -> Vec<Step> {
        if self.held.iter().any(|held| held.linked) {
            self.held.retain(|held| held.linked);
        }
        let kept = self
            .used
            .as_ref()
            .and_then(|used| self.position(&used.link));
        let wanted = self.held.get(kept.unwrap_or(0)).cloned();
        self.replace(wanted)
    }

    fn replace(&mut self, wanted: Option<Held>) -> Vec<Step> {
        let same = match (&self.used, &wanted) {
            (Some(used), Some(wanted)) => {
                used.link.name == wanted.link.name
                    && Lease {
                        time: wanted.lease.time,
                        ..used.lease.clone()
                    } == wanted.lease
            }
            (None, None) => true,
            _ => false,
        };
        let before = std::mem::replace(&mut self.used, wanted);
        if same {
            return Vec::new();
        }
        let removed = before.map(|held| Step::Remove(held.link, held.lease));
        let taken = self.used.clone();
        removed
            .into_iter()
            .chain(taken.map(|held| Step::Use(held.link, held.lease)))
            .collect()
    }

    fn position(&self, link: &Link) -> Option<usize> {
        self.held
            .iter()
            .position(|held| held.link.name == link.name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn link(number: u8) -> Link {
        Link {
            name: format!("eth{number}"),
            index: u32::from(number) + 2,
            mac: [2, 0, 0, 0, 0, number],
            up: true,
            linked: true,
        }
    }

    fn lease(number: u8) -> Lease {
        Lease {
            address: [10, number, 0, 9].into(),
            prefix: 24,
            server: [10, number, 0, 1].into(),
            routes: Vec::new(),
            dns: Vec::new(),
            mtu: None,
            time: Duration::from_secs(60),
        }
    }

    #[test]
    fn the_first_lease_wins_and_stays() {
        let now = Instant::now();
        let mut choice = Choice::default();
        assert_eq!(
            choice.leased(&link(1), lease(1), now),
            [Step::Use(link(1), lease(1))]
        );
        assert_eq!(choice.leased(&link(0), lease(0), now), []);
        // Granted again, with another time.
        let longer = Lease {
            time: Duration::from_secs(90),
            ..lease(1)
        };
        assert_eq!(choice.leased(&link(1), longer.clone(), now), []);
        assert_eq!(choice.used(), Some((&link(1), &longer)));
        assert_eq!(
            choice.lost(&link(1)),
            [Step::Remove(link(1), longer), Step::Use(link(0), lease(0))]
        );
    }

    #[test]
    fn a_lease_over_which_nothing_was_reached_gives_way_to_the_next() {
        let now = Instant::now();
        let mut choice = Choice::default();
        choice.leased(&link(0), lease(0), now);
        assert_eq!(choice.next(), []);
        choice.leased(&link(1), lease(1), now);
        let turn = |from: u8, to: u8| {
            [
                Step::Remove(link(from), lease(from)),
                Step::Use(link(to), lease(to)),
            ]
        };
        assert_eq!(choice.next(), turn(0, 1));
        assert_eq!(choice.next(), turn(1, 0));
    }

    #[test]
    fn a_pulled_cable_costs_the_lease_only_if_there_is_another() {
        let now = Instant::now();
        let turn = [
            Step::Remove(link(0), lease(0)),
            Step::Use(link(1), lease(1)),
        ];
        let mut choice = Choice::default();
        choice.leased(&link(0), lease(0), now);
        choice.leased(&link(1), lease(1), now);
        assert_eq!(choice.unlinked(&link(0)), turn);

        // The other one's lease comes after the cable went.
        let mut choice = Choice::default();
        choice.leased(&link(0), lease(0), now);
        assert_eq!(choice.unlinked(&link(0)), []);
        assert_eq!(choice.used(), Some((&link(0), &lease(0))));
        assert_eq!(choice.leased(&link(1), lease(1), now), turn);
        assert_eq!(
            choice.expire(now + Duration::from_secs(60)),
            [Step::Remove(link(1), lease(1))]
        );
        assert_eq!(choice.used(), None);
    }

    #[test]
    fn another_address_on_the_same_link_replaces_the_old_one() {
        let now = Instant::now();
        let mut choice = Choice::default();
        choice.leased(&link(0), lease(0), now);
        assert_eq!(
            choice.leased(&link(0), lease(5), now),
            [
                Step::Remove(link(0), lease(0)),
                Step::Use(link(0), lease(5))
            ]
        );
    }

    proptest! {
        /// The steps, followed, leave one address: the one that is in use; and
        /// one is in use whenever there is one.
        #[test]
        fn the_links_have_what_is_in_use(events in prop::collection::vec((0_u8..5, 0_u8..3), 0..30)) {
            let now = Instant::now();
            let mut choice = Choice::default();
            let mut set = Vec::new();
            for (what, number) in events {
                let steps = match what {
                    0 | 1 => choice.leased(&link(number), lease(number), now),
                    2 => choice.lost(&link(number)),
                    3 => choice.unlinked(&link(number)),
                    _ => choice.next(),
                };
                for step in steps {
                    match step {
                        Step::Use(link, _) => set.push(link.name),
                        Step::Remove(link, _) => set.retain(|name| *name != link.name),
                    }
                }
                let used: Vec<_> = choice.used().map(|(link, _)| link.name.clone()).into_iter().collect();
                prop_assert_eq!(&set, &used);
                prop_assert_eq!(used.is_empty(), choice.held.is_empty());
            }
        }
    }
}
