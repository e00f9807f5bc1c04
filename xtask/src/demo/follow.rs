//! Shows a machine's stage lines as they come, whatever else goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use surplus_tests::StageLine;
use surplus_tests::serial::SerialLog;

const GLANCE: Duration = Duration::from_millis(100);
/// A sign of life at the least this often while nothing is said.
const SILENCE: Duration = Duration::from_secs(10);

/// A thread that reads along.
#[derive(Debug)]
pub(super) struct Follower {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    /// The boot is over: silence needs no word any more.
    settled: AtomicBool,
    shown: AtomicUsize,
}

impl Follower {
    pub(super) fn start(log: PathBuf) -> Result<Self> {
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("follower".to_owned())
            .spawn(move || follow(SerialLog::new(log), &theirs))?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    /// From now on only lines are shown.
    pub(super) fn settle(&self) {
        self.state.settled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(mut log: SerialLog, state: &State) {
    let begun = Instant::now();
    let mut last = begun;
    while !state.stop.load(Ordering::Relaxed) {
        log.poll();
        let seen = state.shown.load(Ordering::Relaxed);
        for line in &log.lines()[seen..] {
            if StageLine::parse(line).is_some() {
                println!("    host │ {}", line.trim());
                last = Instant::now();
            }
        }
        state.shown.store(log.lines().len(), Ordering::Relaxed);
        if last.elapsed() >= SILENCE && !state.settled.load(Ordering::Relaxed) {
            println!(
                "    host │ … {:.0} s since power-on",
                begun.elapsed().as_secs_f64()
            );
            last = Instant::now();
        }
        std::thread::park_timeout(GLANCE);
    }
}
