//! What the agent says on the consoles.
//!
//! Lines are written by a thread of their own: a serial console that takes its
//! time, or none, never holds the agent up. A condition that lasts is said when
//! it begins, when it changes and then every half minute ([`Repeating`]).

use std::fmt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use surplus_stage::Stage;

/// How often a condition that lasts is said again.
pub const REPEAT: Duration = Duration::from_secs(30);

/// Lines that wait for a slow console before further ones are dropped.
const BACKLOG: usize = 64;

/// Where stage lines go.
pub trait Announce: fmt::Debug + Send + Sync {
    fn say(&self, stage: Stage);
}

/// Shared handle on the place where stage lines go.
pub type Announcer = Arc<dyn Announce>;

/// Every active console, and the log.
#[derive(Debug)]
pub struct Consoles {
    queue: Option<SyncSender<Stage>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Consoles {
    pub fn open() -> std::io::Result<Self> {
        let (queue, lines) = sync_channel::<Stage>(BACKLOG);
        let writer = thread::Builder::new()
            .name("consoles".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || lines.iter().for_each(|stage| stage.announce()))?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
        })
    }
}

impl Announce for Consoles {
    fn say(&self, stage: Stage) {
        tracing::info!("{}", stage.line(surplus_stage::elapsed()));
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(stage);
        }
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Keeps lines in memory: what tests look at.
#[derive(Debug, Default)]
pub struct Recorded(Mutex<Vec<Stage>>);

impl Recorded {
    /// The lines so far, with an elapsed time of 0.
    pub fn lines(&self) -> Vec<String> {
        let stages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().map(|stage| stage.line(0.0)).collect()
    }
}

impl Announce for Recorded {
    fn say(&self, stage: Stage) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stage);
    }
}

/// Says a condition that lasts: at once when it is new, then every [`REPEAT`].
#[derive(Debug, Default)]
pub struct Repeating {
    last: Option<(Stage, Instant)>,
}

impl Repeating {
    /// Says `stage` if it is due at `now`.
    pub fn say(&mut self, to: &dyn Announce, stage: Stage, now: Instant) {
        let due = match &self.last {
            Some((last, at)) => *last != stage || now.duration_since(*at) >= REPEAT,
            None => true,
        };
        if due {
            to.say(stage.clone());
            self.last = Some((stage, now));
        }
    }

    /// The condition is over: the next one is said at once.
    pub fn clear(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_said_when_it_changes_and_every_half_minute() {
        let recorded = Recorded::default();
        let mut repeating = Repeating::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (stage, seconds) in [
            ("a", 0),
            ("a", 1),
            ("b", 2),
            ("b", 31),
            ("b", 32),
            ("b", 40),
        ] {
            repeating.say(&recorded, Stage::new(stage), at(seconds));
        }
        let names: Vec<_> = recorded
            .lines()
            .iter()
            .map(|line| line[15..16].to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "b"]);
    }
}
