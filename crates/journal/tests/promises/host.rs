//! A host with a journal, and what it may expect of it.

use surplus_journal::medium::{Kept, Unsynced};
use surplus_journal::{Head, Journal, Memory, OpenError, Recovered, Settings, verify};

pub(crate) const SETTINGS: Settings = Settings {
    id: *b"a journal's id..",
    segment_bytes: 1000,
    keep: 1,
};

/// What a host does with its journal.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Append(&'static [&'static str]),
    /// Rolls, with everything as the snapshot.
    Roll,
}

/// Every way of writing, in an order in which each follows each.
pub(crate) const SCRIPT: &[Act] = &[
    Act::Append(&["a"]),
    Act::Append(&["bb", "", "d"]),
    Act::Append(&["e"]),
    Act::Roll,
    Act::Append(&["f"]),
    Act::Append(&["gg", "h"]),
    Act::Roll,
    Act::Roll,
    Act::Append(&["iii"]),
];

/// A host, with what was acknowledged to it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) memory: Memory,
    pub(crate) journal: Journal<Memory>,
    /// Everything that was acknowledged.
    pub(crate) acknowledged: Vec<String>,
    /// Batches that failed since the last success: one may be there or not.
    pub(crate) failed: Vec<Vec<String>>,
    pub(crate) head: Head,
}

impl Host {
    pub(crate) fn new(memory: &Memory) -> Result<Self, OpenError> {
        let (journal, recovered) = Journal::open(memory.clone(), SETTINGS)?;
        assert_eq!(recovered, Recovered::default(), "a new journal is empty");
        let head = journal.head();
        Ok(Self {
            memory: memory.clone(),
            journal,
            acknowledged: Vec::new(),
            failed: Vec::new(),
            head,
        })
    }

    /// Does it; whether it was acknowledged.
    pub(crate) fn act(&mut self, act: &Act) -> bool {
        let done = match act {
            Act::Append(bodies) => {
                let done = self.journal.append_all(bodies).ok();
                let bodies = bodies.iter().map(ToString::to_string);
                match done {
                    Some(_) => self.acknowledged.extend(bodies),
                    None => self.failed.push(bodies.collect()),
                }
                done
            }
            Act::Roll => self.journal.roll(&self.acknowledged).ok(),
        };
        if let Some(head) = done {
            self.failed.clear();
            self.head = head;
        }
        assert_eq!(self.journal.head(), self.head);
        done.is_some()
    }

    /// The next process opens the journal: everything acknowledged is there, and
    /// of what failed at most the first few. What it is told stays so, whatever
    /// a power cut right after takes.
    pub(crate) fn reopen(&mut self) -> Recovered {
        let (journal, recovered) = Journal::open(self.memory.clone(), SETTINGS).unwrap();
        self.journal = journal;
        assert_eq!(recovered.set_aside, [""; 0], "damage where there is none");
        assert!(recovered.entries.iter().all(|entry| entry.chained));
        let bodies = bodies(&recovered);
        let more = bodies.strip_prefix(self.acknowledged.as_slice());
        let more = more.unwrap_or_else(|| panic!("{:?} became {bodies:?}", self.acknowledged));
        let mut failed = self.failed.iter();
        let known = more.is_empty() || failed.any(|failed| failed.starts_with(more));
        assert!(known, "{more:?} of nothing");
        let head = self.journal.head();
        assert!(head.position >= self.head.position, "a position is lost");
        assert!(head.position != self.head.position || head == self.head);
        self.acknowledged = bodies;
        self.failed.clear();
        self.head = head;

        let cut = self.memory.duplicate();
        cut.power_cut(|_| Kept::Nothing);
        let (again, same) = Journal::open(cut.clone(), SETTINGS).unwrap();
        assert_eq!(same.entries, recovered.entries, "told, and then lost");
        assert_eq!(again.head(), head);
        let report = verify(&cut).unwrap();
        assert_eq!((report.findings, report.head), (Vec::new(), Some(head)));
        recovered
    }

    /// It can go on, and what it then does is kept.
    pub(crate) fn goes_on(&mut self) {
        assert!(self.act(&Act::Append(&["more"])));
        assert!(self.act(&Act::Append(&["and", "more"])));
        let before = self.acknowledged.clone();
        self.memory.power_cut(|_| Kept::Nothing);
        self.reopen();
        assert_eq!(self.acknowledged, before);
    }

    /// The same host on a copy of the disk, as the next process will find it.
    pub(crate) fn elsewhere(&self) -> Self {
        let memory = self.memory.duplicate();
        let scratch = Journal::open(Memory::new(), SETTINGS).unwrap().0;
        Self {
            memory,
            journal: scratch,
            acknowledged: self.acknowledged.clone(),
            failed: self.failed.clone(),
            head: self.head,
        }
    }
}

pub(crate) fn bodies(recovered: &Recovered) -> Vec<String> {
    let bodies = recovered.entries.iter().map(|entry| entry.body.clone());
    bodies
        .map(|body| String::from_utf8(body).unwrap())
        .collect()
}

/// Every power cut that can be: each subset of the names, and of the bytes each
/// prefix, `step` by step, with and without its last sector spoilt. Of a second
/// file with unsynced bytes all or nothing.
pub(crate) fn every_power_cut(memory: &Memory, step: usize, mut then: impl FnMut(&Memory)) {
    let (mut bytes, mut names) = (Vec::new(), 0_u32);
    memory.at_stake(|unsynced| match unsynced {
        Unsynced::Bytes { count, .. } => bytes.push(count),
        Unsynced::Name(_) => names += 1,
    });
    let mut first = vec![Kept::Nothing];
    let count = bytes.first().copied().unwrap_or(0);
    let prefixes = (1..count).step_by(step).chain([count]);
    first.extend(prefixes.flat_map(|some| [Kept::Bytes(some), Kept::Garbled(some)]));
    let second = [Kept::Nothing, Kept::All];
    for first in &first {
        for second in second.iter().take(bytes.len().max(1)) {
            for subset in 0..1_u32 << names {
                let memory = memory.duplicate();
                let (mut file, mut name) = (0, 0);
                memory.power_cut(|unsynced| match unsynced {
                    Unsynced::Bytes { .. } => {
                        file += 1;
                        if file == 1 { *first } else { *second }
                    }
                    Unsynced::Name(_) => {
                        name += 1;
                        let kept = subset >> (name - 1) & 1 == 1;
                        if kept { Kept::All } else { Kept::Nothing }
                    }
                });
                then(&memory);
            }
        }
    }
}
