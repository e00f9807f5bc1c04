//! One round after another: read the deadlines, end what is overdue.
//!
//! Whatever fails in a round is said once and tried again in the next; no round
//! fails as a whole. What was read counts until it is replaced or removed: a
//! directory that vanished, or a file that was damaged, releases no guest.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::deadline::{self, Deadline, ReadError};
use crate::guests::{Guest, Processes};
use crate::log::{Level, chain};

/// How long after its deadline a guest is killed, in milliseconds: the agent
/// ends it first, unless it cannot.
pub const MARGIN: u64 = 2000;
/// Between two signals to a guest that is not gone.
const RETRY: u64 = 200;
/// Between looks for a guest that is overdue and was not there: libvirt may
/// still be about to make it.
const OVERDUE: u64 = 1000;
/// Between reminders of a guest that does not go.
const REMIND: u64 = 60_000;

/// The guard's knowledge from round to round.
#[derive(Debug)]
pub struct Rounds {
    directory: PathBuf,
    processes: Processes,
    deadlines: BTreeMap<String, Deadline>,
    /// By placement; what is being killed.
    killing: BTreeMap<String, Killing>,
    /// What is wrong, by what it is wrong with.
    wrong: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Killing {
    reminded_at: u64,
}

/// What a round has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice(pub Level, pub String);

/// What came of a round.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub notices: Vec<Notice>,
    /// When the next one is due at the latest, in milliseconds since boot, where
    /// a deadline says so.
    pub next: Option<u64>,
}

impl Rounds {
    pub fn new(directory: impl Into<PathBuf>, processes: Processes) -> Self {
        Self {
            directory: directory.into(),
            processes,
            deadlines: BTreeMap::new(),
            killing: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// How many guests have a deadline.
    pub fn guests(&self) -> usize {
        self.deadlines.len()
    }

    /// Reads the deadlines and ends what is overdue at `now`.
    pub fn round(&mut self, now: u64) -> Outcome {
        let mut notices = Vec::new();
        let mut wrong = BTreeMap::new();
        self.read(&mut wrong);
        let mut next = None::<u64>;
        for (placement, deadline) in &self.deadlines {
            let act_at = deadline.gone_by_boot_millis.saturating_add(MARGIN);
            let wake_at = if act_at > now {
                self.killing.remove(placement);
                act_at
            } else {
                match end(&self.processes, deadline) {
                    Ok(0) => {
                        if self.killing.remove(placement).is_some() {
                            notices.push(gone(deadline, now));
                        }
                        now + OVERDUE
                    }
                    Ok(_) => {
                        notices.extend(killed(&mut self.killing, placement, deadline, now));
                        now + RETRY
                    }
                    Err(error) => {
                        let what = format!("{} is overdue and cannot be ended", deadline.domain);
                        wrong.insert(what, error.to_string());
                        now + RETRY
                    }
                }
            };
            next = Some(next.map_or(wake_at, |next| next.min(wake_at)));
        }
        notices.extend(self.say_what_is_wrong(wrong));
        Outcome { notices, next }
    }

    fn read(&mut self, wrong: &mut BTreeMap<String, String>) {
        let listed = match deadline::list(&self.directory) {
            Ok(listed) => listed,
            // Before the first guest.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.deadlines.is_empty() => {
                return;
            }
            Err(error) => {
                let what = format!("the deadlines in {}", self.directory.display());
                let known = format!("{error}; those known before count");
                wrong.insert(what, known);
                return;
            }
        };
        self.deadlines
            .retain(|placement, _| listed.contains_key(placement));
        for (placement, read) in listed {
            match read {
                Ok(deadline) => drop(self.deadlines.insert(placement, deadline)),
                Err(error) => {
                    let why = unusable(&error, self.deadlines.get(&placement));
                    wrong.insert(format!("the deadline file {placement}"), why);
                }
            }
        }
        let deadlines = &self.deadlines;
        self.killing
            .retain(|placement, _| deadlines.contains_key(placement));
    }

    /// Each once, and that it is over.
    fn say_what_is_wrong(&mut self, wrong: BTreeMap<String, String>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (what, why) in &wrong {
            if self.wrong.get(what) != Some(why) {
                notices.push(Notice(Level::Error, format!("{what}: {why}")));
            }
        }
        for what in self.wrong.keys().filter(|what| !wrong.contains_key(*what)) {
            notices.push(Notice(Level::Info, format!("{what}: mended")));
        }
        self.wrong = wrong;
        notices
    }
}

fn unusable(error: &ReadError, known: Option<&Deadline>) -> String {
    let why = chain(error);
    match known {
        Some(_) => format!("{why}; what it said before counts"),
        None => format!("{why}; it is left where it is, and guards no guest"),
    }
}

/// Kills what runs the domain; how many processes did.
fn end(processes: &Processes, deadline: &Deadline) -> io::Result<usize> {
    let guests = processes.of(&deadline.domain)?;
    let killed: Vec<_> = guests.iter().map(Guest::kill).collect();
    killed.into_iter().collect::<io::Result<()>>()?;
    Ok(guests.len())
}

fn killed(
    killing: &mut BTreeMap<String, Killing>,
    placement: &str,
    deadline: &Deadline,
    now: u64,
) -> Option<Notice> {
    let late = now.saturating_sub(deadline.gone_by_boot_millis);
    let domain = &deadline.domain;
    match killing.get_mut(placement) {
        None => {
            killing.insert(placement.to_owned(), Killing { reminded_at: now });
            let text = format!(
                "{domain} still ran {late} ms after its deadline, and is killed: is the agent at work?"
            );
            Some(Notice(Level::Warning, text))
        }
        Some(known) if now.saturating_sub(known.reminded_at) >= REMIND => {
            known.reminded_at = now;
            let text = format!(
                "{domain} was killed and is not gone {late} ms after its deadline; trying on"
            );
            Some(Notice(Level::Error, text))
        }
        Some(_) => None,
    }
}

fn gone(deadline: &Deadline, now: u64) -> Notice {
    let late = now.saturating_sub(deadline.gone_by_boot_millis);
    let text = format!("{} is gone, {late} ms after its deadline", deadline.domain);
    Notice(Level::Warning, text)
}

#[cfg(test)]
mod tests;
