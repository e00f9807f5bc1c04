//! Which ports are to be switched on, as a value.
//!
//! What always holds: a port that is off is tried again and again, but not
//! while a try is under way, for some drivers take seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::net::link::Link;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum State {
    UnderWay,
    Tried { at: Instant, error: Option<String> },
}

/// The tries so far, by the ports' names.
#[derive(Debug, Default)]
pub(super) struct Switches(BTreeMap<String, State>);

impl Switches {
    /// The ports to switch on now; they count as under way from here on.
    pub(super) fn due(&mut self, links: &[Link], now: Instant) -> Vec<String> {
        let due: Vec<_> = links
            .iter()
            .filter(|link| !link.up && self.is_due(&link.name, now))
            .map(|link| link.name.clone())
            .collect();
        for name in &due {
            self.0.insert(name.clone(), State::UnderWay);
        }
        due
    }

    fn is_due(&self, name: &str, now: Instant) -> bool {
        match self.0.get(name) {
            None => true,
            Some(State::UnderWay) => false,
            Some(State::Tried { at, .. }) => now >= *at + AGAIN,
        }
    }

    /// A try has ended.
    pub(super) fn tried(&mut self, name: String, error: Option<String>, at: Instant) {
        self.0.insert(name, State::Tried { at, error });
    }

    /// Why this port could not be switched on.
    pub(super) fn error(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(State::Tried { error, .. }) => error.as_deref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_could_not_be_switched_on_is_tried_again() {
        let now = Instant::now();
        let on = crate::net::uplink::tests::link("eth0", false);
        let off = Link {
            up: false,
            name: "eth1".into(),
            ..on.clone()
        };
        let links = [on, off];
        let mut switches = Switches::default();
        assert_eq!(switches.due(&links, now), ["eth1"]);
        // However long it takes, it is not asked for twice.
        let late = now + Duration::from_secs(60);
        assert!(switches.due(&links, late).is_empty());
        switches.tried("eth1".into(), Some("no firmware".into()), late);
        assert_eq!(switches.error("eth1"), Some("no firmware"));
        assert!(switches.due(&links, late).is_empty());
        assert_eq!(switches.due(&links, late + AGAIN), ["eth1"]);
        switches.tried("eth1".into(), None, late + AGAIN);
        assert_eq!(switches.error("eth1"), None);
    }
}
