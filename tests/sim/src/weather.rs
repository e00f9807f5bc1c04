//! What a seed's world is like, and which faults strike when.

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::clock::Millis;
use crate::host::Link;
use crate::world::{DAY, Event, HOUR, Index, MINUTE, SECOND};

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes between host and marketplace.
    Cut {
        host: Index,
        time: Millis,
    },
    /// Requests arrive, answers do not.
    Deaf {
        host: Index,
        time: Millis,
    },
    /// The agent is killed.
    Kill {
        host: Index,
    },
    /// The agent dies after so many more things that it does.
    Fuse {
        host: Index,
        left: usize,
    },
    /// The agent is stopped by a signal.
    Freeze {
        host: Index,
        time: Millis,
    },
    LibvirtAway {
        host: Index,
        time: Millis,
    },
    /// The next domain is not made, or is made and said not to be.
    Mood {
        host: Index,
        refuses: bool,
    },
    Power {
        host: Index,
        time: Millis,
    },
    /// The host's wall clock is set wrong by so many milliseconds.
    Clock {
        host: Index,
        ahead: i64,
    },
    /// The marketplace's process is gone.
    Marketplace {
        time: Millis,
    },
    /// The same, and it comes back with the store of the last backup.
    Restore {
        time: Millis,
    },
}

/// What a seed's world is like.
#[derive(Clone, Debug)]
pub struct Climate {
    pub hosts: u8,
    pub link: Link,
    /// For how long things go wrong.
    pub storm: Millis,
    /// The longest window that anybody rents.
    pub longest: Millis,
    faults: usize,
    rents: usize,
    /// From when on the marketplace is gone, for how long: the one time.
    away: Option<(Millis, Millis)>,
    /// When the store is backed up, and when it is lost and that backup takes its
    /// place.
    restored: Option<(Millis, Millis)>,
}

impl Climate {
    pub fn of(random: &mut StdRng) -> Self {
        let rough = random.random_bool(0.3);
        let most = if rough { 800 } else { 60 };
        Self {
            hosts: random.random_range(1..=5),
            link: Link {
                cut: false,
                deaf: false,
                lost: if rough {
                    random.random_range(0..200)
                } else {
                    2
                },
                doubled: if rough {
                    random.random_range(0..100)
                } else {
                    2
                },
                delay: (5, most),
            },
            storm: random.random_range(20 * MINUTE..3 * HOUR),
            longest: 3 * HOUR,
            faults: random.random_range(0..25),
            rents: random.random_range(1..14),
            away: None,
            restored: None,
        }
    }

    /// Most requests come twice, the copy often minutes later, and hosts lose
    /// their leases to each other.
    pub fn with_copies(random: &mut StdRng) -> Self {
        let climate = Self::of(random);
        let link = Link {
            doubled: 700,
            ..climate.link
        };
        Self {
            hosts: 4,
            link,
            faults: 24,
            rents: 13,
            ..climate
        }
    }

    /// Now and then the marketplace loses its store, and an older one takes its
    /// place.
    pub fn with_a_restored_store(random: &mut StdRng) -> Self {
        let climate = Self::of(random);
        let backup = random.random_range(5 * MINUTE..15 * MINUTE);
        let lost = backup + random.random_range(SECOND..HOUR);
        Self {
            storm: climate.storm.max(lost + 20 * MINUTE),
            rents: random.random_range(6..14),
            restored: Some((backup, lost)),
            ..climate
        }
    }

    /// An hour after the beginning the marketplace is gone, for seven days.
    /// Hosts have their usual troubles meanwhile.
    pub fn week_without_marketplace(random: &mut StdRng) -> Self {
        Self {
            hosts: 4,
            storm: HOUR + 7 * DAY + 2 * HOUR,
            longest: 10 * DAY,
            faults: random.random_range(0..12),
            rents: 16,
            away: Some((HOUR, 7 * DAY)),
            ..Self::of(random)
        }
    }

    pub fn is_long(&self) -> bool {
        self.storm > DAY
    }

    /// How long after the last lease's end everything must have settled.
    pub fn calm(&self) -> Millis {
        HOUR
    }

    /// Everything that comes from outside.
    pub fn plan(&self, random: &mut StdRng) -> Vec<(Millis, Event)> {
        let mut plan = Vec::new();
        let rented_until = match (self.away, self.restored) {
            (Some((until, _)), _) | (_, Some((_, until))) => until,
            _ => self.storm,
        };
        for _ in 0..self.rents {
            plan.push((random.random_range(MINUTE..rented_until), Event::Rents));
        }
        for _ in 0..self.faults {
            let at = random.random_range(MINUTE..self.storm);
            let fault = self.fault(random);
            let one_time = self.away.or(self.restored).is_some();
            if !(one_time && matches!(fault, Fault::Marketplace { .. })) {
                plan.push((at, Event::Strikes(fault)));
            }
        }
        if let Some((from, time)) = self.away {
            plan.push((from, Event::Strikes(Fault::Marketplace { time })));
        }
        if let Some((backup, lost)) = self.restored {
            let time = random.random_range(SECOND..10 * MINUTE);
            plan.push((backup, Event::BacksUp));
            plan.push((lost, Event::Strikes(Fault::Restore { time })));
        }
        plan
    }

    fn fault(&self, random: &mut StdRng) -> Fault {
        let host = random.random_range(0..usize::from(self.hosts));
        // Mostly short, now and then long.
        let time = if random.random_bool(0.7) {
            random.random_range(SECOND..3 * MINUTE)
        } else {
            random.random_range(3 * MINUTE..90 * MINUTE)
        };
        match random.random_range(0..18) {
            0..3 => Fault::Cut { host, time },
            3..5 => Fault::Deaf { host, time },
            5..7 => Fault::Kill { host },
            7..10 => Fault::Fuse {
                host,
                left: random.random_range(1..12),
            },
            10 => Fault::Freeze { host, time },
            11 => Fault::LibvirtAway { host, time },
            12 => Fault::Mood {
                host,
                refuses: random.random_bool(0.5),
            },
            13..15 => Fault::Power { host, time },
            15 => Fault::Clock {
                host,
                ahead: random.random_range(-7_200_000..7_200_000),
            },
            _ => Fault::Marketplace { time },
        }
    }
}
